//! Inputs of a planning pass, with the queries that all modules need.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_model::{
    AppName, Assignment, Generation, InstanceId, MachineName, Moment, ObservedCluster, ObservedInstance, Plan, Reason,
};

use crate::PlannerPolicy;

/// Inputs of one pass.
pub(crate) struct PlanningInput<'a> {
    pub(crate) observed: &'a ObservedCluster,
    pub(crate) previous: &'a Plan,
    pub(crate) policy: &'a PlannerPolicy,
    pub(crate) now: Moment,
    /// For both apps of each rename under way, the other app.
    pub(crate) renames: BTreeMap<AppName, AppName>,
}

/// State of an instance, as its machine reports it.
pub(crate) enum ReportedState<'a> {
    /// Unknown: the machine has not accepted the plan with the instance, or has never reported.
    Unknown,
    /// Absent: the machine reports that the instance does not exist.
    Absent,
    /// Present, with the machine's report of the instance.
    Here(&'a ObservedInstance),
}

impl<'a> PlanningInput<'a> {
    /// Reports whether both instances are of one app, or of the two apps of a rename.
    pub(crate) fn is_same_app(&self, one: &InstanceId, other: &InstanceId) -> bool {
        one.app == other.app || self.renames.get(&one.app) == Some(&other.app)
    }

    /// Milliseconds since the routing table lost an instance that was retired at `since`. The count restarts with the
    /// controller, because the wall clock may have jumped while no controller ran.
    pub(crate) fn retired_for(&self, since: Moment) -> u64 {
        self.now.since(since.max(self.observed.began))
    }

    /// The address of an instance in its machine's last report.
    pub(crate) fn address(&self, id: &InstanceId) -> Option<Ipv4Addr> {
        let reports = self.observed.machines.values();
        reports.filter_map(|report| report.instances.get(id)).find_map(|instance| instance.address)
    }

    /// Reports whether any machine has an instance with this id.
    pub(crate) fn is_reported(&self, id: &InstanceId) -> bool {
        self.observed.machines.values().any(|report| report.instances.contains_key(id))
    }

    /// The machine and the assignment of an instance in the previous plan.
    pub(crate) fn assigned(&self, id: &InstanceId) -> Option<(&'a MachineName, &'a Assignment)> {
        self.previous.machines.iter().find_map(|(machine, part)| part.instances.get(id).map(|a| (machine, a)))
    }

    /// The reported state of an instance that the previous plan assigns.
    pub(crate) fn seen(&self, id: &InstanceId) -> ReportedState<'a> {
        self.assigned(id).map_or(ReportedState::Unknown, |(machine, _)| self.seen_on(machine, id))
    }

    /// The state of an instance in the report of `machine`.
    pub(crate) fn seen_on(&self, machine: &MachineName, id: &InstanceId) -> ReportedState<'a> {
        let Some(report) = self.observed.machines.get(machine) else {
            return ReportedState::Unknown;
        };
        let planned = self.previous.machines.get(machine).map_or(Generation(0), |part| part.generation);
        match report.instances.get(id) {
            Some(instance) => ReportedState::Here(instance),
            None if report.generation < planned => ReportedState::Unknown,
            None => ReportedState::Absent,
        }
    }

    /// Why some router is not at `generation`; `None` if every live router is there. A router with a generation that
    /// was never assigned counts as behind: its routing table comes from records that were lost.
    pub(crate) fn routers_behind(&self, generation: Generation) -> Option<Reason> {
        if self.observed.awaits_routers(self.now) {
            return Some(Reason::NoRouter);
        }
        self.observed
            .live_routers(self.now)
            .find(|(_, router)| router.generation < generation || router.generation > self.previous.table.generation)
            .map(|(id, router)| Reason::RouterBehind { router: id.clone(), has: router.generation, needs: generation })
    }

    /// Requests in progress at an instance, summed over all live routers.
    pub(crate) fn active_requests(&self, id: &InstanceId) -> u64 {
        self.observed.live_routers(self.now).filter_map(|(_, router)| router.active.get(id)).sum()
    }
}
