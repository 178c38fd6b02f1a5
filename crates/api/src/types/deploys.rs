//! Deploys and releases.

use std::collections::BTreeMap;
use std::fmt;

use gantry_model::{
    AppName, Deploy, DeployCause, DeployNumber, DeployState, Digest, ImageSettings, Moment, Reason, ReleaseNumber,
    RoleName,
};
use serde::{Deserialize, Serialize};

use crate::{ReceivedCode, deploy_failure_code};

/// A deploy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeployInfo {
    /// The app.
    pub app: AppName,
    /// Number of the deploy.
    pub number: DeployNumber,
    /// State of the deploy.
    pub state: DeployStateInfo,
    /// Reason for the deploy.
    pub cause: CauseInfo,
    /// Name of the token that requested the deploy.
    pub by: String,
    /// True if the deploy stops before promotion.
    pub hold: bool,
    /// The new release; `None` until the image exists.
    pub release: Option<ReleaseNumber>,
    /// The release that served when the deploy began.
    pub previous: Option<ReleaseNumber>,
    /// Time of the request.
    pub created: Moment,
    /// Time at which the deploy entered its state.
    pub entered: Moment,
    /// Time at which the new release began to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Moment>,
    /// Reason why the deploy failed, or was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<DeployFailure>,
}

/// Reason why a deploy failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployFailure {
    /// Stable code.
    pub code: ReceivedCode,
    /// The reason, for people.
    pub text: String,
}

impl From<&Reason> for DeployFailure {
    fn from(reason: &Reason) -> Self {
        Self { code: deploy_failure_code(reason).into(), text: reason.to_string() }
    }
}

impl From<&Deploy> for DeployInfo {
    fn from(deploy: &Deploy) -> Self {
        Self {
            app: deploy.app.clone(),
            number: deploy.number,
            state: deploy.state.into(),
            cause: CauseInfo::from(&deploy.cause),
            by: deploy.by.clone(),
            hold: deploy.hold,
            release: deploy.release,
            previous: deploy.previous,
            created: deploy.created,
            entered: deploy.entered,
            served: deploy.served,
            failure: deploy.reason.as_ref().map(DeployFailure::from),
        }
    }
}

/// State of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployStateInfo {
    /// The deploy waits for the preceding deploy of the app.
    Queued,
    /// The image is being built.
    Building,
    /// The planner chooses machines.
    Placing,
    /// The release step runs, and then the new instances start.
    Starting,
    /// The new instances run, and the deploy waits until they are ready.
    Verifying,
    /// The new instances are ready, and the deploy waits for a promotion.
    Held,
    /// Routers receive the routes to the new release.
    Promoting,
    /// The new release serves; the old release finishes its requests and stands by.
    Draining,
    /// The new release serves alone.
    Done,
    /// The deploy failed, and the new instances are removed.
    Reverting,
    /// The previous release serves.
    Reverted,
    /// A newer deploy replaced this deploy before it began.
    Superseded,
    /// A state that a newer server knows.
    #[serde(other)]
    Unknown,
}

impl DeployStateInfo {
    /// Reports whether the deploy ended well: done, held, or serving during its bake time.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Done | Self::Held | Self::Draining)
    }
}

impl From<DeployState> for DeployStateInfo {
    fn from(state: DeployState) -> Self {
        match state {
            DeployState::Queued => Self::Queued,
            DeployState::Building => Self::Building,
            DeployState::Placing => Self::Placing,
            DeployState::Starting => Self::Starting,
            DeployState::Verifying => Self::Verifying,
            DeployState::Held => Self::Held,
            DeployState::Promoting => Self::Promoting,
            DeployState::Draining => Self::Draining,
            DeployState::Done => Self::Done,
            DeployState::Reverting => Self::Reverting,
            DeployState::Reverted => Self::Reverted,
            DeployState::Superseded => Self::Superseded,
        }
    }
}

impl fmt::Display for DeployStateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Building => "building",
            Self::Placing => "placing",
            Self::Starting => "starting",
            Self::Verifying => "verifying",
            Self::Held => "held",
            Self::Promoting => "promoting",
            Self::Draining => "draining",
            Self::Done => "done",
            Self::Reverting => "reverting",
            Self::Reverted => "reverted",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
        })
    }
}

/// Reason for a deploy or a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseInfo {
    /// The reason.
    #[serde(flatten)]
    pub kind: DeployCauseKind,
    /// The reason, for people.
    pub text: String,
}

/// Kind of a reason for a deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeployCauseKind {
    /// A push.
    Push {
        /// The full commit SHA.
        commit: String,
    },
    /// An image.
    Image {
        /// Reference of the image.
        reference: String,
        /// Manifest of the image.
        image: Digest,
    },
    /// A change of the configuration.
    Config {
        /// Names of the changed variables.
        keys: Vec<String>,
    },
    /// A rollback.
    Rollback {
        /// The release that the new release copies.
        to: ReleaseNumber,
    },
    /// A rename of the app.
    Rename {
        /// The former name.
        from: AppName,
    },
    /// A reason that a newer server knows.
    #[serde(other)]
    Unknown,
}

