//! The OpenAPI document, as a response.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The OpenAPI document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpenApiDocument(pub Value);
