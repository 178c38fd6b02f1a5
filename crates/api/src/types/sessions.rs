//! Logs and sessions.

use std::collections::BTreeMap;

use gantry_model::{AllocationId, MachineName, Moment, VolumeName};
use serde::{Deserialize, Serialize};

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
    /// Image of Gantry's registry that takes the place of the release's image. A run of such an image gets no volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// True to report which files of the image the command opens. The session answers with an
    /// [`OpensReport`](super::OpensReport) as JSON.
    #[serde(default)]
    pub trace: bool,
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
