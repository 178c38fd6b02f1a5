//! Refusals: why a command is not carried out.

use gantry_error_codes::ErrorCode;
use gantry_model::execve::TooLong;
use gantry_model::{
    AppName, BaseName, DeployNumber, HostName, JoinRole, MachineId, MachineName, MachineSubnet, PolicyKey,
    ReleaseNumber, RoleName, RuleError, TimeSpan,
};

/// Reason why a command is refused. The text names the object and the cause; [`Refusal::hint`] names the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the text of a variant describes its fields")]
pub enum Refusal {
    #[error("there is no app {app}")]
    AppNotFound { app: AppName },
    #[error("there is an app {app} already")]
    AppExists { app: AppName },
    #[error("app {app} is being destroyed")]
    AppBeingDestroyed { app: AppName },
    #[error("{from} is being renamed to {to}")]
    RenameInProgress { from: AppName, to: AppName },
    #[error("deploy {deploy} of {app} is under way")]
    RenameDuringDeploy { app: AppName, deploy: DeployNumber },
    #[error("{app} is paused or in maintenance, and a rename serves requests")]
    RenameWhilePaused { app: AppName },
    #[error("{address} leads to app {app}, which had the name {name} before")]
    FormerNameInUse { address: String, app: AppName, name: AppName },
    #[error("no folder is free for the volumes of {app}; choose another name")]
    NoVolumeFolder { app: AppName },
    #[error("{host} belongs to app {app} already")]
    HostTaken { host: HostName, app: AppName },
    #[error("{host} cannot be taken: names below {domain} are given to apps by their own names")]
    HostReserved { host: HostName, domain: HostName },
    #[error("app {app} has no host {host}")]
    HostNotFound { app: AppName, host: HostName },
    #[error("an app has at most {most} hosts")]
    TooManyHosts { most: usize },
    #[error("the request names no host to add or to remove")]
    NoHostChange,
    #[error("{branch:?} is not a branch")]
    InvalidBranch { branch: String },

    #[error("the name {name} belongs to machine {known}; this is machine {id}")]
    MachineNameTaken { name: MachineName, known: MachineId, id: MachineId },
    #[error("the cluster does not know this join token")]
    JoinTokenUnknown,
    #[error("the join token expired {} ago", TimeSpan(*.millis))]
    JoinTokenExpired { millis: u64 },
    #[error("another machine has used the join token")]
    JoinTokenUsed,
    #[error("the join token is for the role {role}, not {requested}")]
    JoinTokenRole { role: JoinRole, requested: JoinRole },
    #[error("a join token is valid for 1 s to 7 days")]
    InvalidJoinLifetime,
    #[error("the cluster's network {range} has no free part for another machine")]
    NoFreeSubnet { range: MachineSubnet },
    #[error("this cloud has one machine and no authority")]
    NoAuthority,
    #[error("the store belongs to a cluster with another authority")]
    OtherAuthority,
    #[error("machine {machine} is not in the cluster, or has another key")]
    NotMember { machine: MachineName },
    #[error("there is no machine {machine}")]
    MachineNotFound { machine: MachineName },
    #[error("machine {machine} has left the cluster")]
    MachineRemoved { machine: MachineName },
    #[error("machine {machine} has {copies} {}", if *.copies == 1 { "copy" } else { "copies" })]
    MachineInUse { machine: MachineName, copies: usize, is_lost: bool },
    #[error("a reason of {bytes} bytes: at most {most}, on one line")]
    InvalidMachineReason { bytes: usize, most: usize },
    #[error("{count} labels of a machine: at most {most}")]
    TooManyLabels { count: usize, most: usize },
    #[error("there is no base {base}")]
    BaseNotFound { base: BaseName },
    #[error("base {base} is still the base of {}", join_names(.apps))]
    BaseInUse { base: BaseName, apps: Vec<AppName> },
    #[error("base {base} was not made as a stack")]
    StackNameTaken { base: BaseName },
    #[error("base {base} was replaced or removed meanwhile")]
    BaseChanged { base: BaseName },
    #[error("{app} has no code {code}")]
    CodeNotFound { app: AppName, code: RoleName },
    #[error("{role} is a role of the current release of {app}")]
    CodeIsRole { app: AppName, role: RoleName },
    #[error("{app} has {most} codes, the most that an app may have")]
    TooManyCodes { app: AppName, most: usize },
    #[error("{app} is being built")]
    BuildInProgress { app: AppName },

