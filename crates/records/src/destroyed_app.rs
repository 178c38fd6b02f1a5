//! Records of destroyed apps.

use gantry_model::{AppName, Moment};
use serde::{Deserialize, Serialize};

/// The last numbers of a destroyed app. Release numbers of the next app of the name begin above, so that no allocation
/// id repeats while a log, a folder or a report of the destroyed app may be left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyedApp {
    /// The app.
    pub app: AppName,
    /// Time at which the app's records were removed.
    pub at: Moment,
    /// The app's highest release number; 0 if the app had no release.
    pub last_release: u64,
}

/// Returns the key of the record of a destroyed app.
#[must_use]
pub fn destroyed_key(app: &AppName) -> String {
    format!("destroyed-apps/{app}")
}
