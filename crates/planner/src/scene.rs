//! What a planning pass looks at, with the questions that every part asks of it.

use std::net::Ipv4Addr;

use gantry_model::{Assignment, Generation, InstanceId, MachineName, Moment, Observed, ObservedInstance, Plan, Reason};

use crate::Policy;

/// The inputs of one pass.
pub(crate) struct Scene<'a> {
    pub(crate) observed: &'a Observed,
    pub(crate) previous: &'a Plan,
    pub(crate) policy: &'a Policy,
    pub(crate) now: Moment,
}

/// What is known of an instance.
pub(crate) enum Seen<'a> {
    /// Its machine has not taken on the plan that names it, or has not reported at all.
    Unknown,
    /// Its machine says that it does not exist.
    Absent,
    /// Its machine says this of it.
    Here(&'a ObservedInstance),
}

impl<'a> Scene<'a> {
    /// For how many milliseconds the routers have had no table with an instance that was taken out at `since`. A planner that was away
    /// begins to count again, for the wall clock may have jumped meanwhile.
    pub(crate) fn retired_for(&self, since: Moment) -> u64 {
        self.now.since(since.max(self.observed.began))
    }

    /// The address of an instance, as its machine said last.
    pub(crate) fn address(&self, id: &InstanceId) -> Option<Ipv4Addr> {
        let reports = self.observed.machines.values();
        reports.filter_map(|report| report.instances.get(id)).find_map(|instance| instance.address)
    }

    /// Some machine has an instance of this name.
    pub(crate) fn is_reported(&self, id: &InstanceId) -> bool {
        self.observed.machines.values().any(|report| report.instances.contains_key(id))
    }

    /// Where the previous plan has an instance.
    pub(crate) fn assigned(&self, id: &InstanceId) -> Option<(&'a MachineName, &'a Assignment)> {
        self.previous.machines.iter().find_map(|(machine, part)| part.instances.get(id).map(|a| (machine, a)))
    }

    /// What is known of an instance that the previous plan assigns.
    pub(crate) fn seen(&self, id: &InstanceId) -> Seen<'a> {
        self.assigned(id).map_or(Seen::Unknown, |(machine, _)| self.seen_on(machine, id))
    }

    /// What `machine` says of an instance.
    pub(crate) fn seen_on(&self, machine: &MachineName, id: &InstanceId) -> Seen<'a> {
        let Some(report) = self.observed.machines.get(machine) else {
            return Seen::Unknown;
        };
        let planned = self.previous.machines.get(machine).map_or(Generation(0), |part| part.generation);
        match report.instances.get(id) {
            Some(instance) => Seen::Here(instance),
            None if report.generation < planned => Seen::Unknown,
            None => Seen::Absent,
        }
    }

    /// Why the routers are not all at `generation`; none when each live one is. One that is at a number which was not given yet has the
    /// table of records that are lost.
    pub(crate) fn routers_behind(&self, generation: Generation) -> Option<Reason> {
        if self.observed.routers_unheard(self.now) {
            return Some(Reason::NoRouter);
        }
        self.observed
            .live_routers(self.now)
            .find(|(_, router)| router.generation < generation || router.generation > self.previous.table.generation)
            .map(|(id, router)| Reason::RouterBehind { router: id.clone(), has: router.generation, needs: generation })
    }

    /// Requests under way to an instance, over all live routers.
    pub(crate) fn active_requests(&self, id: &InstanceId) -> u64 {
        self.observed.live_routers(self.now).filter_map(|(_, router)| router.active.get(id)).sum()
    }
}
