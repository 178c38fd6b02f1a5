//! Images of the registry.

use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, NoBody, QueryParameters, endpoints};
use crate::types::ImageReport;

/// Query of a report.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReportQuery {
    /// The image: `repository:tag` or `repository@digest`.
    #[serde(default)]
    pub reference: String,
}

impl QueryParameters for ReportQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] =
        &[("reference", "the image: `repository:tag` or `repository@digest`")];
}

endpoints! {
    /// Sizes of an image by layer, and what could be left out of it
    Report: GET "/v1/images/report" ? ReportQuery, ReadOfObject, NoBody => Json<ImageReport>,
        [ImageNotFound, InvalidDigest, PlatformMissing, ImageUnusable];
}
