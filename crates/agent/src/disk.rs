//! What instances write outside their volumes: counted when the disk has less than before, and now and then. One that wrote more
//! than it may is ended, so that the others have a disk to write to.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_model::{Bytes, InstanceId};
use gantry_sandbox::Container;

use crate::Agent;
use crate::records::Places;

/// How often the free space is looked at; one system call.
const LOOK: Duration = Duration::from_secs(1);

/// Less free space than at the last count is a reason to count.
const LESS: u64 = 64 << 20;

/// Counted at least so often.
const COUNT: Duration = Duration::from_secs(60);

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
    let mut counted: Option<(Instant, u64)> = None;
    loop {
        let free = free(&agent.settings.data);
        let due = counted.is_none_or(|(at, then)| at.elapsed() >= COUNT || free + LESS <= then);
        if due {
            count(&agent).await;
            counted = Some((Instant::now(), free));
        }
        // What became free since is not to hide what is written next.
        counted = counted.map(|(at, then)| (at, then.max(free)));
        tokio::time::sleep(LOOK).await;
    }
}

/// It has written all that it may: a single file ends there, by the kernel.
pub(crate) async fn is_full(places: &Places, limit: Bytes) -> bool {
    let upper = places.folder.join("upper");
    let counted = tokio::task::spawn_blocking(move || gantry_linux::tree::usage(&upper, limit.0)).await;
    matches!(counted, Ok(Ok(bytes)) if bytes >= limit.0)
}

fn free(data: &Path) -> u64 {
    rustix::fs::statvfs(data).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
}

/// Counts every instance, and ends those that wrote too much.
async fn count(agent: &Arc<Agent>) {
    for id in agent.status.ids() {
        let places = Places::of(&agent.settings, &id);
        let Some(limit) = places.read().map(|record| record.spec.role.limits.disk) else { continue };
        if !is_full(&places, limit).await {
            continue;
        }
        let Some(container) = Container::adopt(&places.state, &places.cgroup) else { continue };
        if container.is_running() {
            tracing::warn!(instance = %id, %limit, "ended: it wrote more than it may");
            agent.disk.over().insert(id.clone());
            if let Err(error) = container.kill().await {
                tracing::error!(instance = %id, %error, "cannot be ended");
            }
        }
    }
}
