//! Logs and sessions.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{AllocationId, AppName, MachineName, Moment, ReleaseNumber, RoleName, VolumeName};
use serde::{Deserialize, Serialize};

use crate::volumes::VolumeRequest;

/// Body of `POST /v1/apps/{app}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartExec {
    /// The instance as `web-1` or by its full name; the first running instance by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// True if the process gets a terminal.
    #[serde(default)]
    pub terminal: bool,
}

/// Body of `POST /v1/apps/{app}/run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRun {
    /// Program and arguments.
    pub command: Vec<String>,
    /// True if the process gets a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Volumes of the container, each with its path. Without a path, the volume is where the release's role has it.
    #[serde(default)]
    pub volumes: BTreeMap<VolumeName, Option<String>>,
}

/// Kind of a session that the server asks an agent to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
        /// Number of the release, part of the container's name.
        release: ReleaseNumber,
        /// Specification of the container.
        spec: std::boxed::Box<gantry_model::InstanceSpec>,
        /// The volumes among those of the specification that no other container may have at the same time.
        #[serde(default)]
        alone: BTreeSet<String>,
        /// Program and arguments.
        command: Vec<String>,
        /// True if the process gets a terminal.
        terminal: bool,
    },
    /// The log of an app.
    Logs(LogQuery),
    /// The output of a running job, until its end. The agent sends [`crate::jobs::JobLine`]s.
    JobOutput {
        /// The job.
        job: gantry_queue::JobId,
    },
    /// Work on volumes.
    Volumes {
        /// The work.
        request: VolumeRequest,
    },
    /// A build. The agent sends [`crate::builds::BuildEvent`]s.
    Build(crate::builds::BuildOrder),
    /// The making of a base image. The agent sends [`crate::builds::BuildEvent`]s.
    Base(crate::builds::BaseOrder),
    /// A pull from another registry. The agent sends [`crate::builds::BuildEvent`]s.
    Pull(crate::builds::PullOrder),
    /// The disk usage of the machine. The agent sends a map of bytes by kind of data, as JSON.
    Space,
    /// A change to the build caches of the machine.
    Cache(crate::builds::CacheOrder),
}

/// Filter of log lines.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Time of the line.
    pub at: Moment,
    /// The instance that wrote the line.
    pub instance: AllocationId,
    /// True if the line came from standard error.
    pub error: bool,
    /// Text of the line.
    pub text: String,
}

/// An item of an app's log: a line, or a machine whose lines are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogItem {
    /// A line.
    Line(LogLine),
    /// A machine whose lines are missing, or are missing from here on.
    Unreachable(UnreachableMachine),
}

/// A machine that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreachableMachine {
    /// The machine.
    pub machine: MachineName,
    /// Reason why the machine could not be asked.
    pub reason: String,
}

impl UnreachableMachine {
    /// A machine whose agent does not report.
    #[must_use]
    pub fn silent(machine: MachineName) -> Self {
        let reason =
            format!("the agent of machine {machine} does not report; `gantry machine show {machine}` says since when");
        Self { machine, reason }
    }
}

/// A request to an agent: open a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Id of the session.
    pub id: String,
    /// Kind of the session.
    #[serde(rename = "what")]
    pub kind: SessionKind,
}