impl From<&DeployCause> for CauseInfo {
    fn from(cause: &DeployCause) -> Self {
        let kind = match cause.clone() {
            DeployCause::Push { commit, .. } => DeployCauseKind::Push { commit },
            DeployCause::Image { reference, image, .. } => DeployCauseKind::Image { reference, image },
            DeployCause::Config { keys } => DeployCauseKind::Config { keys },
            DeployCause::Rollback { to } => DeployCauseKind::Rollback { to },
            DeployCause::Rename { from } => DeployCauseKind::Rename { from },
        };
        Self { kind, text: cause.to_string() }
    }
}

/// A release. Configuration appears by name only, without values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseInfo {
    /// Number of the release.
    pub number: ReleaseNumber,
    /// True if this release serves requests now.
    pub current: bool,
    /// True if the release's deploy completed.
    pub good: bool,
    /// Manifest of the image.
    pub image: Digest,
    /// Commit of the source.
    pub commit: Option<String>,
    /// Names of the configuration values.
    pub config: Vec<String>,
    /// Command line of each role.
    pub roles: BTreeMap<RoleName, String>,
    /// Time of creation.
    pub created: Moment,
    /// Name of the token that created the release.
    pub by: String,
    /// Reason for the release.
    pub cause: CauseInfo,
}

/// Body of `POST /v1/apps/{app}/deploys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartDeploy {
    /// Source of the deploy.
    pub source: DeploySource,
    /// True if the deploy stops before promotion.
    #[serde(default)]
    pub hold: bool,
    /// Identifier of the plan that the deploy must follow. The deploy is refused if it would differ from the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// Source of a deploy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeploySource {
    /// An image in this registry.
    Image {
        /// Reference of the image: `shop:1.2` or `shop@sha256:…`.
        reference: String,
        /// Reference of the image in the registry that the image was pulled from; for the release's record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<String>,
        /// Changes to the settings of foreign images. The app keeps the settings for later images.
        #[serde(default)]
        settings: ImageChange,
    },
    /// An earlier release.
    Rollback {
        /// The release; if `None`, the last good release before the current release.
        to: Option<ReleaseNumber>,
    },
}

/// A change of the settings of an app's foreign images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageChange {
    /// Path of each volume by its name; an empty path removes the setting.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
    /// Port that the image listens on; 0 removes the setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl From<ImageChange> for ImageSettings {
    fn from(change: ImageChange) -> Self {
        let ImageChange { volumes, port } = change;
        Self { volumes, port }
    }
}

/// An accepted deploy.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct AcceptedDeploy {
    /// Number of the deploy, for `GET /v1/apps/{app}/deploys/{number}/follow`.
    pub deploy: DeployNumber,
}

/// An event while a client follows a deploy: `GET /v1/apps/{app}/deploys/{number}/follow`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeployProgress {
    /// A line of output.
    Line {
        /// Text of the line.
        text: String,
    },
    /// The last event. The deploy has ended, is held until a promotion or an abort, or is in its bake time.
    End {
        /// The deploy.
        deploy: Box<DeployInfo>,
        /// URL of the app or of the held release; `None` if no role of the release speaks HTTP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deploy_shows_its_cause_and_failure_to_programs_and_to_people() {
        let cause = DeployCause::Rollback { to: ReleaseNumber(3) };
        let app = "shop".parse().expect("a name");
        let mut deploy = Deploy::new(app, DeployNumber(7), cause, "ci".to_owned(), false, Moment(1));
        deploy.reason = Some(Reason::Aborted);
        let shown = serde_json::to_value(DeployInfo::from(&deploy)).expect("JSON");
        assert_eq!(shown["cause"], serde_json::json!({ "kind": "rollback", "to": 3, "text": "rollback to v3" }));
        assert_eq!((&shown["state"], &shown["failure"]["code"]), (&"queued".into(), &"deploy_aborted".into()));
        assert_eq!(serde_json::from_value::<DeployInfo>(shown).expect("read"), DeployInfo::from(&deploy));
    }

    #[test]
    fn reads_states_and_causes_of_a_newer_server() {
        let state: DeployStateInfo = serde_json::from_str("\"baking\"").expect("read");
        assert_eq!((state, state.is_good()), (DeployStateInfo::Unknown, false));
        let cause: CauseInfo = serde_json::from_str(r#"{"kind":"schedule","at":7,"text":"a schedule"}"#).expect("read");
        assert_eq!((cause.kind, cause.text.as_str()), (DeployCauseKind::Unknown, "a schedule"));
    }
}
