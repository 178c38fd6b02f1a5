//! Explanations: the cause of a state.

use serde::{Deserialize, Serialize};

use super::CauseCode;

/// Response of `GET /v1/…/why`: the cause of a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Stable code of the cause.
    pub code: CauseCode,
    /// The object that the cause is about, which may be a part of the object of the question.
    pub object: CauseObject,
    /// The cause, for people.
    pub cause: String,
    /// The remedy, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The object of the question, for people.
    pub subject: String,
    /// Cause, remedy and circumstances in one sentence, for people.
    pub headline: String,
    /// The facts behind the headline, for people.
    pub evidence: Vec<String>,
}

/// The object that a cause is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseObject {
    /// Kind of the object.
    pub kind: ObjectKind,
    /// Name of the object; the number of a deploy.
    pub name: String,
}

impl CauseObject {
    /// Names an object.
    pub fn new(kind: ObjectKind, name: impl ToString) -> Self {
        Self { kind, name: name.to_string() }
    }
}

/// Kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// An app.
    App,
    /// A deploy of the app in question.
    Deploy,
    /// An instance.
    Instance,
    /// A machine.
    Machine,
    /// A role of the app in question.
    Role,
    /// The cluster.
    Cluster,
    /// A kind that a newer server knows.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_the_explanation_of_a_newer_server() {
        let text = r#"{"code":"moon_rose","object":{"kind":"sky","name":"x"},"cause":"the moon rose","phase":"full",
            "subject":"app shop","headline":"the moon rose","evidence":[]}"#;
        let read: Explanation = serde_json::from_str(text).expect("read");
        assert_eq!((read.code, read.object.kind), (CauseCode::Unknown, ObjectKind::Unknown));
        assert_eq!((read.remedy, read.headline.as_str()), (None, "the moon rose"));
    }
}
