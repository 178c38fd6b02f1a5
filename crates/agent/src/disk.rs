//! Enforces the disk limit of instances: the bytes they write outside their volumes. Usage is counted when free space
//! has shrunk, and periodically. An instance over its limit is killed, so that the others have disk space left.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_linux::cgroup::Cgroup;
use gantry_linux::disk::{Watch, free, nameless};
use gantry_linux::tree;
use gantry_model::{Bytes, InstanceId};
use gantry_sandbox::Container;

use crate::Agent;
use crate::once;
use crate::records::{self, Places};

/// Poll interval for the free space; a poll is one system call.
const LOOK: Duration = Duration::from_millis(250);

/// Instances that were killed because they exceeded their disk limit.
#[derive(Default)]
pub(crate) struct Disk(Mutex<BTreeSet<InstanceId>>);

impl Disk {
    fn over(&self) -> std::sync::MutexGuard<'_, BTreeSet<InstanceId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the instance exceeded its disk limit since its last start.
    pub(crate) fn is_over(&self, id: &InstanceId) -> bool {
        self.over().contains(id)
    }

    /// Forgets, at a new start, that the instance exceeded its limit.
    pub(crate) fn begin(&self, id: &InstanceId) {
        self.over().remove(id);
    }
}

/// Enforces the disk limits, for ever.
pub(crate) async fn run(agent: Arc<Agent>) {
    let mut watch = Watch::default();
    loop {
        if watch.is_due(free(&agent.settings.data), Instant::now()) {
            count(&agent).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a container has used all of its disk limit. Deleted files that are still open count as well.
pub(crate) async fn is_full(places: &Places, limit: Bytes) -> bool {
    let (upper, group) = (places.folder.join("upper"), Cgroup::named(&places.cgroup));
    let count = move || {
        let named = tree::usage(&upper, limit.0).unwrap_or_default();
        named.saturating_add(nameless(&group.processes(), None, limit.0))
    };
    tokio::task::spawn_blocking(count).await.is_ok_and(|bytes| bytes >= limit.0)
}

/// Counts the usage of every instance and one-off, and kills each that exceeds its limit.
async fn count(agent: &Arc<Agent>) {
    for id in agent.status.ids() {
        let places = Places::of(&agent.settings, &id);
        let Some(limit) = places.read().map(|record| record.spec.role.limits.disk) else { continue };
        if is_full(&places, limit).await && end(&places) {
            tracing::warn!(instance = %id, %limit, "ended: it wrote more than it may");
            agent.disk.over().insert(id);
        }
    }
    for name in records::others(&agent.settings) {
        let places = Places::named(&agent.settings, &name, agent.settings.data.join("logs"));
        let Some(limit) = once::noted(&places).map(|note| note.disk) else { continue };
        if is_full(&places, limit).await && end(&places) {
            tracing::warn!(name, %limit, "ended: it wrote more than it may");
        }
    }
}

/// Kills the container that runs there; returns whether one was running. The container's own task cleans up: a
/// container that the kernel does not release must not delay counting.
fn end(places: &Places) -> bool {
    let running = Container::adopt(&places.state, &places.cgroup).filter(Container::is_running);
    running.is_some_and(|container| container.signal(rustix::process::Signal::KILL).is_ok())
}
