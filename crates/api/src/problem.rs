//! The error type of the API: the same over the wire and in a terminal.

use gantry_error_codes::{ErrorCode, ReceivedCode};
use serde::{Deserialize, Serialize};

/// An error response: the code, the cause, and a hint at the remedy.
///
/// Programs act on the code. The message is for people and may change at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable code.
    #[serde(default)]
    pub code: ReceivedCode,
    /// Message that names the object and the cause. Servers before the codes called this field `message`.
    #[serde(rename = "error", alias = "message")]
    pub message: String,
    /// The remedy, if there is a known remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Seconds after which the same request may succeed; also in the header `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// Creates a problem. The code determines the HTTP status.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: code.status(), code: code.into(), message: message.into(), hint: None, retry_after: None }
    }

    /// Creates a problem of Gantry itself or of its machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// Adds a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the seconds after which the same request may succeed.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_its_code_in_json_and_in_its_text() {
        let problem = Problem::new(ErrorCode::AppNotFound, "there is no app shp").hint("`gantry app ls` lists them");
        assert_eq!(problem.to_string(), "there is no app shp [E_APP_NOT_FOUND]");
        let text = serde_json::to_string(&problem).expect("JSON");
        let expected = r#"{"status":404,"code":"app_not_found","error":"there is no app shp","hint":"`gantry app ls` lists them"}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Problem>(&text).expect("a problem"), problem);
    }

    #[test]
    fn problems_of_other_versions_are_read() {
        let old: Problem =
            serde_json::from_str(r#"{"status":404,"message":"there is no app shp"}"#).expect("a problem");
        assert_eq!(old.to_string(), "there is no app shp [E_UNKNOWN]");
        let newer: Problem =
            serde_json::from_str(r#"{"status":402,"code":"quota_used_up","error":"no","more":1}"#).expect("a problem");
        assert_eq!((newer.status, newer.to_string().as_str()), (402, "no [E_QUOTA_USED_UP]"));
    }
}
