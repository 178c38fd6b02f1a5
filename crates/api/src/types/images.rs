//! Bases, and images of other registries.

use gantry_model::{BaseName, Digest, Moment};
use serde::{Deserialize, Serialize};

use crate::Problem;

/// A base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseInfo {
    /// Name of the base image.
    pub name: BaseName,
    /// Manifest of the image.
    pub image: Digest,
    /// Sources of the base image, such as `bookworm with 8 packages`.
    pub from: String,
    /// Time of creation.
    pub created: Moment,
}

/// A stack: a base with a well-known recipe, for code that is uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackInfo {
    /// Name of the stack, and of its base.
    pub name: BaseName,
    /// Purpose of the stack.
    pub about: String,
    /// Debian packages of the stack.
    pub packages: Vec<String>,
    /// The base of this name; none until the stack is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseInfo>,
}

/// Body of `POST /v1/apps/{app}/pull` and `/v1/bases/{name}/pull`, which copy an image of another registry into this
/// registry.
#[derive(Clone, Serialize, Deserialize)]
pub struct PullImage {
    /// Reference of the image: `registry.example/team/shop:1.2`.
    pub reference: String,
    /// User name at the other registry, if the registry wants a login. Gantry uses the credentials once and does not
    /// store them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password or token at the other registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// A progress event while the server makes a base image or pulls an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ImageProgress {
    /// A line of output.
    Line {
        /// Text of the line.
        text: String,
    },
    /// The last event: the base image is complete.
    Base {
        /// The base image.
        base: BaseInfo,
    },
    /// The last event: the image is complete.
    Image {
        /// Reference of the image in this registry: `shop@sha256:…`.
        reference: String,
    },
    /// The last event: the operation failed.
    Failed {
        /// Cause of the failure.
        problem: Problem,
    },
}
