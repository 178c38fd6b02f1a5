//! The release ledger: v1, v2, … Each release is immutable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AppName, DeployCause, DeployNumber, Digest, Kind, Moment, ReleaseConfig, ReleaseNumber, Role, RoleName};

/// A release: image, configuration and role settings. A release is written once and never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The app.
    pub app: AppName,
    /// The release's number.
    pub number: ReleaseNumber,
    /// The digest of the image's manifest.
    pub image: Digest,
    /// The commit that the image was built from; `None` for a pushed image.
    pub commit: Option<String>,
    /// The app's configuration when the release was made.
    pub config: ReleaseConfig,
    /// The roles, with every default filled in.
    pub roles: BTreeMap<RoleName, Role>,
    /// The deploy that made the release; the build log is stored under this number.
    pub deploy: DeployNumber,
    /// When the release was made.
    pub created: Moment,
    /// Name of the token that requested the release.
    pub by: String,
    /// Reason why the release was made.
    pub cause: DeployCause,
}

impl Release {
    /// Reports whether a role of the release receives the app's HTTP requests.
    #[must_use]
    pub fn speaks_http(&self) -> bool {
        self.web().is_some()
    }

    /// The role that receives the app's HTTP requests.
    #[must_use]
    pub fn web(&self) -> Option<(&RoleName, &Role)> {
        self.roles.iter().find(|(_, role)| role.serves_http())
    }

    /// The release step: the job that runs before the release serves.
    #[must_use]
    pub fn release_step(&self) -> Option<(&RoleName, &Role)> {
        self.roles.iter().find(|(_, role)| role.kind == Kind::Job)
    }

    /// The roles whose copies run as long as the release.
    pub fn services(&self) -> impl Iterator<Item = (&RoleName, &Role)> + Clone {
        self.roles.iter().filter(|(_, role)| role.is_service())
    }
}
