//! The audit trail.

use gantry_model::{AppName, AuditAction, Moment};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::EventFields;

/// An event of the audit trail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Number of the event. Consecutive events have consecutive numbers.
    pub number: u64,
    /// Time of the event.
    pub at: Moment,
    /// Type of the event, such as `deploy_requested`, and its facts.
    #[serde(flatten)]
    pub details: EventDetails,
    /// The object of the event.
    pub subject: EventSubject,
    /// The actor: the name of a token, or `gantry`.
    pub actor: String,
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
        let details = action.map_or_else(EventDetails::default, |action| EventDetails::Known(action.into()));
        Self { number, at, details, subject: EventSubject::of(app, action), actor, text }
    }
}

/// Type and facts of an event, as a client receives them. A newer server may send types that this program does not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventDetails {
    /// A type that this program knows.
    Known(EventFields),
    /// Another type, or none.
    Unknown {
        /// Name of the type; `None` for an event that an older version recorded.
        #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        /// The facts.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        fields: Map<String, Value>,
    },
}

impl Default for EventDetails {
    fn default() -> Self {
        Self::Unknown { kind: None, fields: Map::new() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_becomes_a_type_with_fields() {
        let action = AuditAction::TokenCreated { token: "ci".to_owned() };
        let event = event(Some(&action));
        assert_eq!(event.details, EventDetails::Known(EventFields::TokenCreated { token: "ci".to_owned() }));
        let subject = EventSubject::of(None, Some(&action));
        assert_eq!(subject, EventSubject { kind: SubjectKind::Token, name: "ci".to_owned() });
        let app = "shop".parse().expect("a name");
        assert_eq!(EventSubject::of(Some(&app), None).kind, SubjectKind::App);
        assert_eq!(EventSubject::of(None, None).kind, SubjectKind::Cluster);
    }

    fn event(action: Option<&AuditAction>) -> AuditEvent {
        let text = action.map_or_else(|| "something".to_owned(), ToString::to_string);
        AuditEvent::new(7, Moment(1), "ci".to_owned(), None, action, text)
    }

    #[test]
    fn every_event_is_read_as_it_was_sent() {
        let roles = std::collections::BTreeMap::from([("web".parse().expect("a role"), 3)]);
        let instance = gantry_model::AllocationId::parse("shop.v1.web-1").expect("an id");
        let failed = AuditAction::DeployProgressed {
            deploy: gantry_model::DeployNumber(4),
            release: None,
            state: gantry_model::DeployState::Reverted,
            outcome: "reverted after 3 s in service".to_owned(),
            served_millis: Some(3_000),
            reason: Some("aborted".to_owned()),
            failure: Some(gantry_model::FailureKind::Aborted),
        };
        let limit = Some(gantry_model::RoleLimit::Memory(1 << 20));
        let reported = AuditAction::InstanceReported { instance, news: "news".to_owned(), exit: None, limit };
        let damaged = AuditAction::RepositoryDamaged { finding: "an object is missing".to_owned() };
        for (action, expected) in [
            (AuditAction::Scaled { roles }, r#""type":"scaled","fields":{"roles":{"web":3}}"#),
            (failed.clone(), r#""failure":{"code":"deploy_aborted","text":"aborted"}}"#),
            (failed, r#""state":"reverted","served_millis":3000,"#),
            (reported, r#""limit":{"kind":"memory","bytes":1048576}}"#),
            (damaged, r#""type":"repository_damaged","fields":{}"#),
        ] {
            let sent = event(Some(&action));
            let text = serde_json::to_string(&sent).expect("JSON");
            assert!(text.contains(expected), "{text}");
            assert_eq!(serde_json::from_str::<AuditEvent>(&text).expect("read"), sent);
        }
    }

    #[test]
    fn events_of_other_versions_are_read() {
        let old = serde_json::to_string(&event(None)).expect("JSON");
        assert!(!old.contains("type") && !old.contains("fields"), "{old}");
        assert_eq!(serde_json::from_str::<AuditEvent>(&old).expect("read"), event(None));
        let newer = r#"{"number":1,"at":2,"type":"moon_rose","fields":{"phase":"full"},"subject":{"kind":"sky","name":"x"},
            "actor":"gantry","text":"the moon rose"}"#;
        let newer: AuditEvent = serde_json::from_str(newer).expect("read");
        assert_eq!(newer.subject.kind, SubjectKind::Unknown);
        assert!(
            matches!(newer.details, EventDetails::Unknown { kind: Some(kind), fields } if kind == "moon_rose" && fields["phase"] == "full")
        );
    }
}
