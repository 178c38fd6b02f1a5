//! Logs of an app, and processes in its containers.

use gantry_model::{AppName, Moment, RoleName};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, Lines, NoBody, QueryParameters, SessionStart, endpoints};
use crate::types::{LogItem, StartExec, StartRun};

/// Query of a log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogsQuery {
    /// Only lines of this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// Only the newest lines, up to this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<usize>,
    /// Only lines since this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// Only lines with this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
    /// True to follow new lines.
    #[serde(default)]
    pub follow: bool,
}

impl QueryParameters for LogsQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[
        ("role", "only lines of this role"),
        ("lines", "only the newest lines, up to this number"),
        ("since", "only lines since this time, in Unix milliseconds"),
        ("grep", "only lines with this text"),
        ("follow", "`true` to follow new lines"),
    ];
}

endpoints! {
    /// Stream the log of an app
    Logs { app: AppName }: GET "/v1/apps/{app}/logs" ? LogsQuery, Read, NoBody => Lines<LogItem>,
        [AppNotFound, AppBeingDestroyed];
    /// A process in an instance
    Exec { app: AppName }: POST "/v1/apps/{app}/exec", Deploy, Json<StartExec> => SessionStart,
        [AppNotFound, AppBeingDestroyed, InstanceNotFound, SessionRequired];
    /// A container of its own
    Run { app: AppName }: POST "/v1/apps/{app}/run", Deploy, Json<StartRun> => SessionStart,
        [AppNotFound, AppBeingDestroyed, NoRelease, ReleaseNotFound, RoleNotFound, InvalidVolume, VolumeAmbiguous, SessionRequired,
            ImageNotFound, InvalidDigest, PlatformMissing];
}
