//! The one form of an error, over the wire and in a terminal.

use serde::{Deserialize, Serialize};

/// What is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// Names the thing and the reason.
    pub message: String,
    /// The remedy, if there is one to name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with a status of one's own.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hint: None }
    }

    /// With a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// 400: the request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// 404: no such thing.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    /// 409: not as things are.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, message)
    }

    /// 500: Gantry's own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }
}
