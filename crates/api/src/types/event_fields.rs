//! The facts of an event: a type of its own for each kind of event.

use std::collections::BTreeMap;

use gantry_model::deploy::DeployOrder;
use gantry_model::{
    AllocationId, AppName, AuditAction, BaseName, BaseSource, DeployNumber, Digest, FailureKind, HostName, LabelKey,
    LabelValue, MachineId, MachineName, ReleaseNumber, RoleLimit, RoleName, Subnet, VolumeName,
};
use serde::{Deserialize, Serialize};

use super::{AvailabilityInfo, CauseInfo, DeployFailure, DeployStateInfo, JoinRoleInfo, TrafficInfo};

/// Type and facts of an event. The subject and the text of the event stand beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type", content = "fields")]
pub enum EventFields {
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
        /// Failure of the release under the new name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<DeployFailure>,
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
        traffic: TrafficInfo,
    },
    /// The proxies that an app trusts changed.
    TrustedProxiesChanged {
        /// The app.
        app: AppName,
        /// The proxies from now on.
        proxies: Vec<Subnet>,
    },
    /// The cluster policy changed.
    ClusterPolicyChanged {
        /// New values by rule, as people write them; `None` for a rule that has its default again.
        rules: BTreeMap<String, Option<String>>,
    },
    /// A deploy was requested.
    DeployRequested {
        /// The deploy.
        deploy: DeployNumber,
        /// Reason for the deploy.
        cause: CauseInfo,
    },
    /// The promotion or the abort of a deploy was ordered.
    DeployOrdered {
        /// The deploy.
        deploy: DeployNumber,
        /// The order.
        order: DeployOrderInfo,
    },
    /// A deploy entered a state that its owners care about.
    DeployProgressed {
        /// The deploy.
        deploy: DeployNumber,
        /// The release of the deploy.
        release: Option<ReleaseNumber>,
        /// The state.
        state: DeployStateInfo,
        /// Time in milliseconds that the release served before it was taken back; absent if it did not serve.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        served_millis: Option<u64>,
        /// Reason why the deploy failed, or was taken back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<DeployFailure>,
    },
    /// A base was made, imported or pulled.
    BaseStored {
        /// The base.
        base: BaseName,
        /// Source of the base.
        source: BaseSourceInfo,
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
    /// A machine joined the cluster, or joined again.
    MachineJoined {
        /// The machine.
        machine: MachineName,
        /// Id of the machine.
        id: MachineId,
        /// Role of the machine in the cluster.
        role: JoinRoleInfo,
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
        availability: AvailabilityInfo,
        /// The operator's reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
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
    /// The cluster got its authority: other machines can join.
    ClusterFounded {
        /// The first machine.
        machine: MachineName,
    },
    /// A join token was created.
    JoinTokenCreated {
        /// Role of the machine in the cluster.
        role: JoinRoleInfo,
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
        /// The release whose configuration the container has; absent for an app without a release.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<ReleaseNumber>,
        /// The image that takes the place of the release's image.
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
    /// A restore found no data of a volume that a role has.
    VolumeLost {
        /// The volume.
        volume: VolumeName,
        /// The role.
        role: RoleName,
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
    /// An instance exited, or reached one of its limits.
    InstanceReported {
        /// The instance.
        instance: AllocationId,
        /// The exit, if the instance exited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<ExitInfo>,
        /// The limit, if the instance reached one and goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<LimitInfo>,
    },
    /// The wall clock jumped.
    ClockJumped {
        /// Size of the jump in milliseconds, negative if the clock went back; `None` in an event of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by_millis: Option<i64>,
    },
    /// A damaged repository was repaired, or could not be.
    RepositoryDamaged {},
}

/// Order to a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployOrderInfo {
    /// Promote the held release.
    Promote,
    /// Revert the deploy.
    Abort,
    /// An order that a newer server knows.
    #[serde(other)]
    Unknown,
}

/// Source of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum BaseSourceInfo {
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
    /// A source that a newer server knows.
    #[serde(other)]
    Unknown,
}

/// The exit of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitInfo {
    /// The exit status, if the process exited by itself.
    pub code: Option<i32>,
    /// The signal that killed the process.
    pub signal: Option<i32>,
}

/// A limit that an instance reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum LimitInfo {
    /// Memory.
    Memory {
        /// The limit.
        bytes: u64,
    },
    /// Processes and threads.
    Processes {
        /// The limit.
        count: u32,
    },
    /// A limit that a newer server knows.
    #[serde(other)]
    Unknown,
}

impl From<RoleLimit> for LimitInfo {
    fn from(limit: RoleLimit) -> Self {
        match limit {
            RoleLimit::Memory(bytes) => Self::Memory { bytes },
            RoleLimit::Processes(count) => Self::Processes { count },
        }
    }
}

impl From<DeployOrder> for DeployOrderInfo {
    fn from(order: DeployOrder) -> Self {
        match order {
            DeployOrder::Promote => Self::Promote,
            DeployOrder::Abort => Self::Abort,
        }
    }
}

