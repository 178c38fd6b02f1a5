//! What instances write outside their volumes: counted when the disk has less than before, and now and then. One that wrote more
//! than it may is ended, so that the others have a disk to write to.

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

/// How often the free space is looked at; one system call.
const LOOK: Duration = Duration::from_millis(250);

/// Instances that were ended for what they wrote.
#[derive(Default)]
pub(crate) struct Disk(Mutex<BTreeSet<InstanceId>>);

impl Disk {
    fn over(&self) -> std::sync::MutexGuard<'_, BTreeSet<InstanceId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It wrote too much since it began.
    pub(crate) fn is_over(&self, id: &InstanceId) -> bool {
        self.over().contains(id)
    }

    /// It begins with nothing written.
    pub(crate) fn begin(&self, id: &InstanceId) {
        self.over().remove(id);
    }
}

/// Watches, for ever.
pub(crate) async fn run(agent: Arc<Agent>) {
    let mut watch = Watch::default();
    loop {
        if watch.is_due(free(&agent.settings.data), Instant::now()) {
            count(&agent).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// It has written all that it may: a single file ends there, by the kernel.
pub(crate) async fn is_full(places: &Places, limit: Bytes) -> bool {
    let (upper, group) = (places.folder.join("upper"), Cgroup::named(&places.cgroup));
    let count = move || {
        let named = tree::usage(&upper, limit.0).unwrap_or_default();
        named.saturating_add(nameless(&group.processes(), None, limit.0))
    };
    tokio::task::spawn_blocking(count).await.is_ok_and(|bytes| bytes >= limit.0)
}

/// Counts every instance and one-off, and ends those that wrote too much.
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

/// Ends what runs there; whether anything did. Whoever minds it clears up: one that the kernel does not let go keeps nobody
/// from being counted.
fn end(places: &Places) -> bool {
    let running = Container::adopt(&places.state, &places.cgroup).filter(Container::is_running);
    running.is_some_and(|container| container.signal(rustix::process::Signal::KILL).is_ok())
}