    #[error("{key:?} cannot be the name of an environment variable")]
    InvalidVariableName { key: String },
    #[error("{key} is set by Gantry itself")]
    ReservedVariable { key: String },
    #[error("the value of {key} holds a NUL character")]
    InvalidVariableValue { key: String },
    #[error(transparent)]
    ValueTooLong(#[from] TooLong),
    #[error(
        "the configuration is too large: {count} values, {bytes} bytes; at most {most_values} values, {most_bytes} bytes"
    )]
    ConfigTooLarge { count: usize, bytes: usize, most_values: usize, most_bytes: usize },
    #[error("a rollback of {app} is under way, and restores the configuration of its release")]
    RollbackInProgress { app: AppName },

    #[error("deploy {deploy} of {by} is under way with {commit}, which this is not built on")]
    DeployInProgress { app: AppName, deploy: DeployNumber, by: String, commit: String },
    #[error("{app} has no release {release}")]
    ReleaseNotFound { app: AppName, release: ReleaseNumber },
    #[error("{app} has no release yet")]
    NoRelease { app: AppName },
    #[error("{app} has no good release before {current}")]
    NoEarlierRelease { app: AppName, current: ReleaseNumber },
    #[error("{app} has no held deploy to promote")]
    NoHeldDeploy { app: AppName },
    #[error("{app} has no deploy under way to abort")]
    NoDeployInProgress { app: AppName },

    #[error("{app} has no role {role} to scale")]
    RoleNotFound { app: AppName, role: RoleName, known: Vec<RoleName> },
    #[error("{role} has a volume or is single, so it has one copy")]
    SingleWriter { role: RoleName },
    #[error("{role} is global: it has a copy on every machine that fits")]
    GlobalRole { role: RoleName },
    #[error("{role}={count}: at most {most} copies of a role")]
    TooManyCopies { role: RoleName, count: u32, most: u32 },
    #[error("{count} roles are scaled: at most {most}")]
    TooManyRoles { count: usize, most: usize },

    #[error("a message of {bytes} bytes: at most {most}, on one line")]
    InvalidMaintenanceMessage { bytes: usize, most: usize },
    #[error("a limit of 0 lets nothing through")]
    ZeroLimit,
    #[error("{rule}: {error}")]
    InvalidPolicyValue { rule: PolicyKey, error: RuleError },
    #[error("{address} would become the address of {app}, and is a host of {other}")]
    DomainTaken { address: String, app: AppName, other: AppName },
    #[error("{count} trusted proxies: at most {most}")]
    TooManyProxies { count: usize, most: usize },

    #[error("a token's name has 1 to 100 printable characters")]
    InvalidTokenName,
    #[error("there is a token {token:?} already")]
    TokenExists { token: String },
    #[error("there is no token {token:?}")]
    TokenNotFound { token: String },
    #[error("the lifetime of a token must be greater than zero")]
    ZeroLifetime,

    #[error("there is no image {repository}:{reference}")]
    ImageNotFound { repository: String, reference: String },
    #[error("{list}, and no more are taken")]
    RepositoryFull { list: FullList },

    #[error("the app's images have no volume {volume}")]
    VolumeNotFound { volume: String },
    #[error("an app's images have at most {most} volumes")]
    TooManyVolumes { most: usize },
    #[error("volumes {first} and {second} would both be at {path}")]
    VolumePathTaken { first: String, second: String, path: String },
}

/// A list of the registry that takes no more entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FullList {
    /// The manifests of a repository.
    #[error("repository {repository} has {most} manifests")]
    Manifests {
        /// The repository.
        repository: String,
        /// The limit.
        most: usize,
    },
    /// The tags of a repository.
    #[error("repository {repository} has {most} tags")]
    Tags {
        /// The repository.
        repository: String,
        /// The limit.
        most: usize,
    },
    /// The manifests that refer to an image.
    #[error("{most} manifests refer to this subject")]
    Referrers {
        /// The limit.
        most: usize,
    },
}

