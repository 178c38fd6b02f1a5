//! Enforces the disk limit of instances: the bytes they write outside their volumes. Usage is counted when free space
//! has shrunk, and periodically. An instance over its limit is killed, so that the others have disk space left.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_linux::disk::{UsageSchedule, free};
use gantry_model::AllocationId;
use gantry_supervision::{Backoff, ReconcileLoop};

use crate::AgentContext;
use crate::records::{self, ContainerPaths};
use crate::workload::{DiskAccount, Workload, read_metadata};

/// Poll interval for the free space; a poll is one system call.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Instances that were killed because they exceeded their disk limit.
#[derive(Default)]
pub(crate) struct DiskOverruns(Mutex<BTreeSet<AllocationId>>);

impl DiskOverruns {
    fn over(&self) -> std::sync::MutexGuard<'_, BTreeSet<AllocationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the instance exceeded its disk limit since its last start.
    pub(crate) fn is_over(&self, id: &AllocationId) -> bool {
        self.over().contains(id)
    }

    /// Forgets, at a new start, that the instance exceeded its limit.
    pub(crate) fn begin(&self, id: &AllocationId) {
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
    ReconcileLoop::new("disk limits", POLL_INTERVAL, Backoff::constant(POLL_INTERVAL)).run(pass).await;
}

/// Counts the usage of every workload that runs under a limit, and kills each that exceeds its limit.
async fn check_usage(agent: &Arc<AgentContext>) {
    for id in agent.status.ids() {
        let Some(record) = ContainerPaths::of(&agent.settings, &id).read_record() else { continue };
        let (workload, limit) =
            (Workload::of_instance(&agent.settings, &id, &record.spec), record.spec.role.limits.disk);
        if workload.is_full(limit).await && workload.kill() {
            tracing::warn!(instance = %id, %limit, "killed: exceeded its disk limit");
            agent.disk.over().insert(id);
        }
    }
    for name in records::transient_names(&agent.settings) {
        let workload = Workload::leftover(&agent.settings, &name);
        if workload.kind().policy().disk == DiskAccount::Owner {
            continue;
        }
        let Some(limit) = read_metadata(workload.paths()).map(|metadata| metadata.disk) else { continue };
        if workload.is_full(limit).await && workload.kill() {
            tracing::warn!(name, %limit, "killed: exceeded its disk limit");
        }
    }
}
