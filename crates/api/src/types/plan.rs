//! Effect of a deploy that has not begun.

use gantry_model::{AppName, Digest, MachineName, ReleaseNumber, RoleName, Slot};
use serde::{Deserialize, Serialize};

use super::{CauseCode, DeploySource};

/// Body of `POST /v1/apps/{app}/plan`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PlanDeploy {
    /// Source of the deploy; `None` for the current release with the present configuration.
    #[serde(default)]
    pub source: Option<DeploySource>,
}

/// Effect of a deploy that would begin now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployPlan {
    /// The app.
    pub app: AppName,
    /// Identifier of the plan. A deploy that names the plan is refused once anything in it would be different.
    pub id: String,
    /// The new release.
    pub release: ReleaseNumber,
    /// The release that serves now.
    pub previous: Option<ReleaseNumber>,
    /// Image of the new release.
    pub image: Digest,
    /// The roles of both releases that run as services, and the release step.
    pub roles: Vec<PlannedRole>,
    /// Reasons why the deploy would wait.
    pub waits: Vec<PlannedWait>,
}

/// Reason why a deploy would wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedWait {
    /// Stable code of the reason.
    pub code: CauseCode,
    /// The reason, for people.
    pub text: String,
}

/// Effect of a deploy on a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRole {
    /// The role.
    pub role: RoleName,
    /// Difference of the role between the releases.
    pub change: RoleChange,
    /// The settings that are different.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
    /// True if each old copy ends before a new one starts.
    pub stop_first: bool,
    /// The copies that start, each with its machine.
    pub starts: Vec<PlannedCopy>,
    /// The copies that end.
    pub stops: Vec<PlannedCopy>,
}

/// Difference of a role between two releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleChange {
    /// Only the new release has the role.
    Added,
    /// Only the old release has the role.
    Removed,
    /// Settings of the role are different.
    Changed,
    /// The role's settings are the same.
    Same,
    /// A difference that a newer server knows.
    #[serde(other)]
    Unknown,
}

/// A copy that a deploy would start or end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedCopy {
    /// The copy.
    pub slot: Slot,
    /// Machine of the copy; `None` if no machine takes the copy now, or the machine is chosen once the old copy has ended.
    pub machine: Option<MachineName>,
}
