//! The phases of a build.

use serde::{Deserialize, Serialize};

/// The phase of a build that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildPhase {
    /// Reading the source tree.
    Source,
    /// Reading the roles.
    Roles,
    /// The base image.
    Base,
    /// `container/compile`.
    Compile,
    /// The image, old or new.
    Image,
    /// The configuration values that the app requires.
    Configuration,
    /// The environment and the arguments of a role.
    Environment,
    /// The disk.
    Space,
    /// The machine that runs the build, or its agent.
    Machine,
}

impl BuildPhase {
    /// The name in records and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Roles => "roles",
            Self::Base => "base",
            Self::Compile => "compile",
            Self::Image => "image",
            Self::Configuration => "configuration",
            Self::Environment => "environment",
            Self::Space => "space",
            Self::Machine => "machine",
        }
    }
}
