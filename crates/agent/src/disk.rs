//! Enforces the disk limit of instances: the bytes they write outside their volumes. Usage is counted when free space
//! has shrunk, and periodically. An instance over its limit is killed, so that the others have disk space left.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_linux::cgroup::Cgroup;
use gantry_linux::disk::{UsageSchedule, free, nameless};
use gantry_linux::tree;
use gantry_model::{Bytes, InstanceId};
use gantry_sandbox::Container;
use gantry_supervision::{Backoff, ReconcileLoop};

use crate::AgentContext;
use crate::one_off;
use crate::records::{self, ContainerPaths};

/// Poll interval for the free space; a poll is one system call.
const LOOK: Duration = Duration::from_millis(250);

/// Instances that were killed because they exceeded their disk limit.
#[derive(Default)]
pub(crate) struct DiskOverruns(Mutex<BTreeSet<InstanceId>>);

impl DiskOverruns {
    fn over(&self) -> std::sync::MutexGuard<'_, BTreeSet<InstanceId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the instance exceeded its disk limit since its last start.
    pub(crate) fn is_over(&self, id: &InstanceId) -> bool {
        self.over().contains(id)
    }

    /// Forgets, at a new start, that the instance exceeded its limit.
    pub(crate) fn begin(&self, id: &InstanceId) {
        self.over().remove(id);
    }
}

/// Enforces the disk limits, for ever.
pub(crate) async fn run(agent: Arc<AgentContext>) {
    let mut watch = UsageSchedule::default();
    let pass = async || {
        if watch.is_due(free(&agent.settings.data), Instant::now()) {
            check_usage(&agent).await;
        }
        Ok::<_, Infallible>(())
    };
    ReconcileLoop::new("disk limits", LOOK, Backoff::constant(LOOK)).run(pass).await;
}

/// Returns whether a container has used all of its disk limit. Deleted files that are still open count as well.
pub(crate) async fn is_full(paths: &ContainerPaths, limit: Bytes) -> bool {
    let (upper, group) = (paths.folder.join("upper"), Cgroup::named(&paths.cgroup));
    let count = move || {
        let named = tree::usage(&upper, limit.0).unwrap_or_default();
        named.saturating_add(nameless(&group.processes(), None, limit.0))
    };
    tokio::task::spawn_blocking(count).await.is_ok_and(|bytes| bytes >= limit.0)
}

/// Counts the usage of every instance and one-off, and kills each that exceeds its limit.
async fn check_usage(agent: &Arc<AgentContext>) {
    for id in agent.status.ids() {
        let paths = ContainerPaths::of(&agent.settings, &id);
        let Some(limit) = paths.read_record().map(|record| record.spec.role.limits.disk) else { continue };
        if is_full(&paths, limit).await && kill_running(&paths) {
            tracing::warn!(instance = %id, %limit, "killed: exceeded its disk limit");
            agent.disk.over().insert(id);
        }
    }
    for name in records::one_off_names(&agent.settings) {
        let paths = ContainerPaths::named(&agent.settings, &name, agent.settings.data.join("logs"));
        let Some(limit) = one_off::read_metadata(&paths).map(|note| note.disk) else { continue };
        if is_full(&paths, limit).await && kill_running(&paths) {
            tracing::warn!(name, %limit, "killed: exceeded its disk limit");
        }
    }
}

/// Kills the container that runs there; returns whether one was running. The container's own task cleans up: a
/// container that the kernel does not release must not delay counting.
fn kill_running(paths: &ContainerPaths) -> bool {
    let running = Container::adopt(&paths.state, &paths.cgroup).filter(Container::is_running);
    running.is_some_and(|container| container.signal(rustix::process::Signal::KILL).is_ok())
}
