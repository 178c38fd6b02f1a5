//! Actions in the audit trail.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::deploy::DeployOrder;
use crate::{
    AllocationId, AppName, BaseName, DeployCause, DeployNumber, DeployState, Digest, ExitStatus, FailureKind, HostName,
    JoinRole, LabelKey, LabelValue, MachineAvailability, MachineId, MachineName, ReleaseNumber, RoleLimit, RoleName,
    TrafficPolicy, TrustedProxies, VolumeName,
};

/// An action of a person or of Gantry, as the audit trail keeps it. The text for people is rendered from the action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum AuditAction {
    /// An app was created.
    AppCreated {
        /// The app.
        app: AppName,
    },
    /// The destruction of an app was ordered.
    AppDestroyed {
        /// The app.
        app: AppName,
    },
    /// A rename of an app was requested.
    RenameRequested {
        /// The former name.
        from: AppName,
        /// The new name.
        to: AppName,
    },
    /// An app got another name.
    Renamed {
        /// The former name.
        from: AppName,
        /// The new name.
        to: AppName,
    },
    /// A rename was undone, because the release did not start under the new name.
    RenameUndone {
        /// The name that the app keeps.
        from: AppName,
        /// The name that it should have had.
        to: AppName,
        /// The reason in words, if there is one.
        reason: Option<String>,
        /// Kind of the failure; `None` in an event of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<FailureKind>,
    },
    /// An app was put on a base.
    AppBaseChanged {
        /// The app.
        app: AppName,
        /// The base.
        base: BaseName,
    },
    /// An app was put on a branch.
    AppBranchChanged {
        /// The app.
        app: AppName,
        /// The branch.
        branch: String,
    },
    /// The host names of an app changed.
    AppHostsChanged {
        /// The app.
        app: AppName,
        /// All host names from now on.
        hosts: Vec<HostName>,
    },
    /// The configuration of an app without a release changed.
    ConfigChanged {
        /// Names of the changed variables.
        keys: Vec<String>,
    },
    /// Roles were scaled.
    Scaled {
        /// Copies per role.
        roles: BTreeMap<RoleName, u32>,
    },
    /// The pause, maintenance message or limits of an app changed.
    TrafficChanged {
        /// The app.
        app: AppName,
        /// The traffic policy from now on.
        traffic: TrafficPolicy,
    },
    /// The proxies that an app trusts changed.
    TrustedProxiesChanged {
        /// The app.
        app: AppName,
        /// The proxies from now on.
        proxies: TrustedProxies,
    },
    /// The cluster policy changed.
    ClusterPolicyChanged {
        /// New values by rule; `None` for a rule that has its default again.
        #[serde(default)]
        rules: BTreeMap<String, Option<String>>,
    },
    /// A deploy was requested.
    DeployRequested {
        /// The deploy.
        deploy: DeployNumber,
        /// Reason why the deploy was requested.
        cause: DeployCause,
    },
    /// The promotion or the abort of a deploy was ordered.
    DeployOrdered {
        /// The deploy.
        deploy: DeployNumber,
        /// The order.
        order: DeployOrder,
    },
    /// A deploy entered a state that its owners care about.
    DeployProgressed {
        /// The deploy.
        deploy: DeployNumber,
        /// The release of the deploy.
        release: Option<ReleaseNumber>,
        /// The state.
        state: DeployState,
        /// The state in words, with the time in service of a release that was taken back.
        outcome: String,
        /// Time in milliseconds that the release served before it was taken back; `None` if it did not serve, and in an
        /// event of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        served_millis: Option<u64>,
        /// The reason in words, if there is one.
        reason: Option<String>,
        /// Kind of the failure; `None` in an event of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<FailureKind>,
    },
    /// A base was made, imported or pulled.
    BaseStored {
        /// The base.
        base: BaseName,
        /// Source of the base.
        source: BaseSource,
    },
    /// A machine registered for the first time.
    MachineRegistered {
        /// The machine.
        machine: MachineName,
        /// Id of the machine.
        id: MachineId,
    },
    /// A machine has another program or another capacity than before.
    MachineUpdated {
        /// The machine.
        machine: MachineName,
        /// Release of Gantry that its agent runs.
        program: String,
    },
    /// A machine took the name of one that was lost.
    MachineReplaced {
        /// The name.
        machine: MachineName,
        /// Id of the new machine.
        id: MachineId,
        /// Id of the machine that had the name before.
        before: MachineId,
    },
    /// The cluster got its authority: other machines can join.
    ClusterFounded {
        /// The first machine.
        machine: MachineName,
    },
    /// A join token was created.
    JoinTokenCreated {
        /// Role of the machine in the cluster.
        role: JoinRole,
    },
    /// A machine joined the cluster, or joined again.
    MachineJoined {
        /// The machine.
        machine: MachineName,
        /// Id of the machine.
        id: MachineId,
        /// Role of the machine in the cluster.
        role: JoinRole,
    },
    /// A base was removed.
    BaseRemoved {
        /// The base.
        base: BaseName,
    },
    /// A code was uploaded.
    CodeUploaded {
        /// The code.
        code: RoleName,
        /// Number of the revision.
        revision: u64,
    },
    /// A code was removed.
    CodeRemoved {
        /// The code.
        code: RoleName,
    },
    /// An image was pushed to the registry.
    ImagePushed {
        /// The repository.
        repository: String,
        /// The tag.
        tag: String,
        /// True if an app could have the repository's name, and none has.
        without_app: bool,
    },
    /// An image was removed from the registry.
    ImageRemoved {
        /// The repository.
        repository: String,
        /// The tag or digest.
        reference: String,
    },
    /// An image was pulled from another registry.
    ImagePulled {
        /// The image's reference in the other registry.
        reference: String,
    },
    /// A token was created.
    TokenCreated {
        /// Name of the token.
        token: String,
    },
    /// The labels of a machine changed.
    MachineLabelled {
        /// The machine.
        machine: MachineName,
        /// All labels from now on.
        labels: BTreeMap<LabelKey, LabelValue>,
    },
    /// An operator changed whether a machine takes copies.
    MachineAvailabilityChanged {
        /// The machine.
        machine: MachineName,
        /// The availability from now on.
        availability: MachineAvailability,
    },
    /// A machine was lost: its copies move.
    MachineLost {
        /// The machine.
        machine: MachineName,
    },
    /// A lost machine came back.
    MachineReturned {
        /// The machine.
        machine: MachineName,
    },
    /// A token was revoked.
    TokenRevoked {
        /// Name of the token.
        token: String,
    },
    /// A command was started in a running instance.
    ExecOpened {
        /// The instance.
        instance: AllocationId,
    },
    /// A command was started in a container of its own.
    RunOpened {
        /// The release whose configuration the container has; `None` for an app without a release.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<ReleaseNumber>,
        /// The image that takes the place of the release's image; `None` for the image of the release.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<Digest>,
    },
    /// A volume was removed with its snapshots.
    VolumeRemoved {
        /// The volume.
        volume: VolumeName,
    },
    /// An archive of a volume was asked for.
    VolumeExported {
        /// The volume.
        volume: VolumeName,
    },
    /// An archive was sent, to become a volume.
    VolumeImported {
        /// The volume.
        volume: VolumeName,
    },
    /// A snapshot of a volume was asked for.
    SnapshotCreated {
        /// The volume.
        volume: VolumeName,
    },
    /// A snapshot of a volume was removed.
    SnapshotRemoved {
        /// The volume.
        volume: VolumeName,
        /// The snapshot.
        snapshot: VolumeName,
    },
    /// A snapshot was to become the content of its volume again.
    SnapshotRestored {
        /// The volume.
        volume: VolumeName,
        /// The snapshot.
        snapshot: VolumeName,
    },
    /// A restore found no data of a volume that a role has.
    VolumeLost {
        /// The volume.
        volume: VolumeName,
        /// The role.
        role: RoleName,
    },
    /// An instance exited, or reached one of its limits.
    InstanceReported {
        /// The instance.
        instance: AllocationId,
        /// The news in words.
        news: String,
        /// The exit, if the instance exited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<ExitFacts>,
        /// The limit, if the instance reached one and goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<RoleLimit>,
    },
    /// The wall clock jumped.
    ClockJumped {
        /// The jump in words.
        jump: String,
        /// Size of the jump in milliseconds, negative if the clock went back; `None` in an event of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<i64>,
    },
    /// A damaged repository was repaired, or could not be.
    RepositoryDamaged {
        /// The damage and the repair in words.
        finding: String,
    },
}

