//! Leases and outgoing orders, in memory.

use std::collections::{BTreeMap, BTreeSet};

use gantry_control::jobs::{EndedJob, HeldJob, JobOrders, JobRef};
use gantry_model::{MachineName, Moment};
use gantry_queue::{Fence, JobId, LeaseTable};

/// Leases and outgoing orders.
#[derive(Default)]
pub(super) struct JobsState {
    leases: LeaseTable,
    started: BTreeMap<JobId, Moment>,
    /// Cancelled jobs that machines have not stopped yet.
    cancelling: BTreeSet<JobId>,
    machines: BTreeMap<MachineName, MachineJobs>,
    /// First reports that came before the leases of the previous server were known, with their capacity. An idle machine
    /// does not repeat its report.
    early: BTreeMap<MachineName, (u32, Vec<HeldJob>)>,
    extra_runs: u64,
}

#[derive(Default)]
struct MachineJobs {
    capacity: usize,
    orders: JobOrders,
}

impl JobsState {
    /// Takes over a lease that the previous server granted, unless the job has a lease already.
    pub(super) fn adopt(&mut self, lease: JobRef, machine: MachineName, cancelling: bool) {
        if self.leases.of(lease.job).is_some() {
            return;
        }
        if cancelling {
            self.cancelling.insert(lease.job);
        }
        self.grant(lease, machine);
    }

    pub(super) fn grant(&mut self, lease: JobRef, machine: MachineName) {
        self.leases.grant(lease.job, lease.fence, machine);
    }

    /// Applies the first report on a connection. No order is on its way, so the machine has lost the leases that the report
    /// does not name.
    pub(super) fn first_report(&mut self, machine: &MachineName, held: &[HeldJob]) {
        self.leases.lapse(machine, &leases_of(held));
    }

    /// Keeps a report until the leases of the previous server are known.
    pub(super) fn keep_early_report(&mut self, machine: &MachineName, capacity: u32, held: Vec<HeldJob>) {
        self.early.insert(machine.clone(), (capacity, held));
    }

    /// Applies the early reports, now that the leases of the previous server are known.
    pub(super) fn take_early_reports(&mut self) {
        for (machine, (capacity, held)) in std::mem::take(&mut self.early) {
            self.first_report(&machine, &held);
            self.report(&machine, capacity, &held, &[]);
        }
    }

    /// Applies a report: renews the named leases, and orders the machine to stop jobs that it must not run.
    pub(super) fn report(&mut self, machine: &MachineName, capacity: u32, held: &[HeldJob], ended: &[EndedJob]) {
        let named = leases_of(held);
        let strange = self.leases.renew(machine, &named);
        for held in held {
            if let (Some(started), Some((_, fence))) = (held.started, self.leases.of(held.lease.job))
                && fence == held.lease.fence
            {
                self.started.insert(held.lease.job, started);
            }
        }
        let cancelled = named.iter().filter(|(job, _)| self.cancelling.contains(job)).copied();
        let is_over = |job: JobId| ended.iter().any(|ended| ended.lease.job == job);
        let stop: BTreeSet<JobRef> = strange
            .into_iter()
            .chain(cancelled)
            .filter(|(job, _)| !is_over(*job))
            .map(|(job, fence)| JobRef { job, fence })
            .collect();
        let own = self.machines.entry(machine.clone()).or_default();
        own.capacity = usize::try_from(capacity).unwrap_or_default();
        own.orders.stop = stop.into_iter().collect();
    }

    /// Orders a machine to stop a cancelled job.
    pub(super) fn stop(&mut self, machine: &MachineName, lease: JobRef) {
        self.cancelling.insert(lease.job);
        self.machines.entry(machine.clone()).or_default().orders.stop.push(lease);
    }

    /// Acknowledges an end to its machine. The lease is over.
    pub(super) fn acknowledge(&mut self, machine: &MachineName, lease: JobRef) {
        if self.leases.of(lease.job).is_some_and(|(owner, fence)| owner == machine && fence == lease.fence) {
            self.end(lease.job);
        }
        self.machines.entry(machine.clone()).or_default().orders.acknowledged.push(lease);
    }

    /// Forgets the lease of a job.
    pub(super) fn end(&mut self, job: JobId) {
        self.leases.end(job);
        self.started.remove(&job);
        self.cancelling.remove(&job);
    }

    /// Takes the orders that wait for a machine.
    pub(super) fn take_orders(&mut self, machine: &MachineName) -> JobOrders {
        self.machines.get_mut(machine).map(|own| std::mem::take(&mut own.orders)).unwrap_or_default()
    }

