//! Inputs of a planning pass, indexed by app and instance, with the queries that all modules need.
//!
//! Every query costs the logarithm of its app's size, or is linear in its own app: a pass over all apps stays linear in
//! the cluster. The index of one app holds nothing of another app, so deploys of different apps do not see each other;
//! only the two apps of a rename do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use gantry_model::{
    AppName, Assignment, Deploy, DeployState, Generation, InstanceId, MachineName, Moment, ObservedCluster,
    ObservedInstance, ObservedRouter, Plan, Reason, Role, RouterId,
};

use crate::PlannerPolicy;

/// Inputs of one pass.
pub(crate) struct PlanningInput<'a> {
    pub(crate) observed: &'a ObservedCluster,
    pub(crate) previous: &'a Plan,
    pub(crate) policy: &'a PlannerPolicy,
    pub(crate) now: Moment,
    /// For both apps of each rename under way, the other app.
    renames: BTreeMap<AppName, AppName>,
    apps: BTreeMap<&'a AppName, AppIndex<'a>>,
    live_routers: Vec<(&'a RouterId, &'a ObservedRouter)>,
    /// Addresses of the previous routing table's names.
    named_addresses: BTreeSet<Ipv4Addr>,
    /// Requests in progress, summed over all live routers.
    active: BTreeMap<&'a InstanceId, u64>,
}

/// Everything that the previous plan and the reports contain about one app.
#[derive(Default)]
struct AppIndex<'a> {
    assigned: BTreeMap<&'a InstanceId, (&'a MachineName, &'a Assignment)>,
    /// The reported instances with their addresses.
    reported: BTreeMap<&'a InstanceId, Option<Ipv4Addr>>,
    /// Endpoints of the previous routing table.
    routed: BTreeMap<&'a InstanceId, Ipv4Addr>,
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
    /// Builds the indexes.
    pub(crate) fn new(
        observed: &'a ObservedCluster,
        previous: &'a Plan,
        policy: &'a PlannerPolicy,
        renames: BTreeMap<AppName, AppName>,
        now: Moment,
    ) -> Self {
        let mut apps: BTreeMap<&AppName, AppIndex<'_>> = BTreeMap::new();
        for (machine, part) in &previous.machines {
            for (id, assignment) in &part.instances {
                apps.entry(&id.app).or_default().assigned.entry(id).or_insert((machine, assignment));
            }
        }
        for (id, instance) in observed.machines.values().flat_map(|report| &report.instances) {
            let address = apps.entry(&id.app).or_default().reported.entry(id).or_default();
            *address = address.or(instance.address);
        }
        for endpoint in previous.table.routes.values().flat_map(|route| &route.endpoints) {
            let routed = &mut apps.entry(&endpoint.instance.app).or_default().routed;
            routed.entry(&endpoint.instance).or_insert(endpoint.address);
        }
        let live_routers: Vec<_> = observed.live_routers(now).collect();
        let mut active = BTreeMap::new();
        for (id, count) in live_routers.iter().flat_map(|(_, router)| &router.active) {
            *active.entry(id).or_default() += count;
        }
        let named_addresses = previous.table.names.values().flat_map(BTreeMap::values).flatten().copied().collect();
        Self { observed, previous, policy, now, renames, apps, live_routers, named_addresses, active }
    }

    /// The assignments of an app in the previous plan, by instance.
    pub(crate) fn assignments_of(&self, app: &AppName) -> impl Iterator<Item = (&'a InstanceId, &'a Assignment)> {
        let index = self.apps.get(app).into_iter();
        index.flat_map(|index| index.assigned.iter().map(|(id, (_, assignment))| (*id, *assignment)))
    }

    /// The highest release number of an app that a machine reports.
    pub(crate) fn highest_reported_release(&self, app: &AppName) -> Option<u64> {
        self.apps.get(app)?.reported.keys().map(|id| id.release.0).max()
    }

    /// The instance's endpoint in the previous routing table.
    pub(crate) fn routed_address(&self, id: &InstanceId) -> Option<Ipv4Addr> {
        self.apps.get(&id.app)?.routed.get(id).copied()
    }

    /// Reports whether the previous routing table names an instance, so that requests or name look-ups may lead there.
    /// Names are compared by address, because the table's names do not identify instances.
    pub(crate) fn is_named(&self, id: &InstanceId) -> bool {
        self.routed_address(id).is_some()
            || self.address(id).is_some_and(|address| self.named_addresses.contains(&address))
    }

    /// A copy from another release, of this app or of the other app of its rename, that blocks a stop-first role because
    /// the copy still exists.
    pub(crate) fn stop_first_blocker(&self, id: &InstanceId, role: &Role) -> Option<InstanceId> {
        let blocks = |other: &InstanceId, assignment: &Assignment| {
            other.role == id.role
                && other.release != id.release
                && (role.stop_first() || assignment.spec.role.stop_first())
        };
        let apps = [Some(&id.app), self.renames.get(&id.app)].into_iter().flatten();
        let mut others = apps.flat_map(|app| self.assignments_of(app));
        others.find(|(other, assignment)| blocks(other, assignment)).map(|(other, _)| other.clone())
    }

    /// Reports whether the deploy is in its bake time: after promotion the old release stands by for a while.
    pub(crate) fn is_baking(&self, deploy: &Deploy) -> bool {
        match deploy.state {
            DeployState::Promoting => true,
            // The bake time restarts with the controller: failures from its absence are reported first.
            DeployState::Draining => {
                self.now.since(deploy.entered.max(self.observed.began)) < self.policy.watch.millis()
            }
            _ => false,
        }
    }

    /// Milliseconds since the routing table lost an instance that was retired at `since`. The count restarts with the
    /// controller, because the wall clock may have jumped while no controller ran.
    pub(crate) fn retired_for(&self, since: Moment) -> u64 {
        self.now.since(since.max(self.observed.began))
    }

    /// The address of an instance in its machine's last report.
    pub(crate) fn address(&self, id: &InstanceId) -> Option<Ipv4Addr> {
        *self.apps.get(&id.app)?.reported.get(id)?
    }

    /// Reports whether any machine has an instance with this id.
    pub(crate) fn is_reported(&self, id: &InstanceId) -> bool {
        self.apps.get(&id.app).is_some_and(|index| index.reported.contains_key(id))
    }

    /// The machine and the assignment of an instance in the previous plan.
    pub(crate) fn assigned(&self, id: &InstanceId) -> Option<(&'a MachineName, &'a Assignment)> {
        self.apps.get(&id.app)?.assigned.get(id).copied()
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
        self.live_routers
            .iter()
            .find(|(_, router)| router.generation < generation || router.generation > self.previous.table.generation)
            .map(|(id, router)| Reason::RouterBehind {
                router: (*id).clone(),
                has: router.generation,
                needs: generation,
            })
    }

    /// Requests in progress at an instance, summed over all live routers.
    pub(crate) fn active_requests(&self, id: &InstanceId) -> u64 {
        self.active.get(id).copied().unwrap_or_default()
    }
}
