//! Leases of running jobs, in memory.
//!
//! A machine renews the leases of all jobs that it names in a message. A renewal is no write. Ages advance by ticks: a
//! server that stood still counts as one tick, and reads the waiting renewals before the next.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::MachineName;

use crate::name::{Fence, JobId};

/// Time without a renewal after which a lease is lost, in milliseconds.
pub const LEASE_MILLIS: u64 = 15_000;

/// Longest time that counts for one tick, in milliseconds.
const TICK_MAX: u64 = 1000;

#[derive(Debug, Clone)]
struct Lease {
    machine: MachineName,
    fence: Fence,
    age: u64,
}

/// All leases.
#[derive(Debug, Clone, Default)]
pub struct LeaseTable {
    leases: BTreeMap<JobId, Lease>,
    by_machine: BTreeMap<MachineName, BTreeSet<JobId>>,
}

impl LeaseTable {
    /// Enters a lease. Also used for the leases that the previous server granted; those start over.
    pub fn grant(&mut self, job: JobId, fence: Fence, machine: MachineName) {
        self.end(job);
        self.by_machine.entry(machine.clone()).or_default().insert(job);
        self.leases.insert(job, Lease { machine, fence, age: 0 });
    }

    /// Renews the leases that a machine names. Returns the named jobs that the machine has no lease of: it must stop
    /// them.
    pub fn renew(&mut self, machine: &MachineName, named: &[(JobId, Fence)]) -> Vec<(JobId, Fence)> {
        let mut strange = Vec::new();
        for (job, fence) in named {
            match self.leases.get_mut(job) {
                Some(lease) if lease.machine == *machine && lease.fence == *fence => lease.age = 0,
                _ => strange.push((*job, *fence)),
            }
        }
        strange
    }

    /// Lets the leases of a machine lapse, except those of the jobs that the machine names. Only for the first report on a
    /// connection: jobs whose orders are on their way are in no report.
    pub fn lapse(&mut self, machine: &MachineName, named: &[(JobId, Fence)]) {
        let named: BTreeSet<JobId> = named.iter().map(|(job, _)| *job).collect();
        for job in self.by_machine.get(machine).into_iter().flatten().filter(|job| !named.contains(job)) {
            if let Some(lease) = self.leases.get_mut(job) {
                lease.age = LEASE_MILLIS;
            }
        }
    }

    /// Lets the time `elapsed` pass. Returns the leases that are lost now. They stay in the table until [`Self::end`].
    #[must_use]
    pub fn tick(&mut self, elapsed: u64) -> Vec<(JobId, Fence)> {
        let elapsed = elapsed.min(TICK_MAX);
        let mut lost = Vec::new();
        for (job, lease) in &mut self.leases {
            lease.age = lease.age.saturating_add(elapsed);
            if lease.age >= LEASE_MILLIS {
                lost.push((*job, lease.fence));
            }
        }
        lost
    }

    /// Removes the lease of a job.
    pub fn end(&mut self, job: JobId) {
        let Some(lease) = self.leases.remove(&job) else { return };
        if let Some(jobs) = self.by_machine.get_mut(&lease.machine) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.by_machine.remove(&lease.machine);
            }
        }
    }

    /// Number of jobs that a machine has.
    #[must_use]
    pub fn count(&self, machine: &MachineName) -> usize {
        self.by_machine.get(machine).map_or(0, BTreeSet::len)
    }

    /// The machine and token of a job's lease.
    #[must_use]
    pub fn of(&self, job: JobId) -> Option<(&MachineName, Fence)> {
        self.leases.get(&job).map(|lease| (&lease.machine, lease.fence))
    }
}
