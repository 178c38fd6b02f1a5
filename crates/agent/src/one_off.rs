//! One-off containers, for `gantry run`. The container idles. The command runs in the container as `exec` does, and
//! both end together.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::{AppName, InstanceSpec, ReleaseNumber, RoleCommand};
use gantry_sandbox::{Container, ExecSpec};

use crate::container::{self, ContainerNames};
use crate::instance::InstanceError;
use crate::workload::{TransientWorkload, VolumeClaim, WorkloadKind};
use crate::{AgentContext, images, volumes};

/// A running one-off container.
pub(crate) struct OneOff {
    agent: Arc<AgentContext>,
    workload: TransientWorkload,
    volume_folder: AppName,
    volumes: BTreeSet<String>,
    pub(crate) container: Container,
    /// The specification of the command that runs in the container.
    pub(crate) exec: ExecSpec,
}

impl OneOff {
    pub(crate) async fn start(
        agent: &Arc<AgentContext>,
        app: AppName,
        release: ReleaseNumber,
        mut spec: InstanceSpec,
        alone: BTreeSet<String>,
        command: Vec<String>,
        terminal: bool,
    ) -> Result<Self, InstanceError> {
        let _pin = agent.layers.pin()?;
        let image = images::fetch(agent, &app, &spec.image).await?;
        let name = format!("run-{app}-{:08x}", rand::random::<u32>());
        let workload = TransientWorkload::begin(agent, WorkloadKind::OneOff, &name)?;
        workload.own(&app);
        let volumes: BTreeSet<String> = spec.role.volumes.keys().cloned().collect();
        let volume_folder = spec.volume_folder(&app).clone();
        let claim = VolumeClaim { folder: volume_folder.clone(), volumes: volumes.clone(), alone };
        let names =
            ContainerNames { app, short: "run".to_owned(), release: release.to_string(), role: "run".to_owned() };
        spec.role.command = RoleCommand::Argv(Vec::new());
        let (digest, disk) = (spec.image.clone(), spec.role.limits.disk);
        let own = Arc::clone(agent);
        let parts = move || container::container_parts(&own, &name, &names, &spec, &image);
        let started = async {
            let made = workload.prepare(&digest, disk, Some(claim), parts).await?;
            Ok::<_, InstanceError>((workload.launch(&made).await?, made))
        };
        match started.await {
            Ok((container, made)) => {
                let exec = ExecSpec {
                    cgroup: made.cgroup,
                    args: command,
                    env: made.env,
                    cwd: made.cwd,
                    user: made.user,
                    groups: made.groups,
                    terminal,
                };
                Ok(Self { agent: Arc::clone(agent), workload, volume_folder, volumes, container, exec })
            }
            Err(error) => {
                workload.end().await;
                Err(error)
            }
        }
    }

    pub(crate) async fn end(self) {
        for volume in &self.volumes {
            volumes::mark_used(&self.agent.settings, &self.volume_folder, volume);
        }
        self.workload.end().await;
    }
}
