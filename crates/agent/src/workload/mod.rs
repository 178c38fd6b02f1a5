//! The workload engine: one life cycle for everything that the agent runs in a container.
//!
//! ```text
//! clear ─► prepare ─► launch ─► watch, account ─► (stop) ─► discard
//! ```
//! - [`WorkloadKind`]: services, release steps, one-offs, builds and jobs, with a table of their differences.
//! - [`StartAttempts`], [`StopOrder`], [`Verdict`]: repeated starts, the stop with its grace time, and the verdict on an
//!   end.
//! - [`Workload`]: the steps of the life cycle. Each step can be repeated, and the agent can be killed between any two.
//! - [`TransientWorkload`]: a workload outside the plan. It ends with its owner, except a job.
//! - `prepared`: networks and control groups that are made ahead for jobs.
//!
//! The engine knows neither the plan nor health: `instance` decides when a container of the plan starts and stops.

mod kind;
pub(crate) mod prepared;
mod start;
mod stop;
mod transient;
mod verdict;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_error::ErrorChain;
use gantry_image::Accounts;
use gantry_linux::cgroup::Cgroup;
use gantry_linux::disk::nameless;
use gantry_linux::tree;
use gantry_model::{AllocationId, Bytes, InstanceSpec};
use gantry_sandbox::{
    BindMount, Container, ContainerLimits, ContainerNetwork, ContainerSpec, ExitRecord, LogFiles, ProcessUser,
    RootFilesystem, SandboxError, kill_rest, launch,
};
use gantry_supervision::{Backoff, Retry};

pub(crate) use self::kind::{DiskAccount, KindPolicy, SEGMENT, WorkloadKind};
pub(crate) use self::start::StartAttempts;
pub(crate) use self::stop::StopOrder;
pub(crate) use self::transient::{
    TransientMetadata, TransientWorkload, VolumeClaim, all_metadata, read_metadata, write_metadata,
};
pub(crate) use self::verdict::{ContainerEnd, Verdict};
use crate::instance::InstanceError;
use crate::records::ContainerPaths;
use crate::trash::REMOVAL_RETRY;
use crate::{AgentContext, AgentSettings};

/// A workload: a container with its folders and its control group.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    kind: WorkloadKind,
    name: String,
    paths: ContainerPaths,
}

/// The contents of a workload's container, apart from what the engine itself adds.
pub(crate) struct ContainerParts {
    /// Folders of the unpacked layers, topmost first.
    pub(crate) layers: Vec<PathBuf>,
    /// Program and arguments; empty for a container that idles.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) hostname: String,
    /// Short name of the container in its own `/etc/hosts`.
    pub(crate) short: String,
    pub(crate) cwd: String,
    pub(crate) user: ProcessUser,
    pub(crate) groups: Vec<u32>,
    /// First host id of the container's users.
    pub(crate) users: Option<u32>,
    pub(crate) limits: ContainerLimits,
    /// Users and groups to mount over those of the image.
    pub(crate) accounts: Option<Accounts>,
    pub(crate) volumes: Vec<BindMount>,
    /// False for a container that has only a loopback device.
    pub(crate) network: bool,
}

/// The network of the container with this address.
fn container_network(settings: &AgentSettings, address: Ipv4Addr) -> ContainerNetwork {
    ContainerNetwork {
        bridge: settings.bridge.clone(),
        link: format!("gt{:08x}", u32::from(address)),
        address,
        prefix: settings.prefix,
        gateway: settings.gateway,
    }
}

impl Workload {
    /// The workload of an instance.
    pub(crate) fn of_instance(settings: &AgentSettings, id: &AllocationId, spec: &InstanceSpec) -> Self {
        let paths = ContainerPaths::of(settings, id);
        Self { kind: WorkloadKind::of_instance(spec), name: id.to_string(), paths }
    }

    /// The workload outside the plan with this name.
    pub(crate) fn named(settings: &AgentSettings, kind: WorkloadKind, name: &str) -> Self {
        let logs = match kind.policy().keeps_output {
            true => settings.data.join("logs").join(name),
            false => settings.data.join("containers").join(name),
        };
        Self { kind, name: name.to_owned(), paths: ContainerPaths::named(settings, name, logs) }
    }

    /// A container whose record cannot be read. Such a container can only be removed.
    pub(crate) fn leftover(settings: &AgentSettings, name: &str) -> Self {
        Self::named(settings, WorkloadKind::of_name(name).unwrap_or(WorkloadKind::OneOff), name)
    }

    pub(crate) fn kind(&self) -> WorkloadKind {
        self.kind
    }

