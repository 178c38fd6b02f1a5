//! The work of a job: a role of a release, a revision of an uploaded code, or an image.

use std::collections::BTreeMap;

use gantry_model::role::Role;
use gantry_model::{AppName, Bytes, Digest, InstanceSpec, Kind, ReleaseConfig, ReleaseNumber, RoleCommand, RoleName};
use gantry_records::RevisionNumber;
use serde::{Deserialize, Serialize};

use crate::core::ClusterView;

/// The work of a job, as the queue stores it. A role is stored by its release, which does not change any more.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredWork {
    pub(crate) source: WorkSource,
    /// The image, which garbage collection keeps for the job.
    pub(crate) image: Digest,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) memory: Option<Bytes>,
    pub(crate) network: bool,
}

/// Names the environment without its values, which may be secret.
impl std::fmt::Debug for StoredWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source, image, command, env, memory, network } = self;
        f.debug_struct("StoredWork")
            .field("source", source)
            .field("image", image)
            .field("command", command)
            .field("env", &env.keys())
            .field("memory", memory)
            .field("network", network)
            .finish()
    }
}

/// Source of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkSource {
    /// A role of a release.
    Role { release: ReleaseNumber, role: RoleName },
    /// Only the image.
    Image,
    /// A revision of an uploaded code. The image has its command.
    Code { revision: RevisionNumber },
}

/// Reason why a job cannot be given to a machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    #[error("release {release} of {app} is gone; submit the job again")]
    ReleaseGone { release: ReleaseNumber, app: AppName },
    #[error("release {release} of {app} has no role {role}")]
    RoleMissing { release: ReleaseNumber, app: AppName, role: RoleName },
    #[error("the {part} of the job cannot be read; submit the job again")]
    Unreadable { part: &'static str },
}

impl StoredWork {
    pub(crate) fn network(&self) -> bool {
        self.network
    }

    /// The release for the job's environment, and the specification of the container; or why there is none.
    pub(super) fn resolve(self, view: &ClusterView, project: &AppName) -> Result<(String, InstanceSpec), WorkError> {
        let (number, mut spec) = match &self.source {
            WorkSource::Image => (String::new(), spec(self.image, own_command())),
            WorkSource::Code { .. } => {
                let config = view.records.apps.get(project).map(|app| app.config.clone()).unwrap_or_default();
                let spec = InstanceSpec { config: config.into(), ..spec(self.image, own_command()) };
                (String::new(), spec)
            }
            WorkSource::Role { release: number, role } => {
                let release = view
                    .records
                    .release(project, *number)
                    .ok_or_else(|| WorkError::ReleaseGone { release: *number, app: project.clone() })?;
                let role = release.roles.get(role).ok_or_else(|| WorkError::RoleMissing {
                    release: *number,
                    app: project.clone(),
                    role: role.clone(),
                })?;
                let config = release.config.clone();
                let commit = release.commit.clone();
                (number.to_string(), InstanceSpec { config, commit, ..spec(self.image, role.clone()) })
            }
        };
        if !self.command.is_empty() {
            spec.role.command = RoleCommand::Argv(self.command);
        }
        // The variables of the job go before all others.
        if !self.env.is_empty() {
            let mut values = (*spec.config).clone();
            values.extend(self.env);
            spec.config = values.into();
        }
        spec.role.limits.memory = self.memory.unwrap_or(spec.role.limits.memory);
        // A volume has one writer, and jobs run beside the role's own copy.
        spec.role.volumes.clear();
        spec.role.schedule = None;
        Ok((number, spec))
    }
}

/// A role with the command of its image.
fn own_command() -> Role {
    Role::new(RoleCommand::Argv(Vec::new()))
}

fn spec(image: Digest, role: Role) -> InstanceSpec {
    InstanceSpec {
        image,
        commit: None,
        config: ReleaseConfig::default(),
        role: Role { kind: Kind::Job, ..role },
        volumes_of: None,
    }
}