/// The exit of an instance, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFacts {
    /// The exit status, if the process exited by itself.
    pub code: Option<i32>,
    /// The signal that killed the process.
    pub signal: Option<i32>,
}

impl From<&ExitStatus> for ExitFacts {
    fn from(exit: &ExitStatus) -> Self {
        Self { code: exit.code, signal: exit.signal }
    }
}

/// Source of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum BaseSource {
    /// A recipe (`base.toml`).
    Recipe,
    /// The recipe of the stack of the same name.
    Stack,
    /// An OCI archive.
    Archive,
    /// An image in another registry.
    Registry {
        /// The image's reference.
        reference: String,
    },
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppCreated { app } => write!(f, "created app {app}"),
            Self::AppDestroyed { app } => write!(f, "destroyed app {app}"),
            Self::RenameRequested { from, to } => write!(f, "asked to rename {from} to {to}"),
            Self::Renamed { from, to } => write!(f, "renamed {from} to {to}"),
            Self::RenameUndone { from, to, reason, .. } => {
                write!(f, "{from} keeps its name, its release did not start as {to}")?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
            }
            Self::AppBaseChanged { app, base } => write!(f, "put {app} on base {base}"),
            Self::AppBranchChanged { app, branch } => write!(f, "put {app} on branch {branch}"),
            Self::AppHostsChanged { app, hosts } if hosts.is_empty() => write!(f, "set the hosts of {app}: none"),
            Self::AppHostsChanged { app, hosts } => {
                let hosts: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
                write!(f, "set the hosts of {app}: {}", hosts.join(", "))
            }
            Self::ConfigChanged { keys } => write!(f, "config {}", keys.join(", ")),
            Self::Scaled { roles } => {
                f.write_str("scaled")?;
                roles.iter().try_for_each(|(role, count)| write!(f, " {role}={count}"))
            }
            Self::TrafficChanged { app, traffic } => write!(f, "requests of {app}: {traffic}"),
            Self::TrustedProxiesChanged { app, proxies } => write!(f, "trusted proxies of {app}: {proxies}"),
            Self::ClusterPolicyChanged { rules } => {
                f.write_str("cluster policy:")?;
                rules.iter().try_for_each(|(rule, value)| match value {
                    Some(value) => write!(f, " {rule}={value}"),
                    None => write!(f, " {rule} by default"),
                })
            }
            Self::DeployRequested { deploy, cause } => write!(f, "deploy {deploy} asked for: {cause}"),
            Self::DeployOrdered { deploy, order: DeployOrder::Promote } => {
                write!(f, "asked to promote deploy {deploy}")
            }
            Self::DeployOrdered { deploy, order: DeployOrder::Abort } => write!(f, "asked to abort deploy {deploy}"),
            Self::DeployProgressed { deploy, release, outcome, reason, .. } => {
                write!(f, "deploy {deploy}")?;
                release.map_or(Ok(()), |release| write!(f, " ({release})"))?;
                write!(f, " {outcome}")?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
            }
            Self::BaseStored { base, source: BaseSource::Recipe } => write!(f, "made base {base}"),
            Self::BaseStored { base, source: BaseSource::Stack } => write!(f, "made stack {base}"),
            Self::BaseStored { base, source: BaseSource::Archive } => write!(f, "imported base {base}"),
            Self::BaseStored { base, source: BaseSource::Registry { reference } } => {
                write!(f, "imported base {base} from {reference}")
            }
            Self::ClusterFounded { machine } => write!(f, "made the cluster's authority on machine {machine}"),
            Self::JoinTokenCreated { role } => write!(f, "created a join token for role {role}"),
            Self::MachineJoined { machine, id, role } => {
                write!(f, "machine {machine} ({}) joined as {role}", id.short())
            }
            Self::MachineRegistered { machine, id } => write!(f, "machine {machine} ({}) registered", id.short()),
            Self::MachineUpdated { machine, program } => {
                write!(f, "machine {machine} runs gantry {program}")
            }
            Self::MachineReplaced { machine, id, before } => {
                write!(f, "machine {machine} ({}) took the place of {}", id.short(), before.short())
            }
            Self::MachineLabelled { machine, labels } if labels.is_empty() => {
                write!(f, "machine {machine} has no label")
            }
            Self::MachineLabelled { machine, labels } => {
                write!(f, "machine {machine} has the labels")?;
                labels.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))
            }
            Self::MachineAvailabilityChanged { machine, availability } => {
                write!(f, "machine {machine} is {}", availability.word())?;
                availability.reason().map_or(Ok(()), |reason| write!(f, ": {reason}"))
            }
            Self::MachineLost { machine } => write!(f, "machine {machine} is lost; its copies move"),
            Self::MachineReturned { machine } => write!(f, "machine {machine} is back"),
            Self::BaseRemoved { base } => write!(f, "removed base {base}"),
            Self::CodeUploaded { code, revision } => write!(f, "uploaded code {code}, revision {revision}"),
            Self::CodeRemoved { code } => write!(f, "removed code {code}"),
            Self::ImagePushed { repository, tag, without_app } => {
                let without = if *without_app { " (there is no app of this name)" } else { "" };
                write!(f, "pushed image {repository}:{tag}{without}")
            }
            Self::ImageRemoved { repository, reference } => write!(f, "removed image {repository}:{reference}"),
            Self::ImagePulled { reference } => write!(f, "pulled image {reference}"),
            Self::TokenCreated { token } => write!(f, "created token {token:?}"),
            Self::TokenRevoked { token } => write!(f, "revoked token {token:?}"),
            Self::ExecOpened { instance } => write!(f, "exec in {instance}"),
            Self::RunOpened { release, image } => {
                let image = image.as_ref().map(|image| format!("run in image {image}"));
                match (image, release) {
                    (None, Some(release)) => write!(f, "run in {release}"),
                    (None, None) => f.write_str("run without a release"),
                    (Some(image), Some(release)) => write!(f, "{image} with the configuration of {release}"),
                    (Some(image), None) => write!(f, "{image} without a release"),
                }
            }
            Self::VolumeRemoved { volume } => write!(f, "removed volume {volume}"),
            Self::VolumeExported { volume } => write!(f, "exported volume {volume}"),
            Self::VolumeImported { volume } => write!(f, "imported volume {volume}"),
            Self::SnapshotCreated { volume } => write!(f, "made a snapshot of volume {volume}"),
            Self::SnapshotRemoved { volume, snapshot } => write!(f, "removed snapshot {snapshot} of volume {volume}"),
            Self::SnapshotRestored { volume, snapshot } => write!(f, "restored snapshot {snapshot} of volume {volume}"),
            Self::VolumeLost { volume, role } => {
                write!(f, "the restored backup has no data of volume {volume}: {role} begins with an empty one")
            }
            Self::InstanceReported { instance, news, .. } => write!(f, "{instance} {news}"),
            Self::ClockJumped { jump, .. } => write!(f, "{jump}; deploys and leases count the time by themselves"),
            Self::RepositoryDamaged { finding } => f.write_str(finding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_names_its_image_and_its_release() {
        let image = Digest::from_hex(&"0c".repeat(32)).expect("a digest");
        let text = |release, image| AuditAction::RunOpened { release, image }.to_string();
        let of_image = format!("run in image {image}");
        assert_eq!(text(Some(ReleaseNumber(5)), None), "run in v5");
        assert_eq!(
            text(Some(ReleaseNumber(5)), Some(image.clone())),
            format!("{of_image} with the configuration of v5")
        );
        assert_eq!(text(None, Some(image)), format!("{of_image} without a release"));
    }

    #[test]
    fn a_run_of_an_earlier_version_has_no_image() {
        let read: AuditAction = serde_json::from_str(r#"{"kind":"run_opened","release":5}"#).expect("read");
        assert_eq!(read, AuditAction::RunOpened { release: Some(ReleaseNumber(5)), image: None });
    }
}