    /// The name of the container.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn paths(&self) -> &ContainerPaths {
        &self.paths
    }

    /// The exit of the container's program; none before pid 1 has written it.
    pub(crate) fn exit(&self) -> Option<ExitRecord> {
        ExitRecord::read(&self.paths.exit())
    }

    /// The container, if one exists.
    pub(crate) fn container(&self) -> Option<Container> {
        Container::adopt(&self.paths.state, &self.paths.cgroup)
    }

    /// Ends every process of the workload and removes its container. The files stay.
    pub(crate) async fn clear(&self) -> Result<(), SandboxError> {
        match self.container() {
            Some(container) => container.destroy().await,
            // A worker that was killed midway leaves a control group without a record.
            None => kill_rest(&self.paths.cgroup).await,
        }
    }

    /// Creates the container's empty folders, and returns the container's specification. The previous container has
    /// been cleared.
    pub(crate) fn prepare(
        &self,
        agent: &AgentContext,
        parts: ContainerParts,
        address: Ipv4Addr,
    ) -> io::Result<ContainerSpec> {
        let (paths, policy) = (&self.paths, self.kind.policy());
        for name in ["upper", "work", "root"] {
            let folder = paths.folder.join(name);
            tree::remove(&folder)?;
            std::fs::create_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&paths.state)?;
        std::fs::create_dir_all(&paths.logs)?;
        let [hosts, resolv, name] = ["hosts", "resolv.conf", "hostname"].map(|name| paths.folder.join(name));
        let machine = format!("{} host.internal host.docker.internal", agent.settings.gateway);
        let own = format!("{address} {} {}", parts.hostname, parts.short);
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n::1 localhost\n{own}\n{machine}\n"))?;
        std::fs::write(&name, format!("{}\n", parts.hostname))?;
        std::fs::write(&resolv, format!("nameserver {}\n", agent.settings.gateway))?;
        let read_only = |source, target: &str| BindMount { source, target: target.into(), writable: false };
        let mut binds = vec![
            read_only(hosts, "/etc/hosts"),
            read_only(resolv, "/etc/resolv.conf"),
            read_only(name, "/etc/hostname"),
        ];
        if let Some(accounts) = &parts.accounts {
            let [passwd, group] = accounts.write(&paths.folder)?;
            binds.extend([read_only(passwd, "/etc/passwd"), read_only(group, "/etc/group")]);
        }
        binds.extend(parts.volumes);
        Ok(ContainerSpec {
            state: paths.state.clone(),
            cgroup: paths.cgroup.clone(),
            root: RootFilesystem {
                layers: parts.layers,
                upper: paths.folder.join("upper"),
                work: paths.folder.join("work"),
                mountpoint: paths.folder.join("root"),
            },
            args: parts.args,
            env: parts.env,
            hostname: parts.hostname,
            cwd: parts.cwd,
            user: parts.user,
            groups: parts.groups,
            users: parts.users,
            limits: parts.limits,
            network: parts.network.then(|| container_network(&agent.settings, address)),
            binds,
            log: LogFiles { segments: gantry_relay::segments(&paths.logs), limit: policy.segment },
            exit: paths.exit(),
            fenced: false,
            durable_exit: policy.durable_exit,
            init: agent.init.clone(),
        })
    }

    /// Starts the prepared container.
    pub(crate) async fn launch(&self, spec: &ContainerSpec) -> Result<Container, SandboxError> {
        launch(spec).await
    }

    /// Bytes that the container has written, deleted but open files included, and bytes in the folder `also`. Counting
    /// stops above `most`.
    pub(crate) async fn written(&self, also: Option<&Path>, most: u64) -> u64 {
        let (upper, group) = (self.paths.folder.join("upper"), Cgroup::named(&self.paths.cgroup));
        let also = also.map(Path::to_owned);
        let count = move || {
            let folders = [Some(&upper), also.as_ref()].into_iter().flatten();
            let named = folders.map(|folder| tree::usage(folder, most).unwrap_or_default());
            let nameless = nameless(&group.processes(), also.as_deref(), most);
            named.fold(nameless, u64::saturating_add)
        };
        tokio::task::spawn_blocking(count).await.unwrap_or_default()
    }

    /// Reports whether the container has used all of its disk limit.
    pub(crate) async fn is_full(&self, limit: Bytes) -> bool {
        self.written(None, limit.0).await >= limit.0
    }

    /// Kills the container; returns whether it was running. The owner of the workload cleans up: a container that the
    /// kernel does not release delays no other workload.
    pub(crate) fn kill(&self) -> bool {
        let running = self.container().filter(Container::is_running);
        running.is_some_and(|container| container.signal(rustix::process::Signal::KILL).is_ok())
    }

    /// Ends the workload and removes all that is left, except output that its kind keeps. One attempt.
    pub(crate) async fn try_discard(&self, agent: &Arc<AgentContext>) -> Result<(), InstanceError> {
        self.clear().await.map_err(InstanceError::End)?;
        self.paths.remove(agent).await.map_err(InstanceError::Files)
    }

    /// Ends the workload and removes all that is left, however long that takes. Retries while the kernel does not
    /// release the container, and passes each failure to `told`.
    pub(crate) async fn discard(&self, agent: &Arc<AgentContext>, told: impl Fn(String)) {
        let attempt = || async {
            self.try_discard(agent).await.inspect_err(|error| {
                let why = ErrorChain(error).to_string();
                tracing::error!(name = self.name, why, "cannot remove a leftover container; retrying");
                told(format!("cannot be removed; retrying: {why}"));
            })
        };
        // Each failure is logged above, with the name of the container.
        let retry = Retry::new("removal of a container", Backoff::constant(REMOVAL_RETRY)).quiet_for(u64::MAX);
        retry.until_done(attempt).await;
    }
}
