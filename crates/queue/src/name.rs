//! Names and numbers of jobs, queues and schedules.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use gantry_model::AppName;
use serde::{Deserialize, Serialize};

/// Number of a job. A number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        text.parse().map(Self).map_err(|_| InvalidJobId { text: text.chars().take(200).collect() })
    }
}

/// A text is no number of a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the number of a job; write for example 42")]
pub struct InvalidJobId {
    text: String,
}

/// Fencing token of a lease. Each lease of a job has a higher token than all leases of the job before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

/// Name of a code: what a job runs. The code of an app is one of the app's roles.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CodeName(Arc<str>);

/// A text is not the name of a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a code: use 1 to 63 of a-z, 0-9 and '-', beginning with a letter or a digit")]
pub struct InvalidCodeName(String);

impl CodeName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CodeName {
    type Err = InvalidCodeName;

    fn from_str(text: &str) -> Result<Self, InvalidCodeName> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let valid = (1..=63).contains(&text.len()) && !text.starts_with('-') && text.chars().all(allowed);
        if valid { Ok(Self(text.into())) } else { Err(InvalidCodeName(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for CodeName {
    type Error = InvalidCodeName;

    fn try_from(text: String) -> Result<Self, InvalidCodeName> {
        text.parse()
    }
}

impl From<CodeName> for String {
    fn from(name: CodeName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for CodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A queue: the jobs of one code of one project. A project is an app, or a repository of the registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueName {
    /// The project.
    pub project: AppName,
    /// The code.
    pub code: CodeName,
}

/// A text is no name of a queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a queue; write APP/ROLE, such as shop/report")]
pub struct InvalidQueueName {
    text: String,
}

impl FromStr for QueueName {
    type Err = InvalidQueueName;

    fn from_str(text: &str) -> Result<Self, InvalidQueueName> {
        let parsed = text.split_once('/').and_then(|(project, code)| {
            Some(Self { project: AppName::parse(project).ok()?, code: code.parse().ok()? })
        });
        parsed.ok_or_else(|| InvalidQueueName { text: text.chars().take(200).collect() })
    }
}

/// Name of a schedule: the project whose jobs it queues, and a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScheduleName {
    /// The project.
    pub project: AppName,
    /// The name. The schedule of a role has the role's name.
    pub name: CodeName,
}

/// A text is no name of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a schedule; write APP/NAME, such as shop/nightly")]
pub struct InvalidScheduleName {
    text: String,
}

impl FromStr for ScheduleName {
    type Err = InvalidScheduleName;

    fn from_str(text: &str) -> Result<Self, InvalidScheduleName> {
        let parsed = text.parse().map(|QueueName { project, code }| Self { project, name: code });
        parsed.map_err(|InvalidQueueName { text }| InvalidScheduleName { text })
    }
}

impl fmt::Display for ScheduleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.name)
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.code)
    }
}