impl From<BaseSource> for BaseSourceInfo {
    fn from(source: BaseSource) -> Self {
        match source {
            BaseSource::Recipe => Self::Recipe,
            BaseSource::Stack => Self::Stack,
            BaseSource::Archive => Self::Archive,
            BaseSource::Registry { reference } => Self::Registry { reference },
        }
    }
}

/// A failure as the audit trail keeps it. An earlier version kept no kind.
fn failure(kind: Option<FailureKind>, text: Option<String>) -> Option<DeployFailure> {
    let code = crate::failure_code(kind.unwrap_or(FailureKind::Other));
    text.map(|text| DeployFailure { code: code.into(), text })
}

impl From<&AuditAction> for EventFields {
    fn from(action: &AuditAction) -> Self {
        use AuditAction as A;
        match action.clone() {
            A::AppCreated { app } => Self::AppCreated { app },
            A::AppDestroyed { app } => Self::AppDestroyed { app },
            A::RenameRequested { from, to } => Self::RenameRequested { from, to },
            A::Renamed { from, to } => Self::Renamed { from, to },
            A::RenameUndone { from, to, reason, failure: kind } => {
                Self::RenameUndone { from, to, failure: failure(kind, reason) }
            }
            A::AppBaseChanged { app, base } => Self::AppBaseChanged { app, base },
            A::AppBranchChanged { app, branch } => Self::AppBranchChanged { app, branch },
            A::AppHostsChanged { app, hosts } => Self::AppHostsChanged { app, hosts },
            A::ConfigChanged { keys } => Self::ConfigChanged { keys },
            A::Scaled { roles } => Self::Scaled { roles },
            A::TrafficChanged { app, traffic } => Self::TrafficChanged { app, traffic: TrafficInfo::from(&traffic) },
            A::TrustedProxiesChanged { app, proxies } => {
                Self::TrustedProxiesChanged { app, proxies: proxies.iter().copied().collect() }
            }
            A::ClusterPolicyChanged { rules } => Self::ClusterPolicyChanged { rules },
            A::DeployRequested { deploy, cause } => Self::DeployRequested { deploy, cause: CauseInfo::from(&cause) },
            A::DeployOrdered { deploy, order } => Self::DeployOrdered { deploy, order: order.into() },
            A::DeployProgressed { deploy, release, state, served_millis, reason, failure: kind, .. } => {
                let failure = failure(kind, reason);
                Self::DeployProgressed { deploy, release, state: state.into(), served_millis, failure }
            }
            A::BaseStored { base, source } => Self::BaseStored { base, source: source.into() },
            A::BaseRemoved { base } => Self::BaseRemoved { base },
            A::CodeUploaded { code, revision } => Self::CodeUploaded { code, revision },
            A::CodeRemoved { code } => Self::CodeRemoved { code },
            A::MachineRegistered { machine, id } => Self::MachineRegistered { machine, id },
            A::MachineUpdated { machine, program } => Self::MachineUpdated { machine, program },
            A::MachineReplaced { machine, id, before } => Self::MachineReplaced { machine, id, before },
            A::MachineJoined { machine, id, role } => Self::MachineJoined { machine, id, role: role.into() },
            A::MachineLabelled { machine, labels } => Self::MachineLabelled { machine, labels },
            A::MachineAvailabilityChanged { machine, availability } => {
                let reason = availability.reason().map(ToString::to_string);
                Self::MachineAvailabilityChanged { machine, availability: (&availability).into(), reason }
            }
            A::MachineLost { machine } => Self::MachineLost { machine },
            A::MachineReturned { machine } => Self::MachineReturned { machine },
            A::ClusterFounded { machine } => Self::ClusterFounded { machine },
            A::JoinTokenCreated { role } => Self::JoinTokenCreated { role: role.into() },
            A::ImagePushed { repository, tag, without_app } => Self::ImagePushed { repository, tag, without_app },
            A::ImageRemoved { repository, reference } => Self::ImageRemoved { repository, reference },
            A::ImagePulled { reference } => Self::ImagePulled { reference },
            A::TokenCreated { token } => Self::TokenCreated { token },
            A::TokenRevoked { token } => Self::TokenRevoked { token },
            A::ExecOpened { instance } => Self::ExecOpened { instance },
            A::RunOpened { release, image } => Self::RunOpened { release, image },
            A::VolumeRemoved { volume } => Self::VolumeRemoved { volume },
            A::VolumeExported { volume } => Self::VolumeExported { volume },
            A::VolumeImported { volume } => Self::VolumeImported { volume },
            A::VolumeLost { volume, role } => Self::VolumeLost { volume, role },
            A::SnapshotCreated { volume } => Self::SnapshotCreated { volume },
            A::SnapshotRemoved { volume, snapshot } => Self::SnapshotRemoved { volume, snapshot },
            A::SnapshotRestored { volume, snapshot } => Self::SnapshotRestored { volume, snapshot },
            A::InstanceReported { instance, exit, limit, .. } => {
                let exit = exit.map(|exit| ExitInfo { code: exit.code, signal: exit.signal });
                Self::InstanceReported { instance, exit, limit: limit.map(Into::into) }
            }
            A::ClockJumped { by, .. } => Self::ClockJumped { by_millis: by },
            A::RepositoryDamaged { .. } => Self::RepositoryDamaged {},
        }
    }
}