    /// Number of further jobs that a machine takes now.
    pub(super) fn room(&self, machine: &MachineName) -> usize {
        let capacity = self.machines.get(machine).map_or(0, |own| own.capacity);
        capacity.saturating_sub(self.leases.count(machine))
    }

    /// The machines that take further jobs now.
    pub(super) fn with_room(&self) -> impl Iterator<Item = &MachineName> {
        self.machines.keys().filter(|machine| self.room(machine) > 0)
    }

    /// The machine's connection has ended: until its next report, it takes no jobs.
    pub(super) fn leave(&mut self, machine: &MachineName) {
        self.machines.remove(machine);
        self.early.remove(machine);
    }

    /// Lets time pass; returns the leases that are lost now.
    pub(super) fn tick(&mut self, elapsed: u64) -> Vec<JobRef> {
        self.leases.tick(elapsed).into_iter().map(|(job, fence)| JobRef { job, fence }).collect()
    }

    /// Counts an attempt that ended after its lease was lost; returns the count since the server's start.
    pub(super) fn count_extra_run(&mut self) -> u64 {
        self.extra_runs += 1;
        self.extra_runs
    }

    pub(super) fn started(&self, job: JobId) -> Option<Moment> {
        self.started.get(&job).copied()
    }
}

fn leases_of(held: &[HeldJob]) -> Vec<(JobId, Fence)> {
    held.iter().map(|held| (held.lease.job, held.lease.fence)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str) -> MachineName {
        MachineName::parse(name).expect("a name")
    }

    fn lease(job: u64, fence: u64) -> JobRef {
        JobRef { job: JobId(job), fence: Fence(fence) }
    }

    fn held(job: u64, fence: u64) -> HeldJob {
        HeldJob { lease: lease(job, fence), started: Some(Moment(5)) }
    }

    #[test]
    fn a_machine_has_room_once_it_has_reported_and_until_its_jobs_end() {
        let (mut state, m) = (JobsState::default(), machine("m"));
        assert_eq!(state.room(&m), 0);
        state.report(&m, 2, &[], &[]);
        state.grant(lease(1, 1), m.clone());
        assert_eq!(state.room(&m), 1);
        state.report(&machine("full"), 0, &[], &[]);
        assert_eq!(state.with_room().collect::<Vec<_>>(), [&m]);
        state.acknowledge(&m, lease(1, 1));
        assert_eq!((state.room(&m), state.take_orders(&m).acknowledged), (2, vec![lease(1, 1)]));
        state.leave(&m);
        assert_eq!(state.room(&m), 0);
    }

    #[test]
    fn orders_a_machine_to_stop_jobs_without_a_lease() {
        let (mut state, m) = (JobsState::default(), machine("m"));
        state.grant(lease(1, 1), m.clone());
        state.grant(lease(2, 2), machine("other"));
        state.report(&m, 4, &[held(1, 1), held(2, 1), held(3, 1)], &[]);
        let orders = state.take_orders(&m);
        assert_eq!(orders.stop, [lease(2, 1), lease(3, 1)]);
        assert_eq!((state.started(JobId(1)), state.started(JobId(2))), (Some(Moment(5)), None));
    }

    #[test]
    fn a_machine_that_comes_back_without_a_job_loses_it_at_once() {
        let (mut state, m) = (JobsState::default(), machine("m"));
        state.grant(lease(1, 1), m.clone());
        state.grant(lease(2, 1), m.clone());
        state.first_report(&m, &[held(2, 1)]);
        assert_eq!(state.tick(0), [lease(1, 1)]);
    }

    #[test]
    fn a_report_before_the_leases_are_known_counts_once_they_are() {
        let (mut state, m, gone) = (JobsState::default(), machine("m"), machine("gone"));
        state.keep_early_report(&m, 4, vec![held(1, 1)]);
        state.keep_early_report(&gone, 4, Vec::new());
        state.leave(&gone);
        state.adopt(lease(1, 1), m.clone(), false);
        state.adopt(lease(2, 2), m.clone(), false);
        assert_eq!(state.room(&m), 0);
        state.take_early_reports();
        assert_eq!((state.room(&m), state.room(&gone)), (2, 0));
        assert_eq!(state.tick(0), [lease(2, 2)], "the machine does not name this job");
    }

    #[test]
    fn repeats_the_order_to_stop_a_cancelled_job_until_it_has_ended() {
        let (mut state, m) = (JobsState::default(), machine("m"));
        state.adopt(lease(1, 1), m.clone(), true);
        for _ in 0..2 {
            state.report(&m, 4, &[held(1, 1)], &[]);
            assert_eq!(state.take_orders(&m).stop, [lease(1, 1)]);
        }
        state.acknowledge(&m, lease(1, 1));
        assert!(state.take_orders(&m).stop.is_empty());
    }
}