fn join_names<T: ToString>(names: &[T]) -> String {
    names.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

impl Refusal {
    /// Returns the stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::AppNotFound { .. } => ErrorCode::AppNotFound,
            Self::AppExists { .. } => ErrorCode::AppExists,
            Self::AppBeingDestroyed { .. } => ErrorCode::AppBeingDestroyed,
            Self::RenameInProgress { .. } => ErrorCode::RenameInProgress,
            Self::RenameDuringDeploy { .. } => ErrorCode::RenameDuringDeploy,
            Self::RenameWhilePaused { .. } => ErrorCode::RenameWhilePaused,
            Self::FormerNameInUse { .. } => ErrorCode::FormerNameInUse,
            Self::NoVolumeFolder { .. } => ErrorCode::NoVolumeFolder,
            Self::HostTaken { .. } => ErrorCode::HostTaken,
            Self::HostReserved { .. } => ErrorCode::HostReserved,
            Self::HostNotFound { .. } => ErrorCode::HostNotFound,
            Self::TooManyHosts { .. } => ErrorCode::TooManyHosts,
            Self::NoHostChange => ErrorCode::NoChange,
            Self::InvalidBranch { .. } => ErrorCode::InvalidBranch,
            Self::MachineNameTaken { .. } => ErrorCode::MachineNameTaken,
            Self::JoinTokenUnknown => ErrorCode::JoinTokenUnknown,
            Self::JoinTokenExpired { .. } => ErrorCode::JoinTokenExpired,
            Self::JoinTokenUsed => ErrorCode::JoinTokenUsed,
            Self::JoinTokenRole { .. } => ErrorCode::JoinTokenRole,
            Self::InvalidJoinLifetime => ErrorCode::InvalidJoinLifetime,
            Self::NoFreeSubnet { .. } => ErrorCode::NoFreeSubnet,
            Self::NoAuthority => ErrorCode::NoAuthority,
            Self::OtherAuthority => ErrorCode::OtherAuthority,
            Self::NotMember { .. } => ErrorCode::NotMember,
            Self::MachineNotFound { .. } => ErrorCode::MachineNotFound,
            Self::MachineRemoved { .. } => ErrorCode::MachineRemoved,
            Self::MachineInUse { .. } => ErrorCode::MachineInUse,
            Self::InvalidMachineReason { .. } => ErrorCode::InvalidMachineReason,
            Self::TooManyLabels { .. } => ErrorCode::TooManyLabels,
            Self::BaseNotFound { .. } => ErrorCode::BaseNotFound,
            Self::BaseInUse { .. } => ErrorCode::BaseInUse,
            Self::StackNameTaken { .. } => ErrorCode::StackNameTaken,
            Self::BaseChanged { .. } => ErrorCode::BaseChanged,
            Self::CodeNotFound { .. } => ErrorCode::CodeNotFound,
            Self::CodeIsRole { .. } => ErrorCode::CodeIsRole,
            Self::TooManyCodes { .. } => ErrorCode::TooManyCodes,
            Self::BuildInProgress { .. } => ErrorCode::BuildInProgress,
            Self::InvalidVariableName { .. } => ErrorCode::InvalidVariableName,
            Self::ReservedVariable { .. } => ErrorCode::ReservedVariable,
            Self::InvalidVariableValue { .. } => ErrorCode::InvalidVariableValue,
            Self::ValueTooLong(_) => ErrorCode::ValueTooLong,
            Self::ConfigTooLarge { .. } => ErrorCode::ConfigTooLarge,
            Self::RollbackInProgress { .. } => ErrorCode::RollbackInProgress,
            Self::DeployInProgress { .. } => ErrorCode::DeployInProgress,
            Self::ReleaseNotFound { .. } => ErrorCode::ReleaseNotFound,
            Self::NoRelease { .. } => ErrorCode::NoRelease,
            Self::NoEarlierRelease { .. } => ErrorCode::NoEarlierRelease,
            Self::NoHeldDeploy { .. } => ErrorCode::NoHeldDeploy,
            Self::NoDeployInProgress { .. } => ErrorCode::NoDeployInProgress,
            Self::RoleNotFound { .. } => ErrorCode::RoleNotFound,
            Self::SingleWriter { .. } => ErrorCode::SingleWriter,
            Self::GlobalRole { .. } => ErrorCode::GlobalRole,
            Self::TooManyCopies { .. } => ErrorCode::TooManyCopies,
            Self::TooManyRoles { .. } => ErrorCode::TooManyRoles,
            Self::InvalidMaintenanceMessage { .. } => ErrorCode::InvalidMaintenanceMessage,
            Self::ZeroLimit => ErrorCode::ZeroLimit,
            Self::InvalidPolicyValue { .. } => ErrorCode::InvalidPolicyValue,
            Self::DomainTaken { .. } => ErrorCode::DomainTaken,
            Self::TooManyProxies { .. } => ErrorCode::TooManyProxies,
            Self::InvalidTokenName => ErrorCode::InvalidTokenName,
            Self::TokenExists { .. } => ErrorCode::TokenExists,
            Self::TokenNotFound { .. } => ErrorCode::TokenNotFound,
            Self::ZeroLifetime => ErrorCode::ZeroLifetime,
            Self::ImageNotFound { .. } => ErrorCode::ImageNotFound,
            Self::RepositoryFull { .. } => ErrorCode::RepositoryFull,
            Self::VolumeNotFound { .. } => ErrorCode::VolumeNotFound,
            Self::TooManyVolumes { .. } => ErrorCode::TooManyVolumes,
            Self::VolumePathTaken { .. } => ErrorCode::VolumePathTaken,
        }
    }

    /// Returns the remedy, where the text and the code alone do not suggest one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::AppNotFound { .. } => "`gantry app ls` lists the apps",
            Self::AppExists { app } => {
                return Some(format!("choose another name, or look at that app with `gantry app show {app}`"));
            }
            Self::AppBeingDestroyed { .. } => "try again once the removal is over",
            Self::HostTaken { host, app } => {
                return Some(format!("`gantry app host {app} --rm {host}` frees the host"));
            }
            Self::RenameInProgress { .. } => "try again once the rename is over; `gantry events` says when",
            Self::RenameWhilePaused { app } => {
                return Some(format!("`gantry resume {app}` or `gantry maintenance off {app}` first"));
            }
            Self::RenameDuringDeploy { app, .. } => return Some(format!("rename {app} once the deploy is over")),
            Self::FormerNameInUse { address, app, .. } => {
                return Some(format!("`gantry app host {app} --rm {address}` frees the address"));
            }
            Self::HostNotFound { app, .. } => return Some(format!("`gantry app show {app}` lists the hosts")),
            Self::MachineNameTaken { .. } => {
                "give this machine another name with `--machine`, or stop the other machine's agent"
            }
            Self::JoinTokenUnknown
            | Self::JoinTokenExpired { .. }
            | Self::JoinTokenUsed
            | Self::JoinTokenRole { .. }
            | Self::NotMember { .. } => {
                "`gantry cluster join-token create --role ROLE` on a server makes a new join token"
            }
            Self::NoAuthority => "`gantry server init` prepares the cluster for more machines",
            Self::MachineNotFound { .. } => "`gantry machine ls` lists the machines",
            Self::MachineRemoved { .. } => {
                "`gantry join SERVER:PORT --token TOKEN` with a new join token lets the machine join again"
            }
            Self::MachineInUse { machine, is_lost: true, .. } => {
                return Some(format!(
                    "`gantry machine rm {machine} --force` gives up the copies and the volumes of the machine"
                ));
            }
            Self::MachineInUse { machine, .. } => {
                return Some(format!("`gantry machine drain {machine}` moves the copies to other machines"));
            }
            Self::BaseNotFound { .. } => "`gantry base ls` lists the bases",
            Self::BaseChanged { .. } => "upload the code again",
            Self::CodeNotFound { .. } => "`gantry code ls` lists the codes",
            Self::CodeIsRole { .. } => "give the code another name",
            Self::TooManyCodes { app, .. } => return Some(format!("remove one with `gantry code rm {app}/CODE`")),
            Self::StackNameTaken { base } => {
                return Some(format!("use the base as it is, or remove it first with `gantry base rm {base}`"));
            }
            Self::BuildInProgress { .. } => "remove the base once the build is over",
            Self::RollbackInProgress { .. } => "set the value again once the rollback is over",
            Self::ReleaseNotFound { app, .. } | Self::NoEarlierRelease { app, .. } => {
                return Some(format!("`gantry releases {app}` lists the releases"));
            }
            Self::NoRelease { app } => {
                return Some(format!("push a commit, or run `gantry deploy {app} --image REF`"));
            }
            Self::SingleWriter { .. } => "scale the role to 0 or 1",
            Self::TooManyCopies { .. } => "`gantry cluster policy set max-copies=COUNT` changes the limit",
            Self::InvalidVariableName { .. } => {
                "a name begins with a letter or `_`, and has letters, digits, `_`, `.` and `-`"
            }
            Self::ReservedVariable { .. } => "choose another name",
            Self::NoHeldDeploy { app } => {
                return Some(format!(
                    "`git push -o hold` and `gantry deploy {app} --image REF --hold` make a held deploy"
                ));
            }
            Self::NoDeployInProgress { app } => {
                return Some(format!("`gantry rollback {app}` undoes a deploy that is done"));
            }
            Self::ZeroLimit => {
                "`gantry pause APP` lets requests wait, `gantry maintenance on APP --message TEXT` refuses them"
            }
            Self::TooManyProxies { .. } => "name the ranges that hold these addresses",
            Self::DomainTaken { address, other, .. } => {
                return Some(format!("`gantry app host {other} --rm {address}` frees the address"));
            }
            Self::TokenExists { token } => {
                return Some(format!("choose another name, or remove that token with `gantry token revoke {token}`"));
            }
            Self::TokenNotFound { .. } => "`gantry token ls` lists the tokens",
            Self::RepositoryFull { .. } => "remove what is no longer used, then push again",
            Self::BaseInUse { apps, .. } => {
                return apps.first().map(|app| format!("`gantry app base {app} OTHER` puts the app on another base"));
            }
            Self::DeployInProgress { app, .. } => {
                return Some(format!("fetch and push again once the deploy is done, or `gantry abort {app}` first"));
            }
            Self::RoleNotFound { known, .. } => return Some(format!("the roles are {}", join_names(known))),
            Self::VolumePathTaken { first, .. } => {
                return Some(format!("`--volume {first}:` takes the first away; its data stays"));
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
