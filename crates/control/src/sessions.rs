//! Sessions that the server asks an agent to open. The agent calls back to the server for each session.

use std::collections::BTreeSet;

use gantry_api::volumes::VolumeRequest;
use gantry_model::{AllocationId, AppName, InstanceSpec, Moment, ReleaseNumber, RoleName};
use gantry_queue::JobId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::builds::{BaseOrder, BuildOrder, CacheOrder, PullOrder};

/// Kind of a session that the server asks an agent to open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SessionKind {
    /// A process in a running instance.
    Exec {
        /// The instance.
        instance: AllocationId,
        /// Program and arguments.
        command: Vec<String>,
        /// True if the process gets a terminal.
        terminal: bool,
    },
    /// A new container with the image and configuration of a release.
    Run {
        /// The app that the release belongs to.
        app: AppName,
        /// Number of the release, part of the container's name; 0 for an app without a release.
        release: ReleaseNumber,
        /// Specification of the container.
        spec: Box<InstanceSpec>,
        /// The volumes among those of the specification that no other container may have at the same time.
        #[serde(default)]
        alone: BTreeSet<String>,
        /// Program and arguments.
        command: Vec<String>,
        /// True if the process gets a terminal.
        terminal: bool,
        /// True to report which files of the image the command opens.
        #[serde(default)]
        trace: bool,
    },
    /// The log of an app.
    Logs(LogQuery),
    /// The output of a running job, until its end. The agent sends [`crate::jobs::JobLine`]s.
    JobOutput {
        /// The job.
        job: JobId,
    },
    /// Work on volumes.
    Volumes {
        /// The work.
        request: VolumeRequest,
    },
    /// A build. The agent sends [`crate::builds::BuildEvent`]s.
    Build(BuildOrder),
    /// The making of a base image. The agent sends [`crate::builds::BuildEvent`]s.
    Base(BaseOrder),
    /// A pull from another registry. The agent sends [`crate::builds::BuildEvent`]s.
    Pull(PullOrder),
    /// The disk usage of the machine. The agent sends a map of bytes by kind of data, as JSON.
    Space,
    /// A change to the build caches of the machine.
    Cache(CacheOrder),
}

/// Filter of log lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// The app.
    pub app: Option<AppName>,
    /// Only lines of this role.
    #[serde(default)]
    pub role: Option<RoleName>,
    /// Only the newest lines, up to this number.
    #[serde(default)]
    pub lines: Option<usize>,
    /// Only lines since this time.
    #[serde(default)]
    pub since: Option<Moment>,
    /// Only lines with this text.
    #[serde(default)]
    pub grep: Option<String>,
    /// True to follow new lines.
    #[serde(default)]
    pub follow: bool,
    /// Only lines of later releases: lines up to this release are those of an earlier app of the name. Agents of earlier
    /// versions do not know the field, and the server leaves the lines out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ReleaseNumber>,
}

impl LogQuery {
    /// Reports whether the lines of an allocation are wanted.
    #[must_use]
    pub fn includes(&self, id: &AllocationId) -> bool {
        self.after.is_none_or(|after| id.slot.release > after)
            && self.role.as_ref().is_none_or(|role| *role == id.slot.role)
    }
}

/// A request to an agent: open a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Id of the session.
    pub id: String,
    /// Kind of the session.
    #[serde(rename = "what")]
    pub kind: SessionKind,
}

/// A request that this version cannot read: it names a kind, a field or a value of a newer version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this machine's agent cannot read the request for a session of kind {kind:?}: {reason}; update the machine")]
pub struct UnreadSession {
    /// Id of the session; none if the request lacks the id.
    pub id: Option<String>,
    /// Kind of the session, for people; empty if the request lacks the kind.
    pub kind: String,
    /// The reason.
    pub reason: String,
}

impl SessionRequest {
    /// Reads a request from a message.
    ///
    /// # Errors
    /// [`UnreadSession`], with the id under which the agent can refuse the session.
    pub fn read(request: Value) -> Result<Self, UnreadSession> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (id, kind) = (text(&request["id"]), text(&request["what"]["kind"]).unwrap_or_default());
        serde_json::from_value(request).map_err(|error| UnreadSession { id, kind, reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_requests_that_lack_or_add_fields() {
        let lean = json!({"id": "a", "what": {"kind": "logs", "app": "shop"}});
        let SessionRequest { id, kind: SessionKind::Logs(query) } = SessionRequest::read(lean).expect("read") else {
            panic!("another kind");
        };
        assert_eq!((id.as_str(), query.app, query.follow), ("a", AppName::parse("shop").ok(), false));
        let rich = json!({"id": "a", "zone": "b", "what": {"kind": "space", "unit": "blocks"}});
        assert!(matches!(SessionRequest::read(rich).expect("read").kind, SessionKind::Space));
    }

    #[test]
    fn a_log_query_includes_a_role_and_the_releases_after_a_number() {
        let query = |role: Option<&str>, after: Option<u64>| {
            let role = role.map(|role| RoleName::parse(role).expect("a role"));
            LogQuery { role, after: after.map(ReleaseNumber), ..LogQuery::default() }
        };
        let id = AllocationId::parse("shop.v3.web-1").expect("an id");
        for (query, included) in [
            (query(None, None), true),
            (query(None, Some(2)), true),
            (query(None, Some(3)), false),
            (query(Some("web"), Some(2)), true),
            (query(Some("worker"), Some(2)), false),
        ] {
            assert_eq!(query.includes(&id), included, "{query:?}");
        }
    }

    #[test]
    fn names_the_session_that_cannot_be_read() {
        for (request, id, kind) in [
            (json!({"id": "a", "what": {"kind": "teleport", "to": "m2"}}), Some("a"), "teleport"),
            (json!({"id": "a", "what": {"kind": "cache", "action": "polish", "app": "shop"}}), Some("a"), "cache"),
            (json!({"id": "a", "what": {"kind": "exec"}}), Some("a"), "exec"),
            (json!({"id": "a"}), Some("a"), ""),
            (json!({"id": 7, "what": {"kind": "space"}}), None, "space"),
            (json!("nonsense"), None, ""),
        ] {
            let unread = SessionRequest::read(request.clone()).expect_err("unread");
            assert_eq!((unread.id.as_deref(), unread.kind.as_str()), (id, kind), "{request}");
            assert!(!unread.reason.is_empty(), "{request}");
        }
    }
}
