//! The audit trail.

use gantry_model::{AppName, AuditAction, Moment};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An event of the audit trail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Number of the event. Consecutive events have consecutive numbers.
    pub number: u64,
    /// Time of the event.
    pub at: Moment,
    /// Type of the event, such as `deploy_requested`; `None` for an event that an older version recorded.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The object of the event.
    pub subject: EventSubject,
    /// The actor: the name of a token, or `gantry`.
    pub actor: String,
    /// The facts of the event.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
    /// The event, for people.
    pub text: String,
}

impl AuditEvent {
    /// Describes an event. `action` is none for an event that an older version recorded.
    #[must_use]
    pub fn new(
        number: u64,
        at: Moment,
        actor: String,
        app: Option<&AppName>,
        action: Option<&AuditAction>,
        text: String,
    ) -> Self {
        let (kind, fields) = action.map(facts).unwrap_or_default();
        Self { number, at, kind, subject: EventSubject::of(app, action), actor, fields, text }
    }
}

/// The object of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSubject {
    /// Kind of the object.
    pub kind: SubjectKind,
    /// Name of the object.
    pub name: String,
}

/// Kind of an event's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// An app.
    App,
    /// A base.
    Base,
    /// A machine.
    Machine,
    /// A repository of the registry.
    Repository,
    /// A token.
    Token,
    /// The cluster.
    Cluster,
    /// A kind that a newer server knows.
    #[serde(other)]
    Unknown,
}

impl EventSubject {
    /// The object of an action: its app, or what the action names.
    fn of(app: Option<&AppName>, action: Option<&AuditAction>) -> Self {
        let (kind, name) = match (app, action) {
            (Some(app), _) => (SubjectKind::App, app.as_str()),
            (None, Some(AuditAction::BaseStored { base, .. } | AuditAction::BaseRemoved { base })) => {
                (SubjectKind::Base, base.as_str())
            }
            (
                None,
                Some(
                    AuditAction::MachineRegistered { machine, .. }
                    | AuditAction::ClusterFounded { machine }
                    | AuditAction::MachineJoined { machine, .. }
                    | AuditAction::MachineUpdated { machine, .. }
                    | AuditAction::MachineReplaced { machine, .. },
                ),
            ) => (SubjectKind::Machine, machine.as_str()),
            (
                None,
                Some(AuditAction::ImagePushed { repository, .. } | AuditAction::ImageRemoved { repository, .. }),
            ) => (SubjectKind::Repository, repository.as_str()),
            (None, Some(AuditAction::TokenCreated { token } | AuditAction::TokenRevoked { token })) => {
                (SubjectKind::Token, token.as_str())
            }
            (None, _) => (SubjectKind::Cluster, ""),
        };
        Self { kind, name: name.to_owned() }
    }
}

/// The type and the facts of an action.
fn facts(action: &AuditAction) -> (Option<String>, Map<String, Value>) {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(action) else { return (None, Map::new()) };
    let kind = fields.remove("kind").and_then(|kind| kind.as_str().map(str::to_owned));
    (kind, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_becomes_a_type_with_fields() {
        let action = AuditAction::TokenCreated { token: "ci".to_owned() };
        let (kind, fields) = facts(&action);
        assert_eq!((kind.as_deref(), fields["token"].as_str()), (Some("token_created"), Some("ci")));
        let subject = EventSubject::of(None, Some(&action));
        assert_eq!(subject, EventSubject { kind: SubjectKind::Token, name: "ci".to_owned() });
        let app = "shop".parse().expect("a name");
        assert_eq!(EventSubject::of(Some(&app), None).kind, SubjectKind::App);
        assert_eq!(EventSubject::of(None, None).kind, SubjectKind::Cluster);
    }
}
