//! Safety during the run, judged by the true state of all processes:
//! - An instance is told to stop only once no live router leads requests or names to it. A router is live if its process
//!   runs and the leading server heard from it within the lease.
//! - No deploy fails because of a router. A router whose lease has ended is not waited for.
//! - Two containers never have the same volume, and two copies of a single role never run at once, even on machines that
//!   are cut off.
//! - An allocation is placed once: its identity never comes back.
//! - No acknowledged change is lost.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{
    AllocationId, AppName, DeployNumber, InstanceGoal, MachineAddress, MachinePlan, Moment, Reason, RoutingTable,
};
use gantry_records::{RecordChange, RecordIndex, StoreRecord};

use crate::events::Peer;
use crate::shapes::role_name;
use crate::simulation::Simulation;

/// Length of a router's lease in milliseconds. The number is repeated here, so that a change in the product is noticed.
const LEASE_MILLIS: u64 = 10_000;

/// Acknowledged facts about an app.
#[derive(Debug, Default)]
struct AcknowledgedApp {
    deploys: BTreeSet<DeployNumber>,
    /// The number of web copies; none if the outcome of a command is unknown.
    copies: Option<u32>,
}

/// Knowledge of the checks. The first name of an app is the key of its facts.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// When the leading server last heard from each peer.
    last_reports: BTreeMap<Peer, Moment>,
    /// All allocations so far.
    placed: BTreeSet<AllocationId>,
    apps: BTreeMap<AppName, AcknowledgedApp>,
    /// Apps that a user tried to destroy.
    destroyed: BTreeSet<AppName>,
}

impl Checks {
    pub(crate) fn record_report(&mut self, peer: Peer, now: Moment) {
        self.last_reports.insert(peer, now);
    }

    pub(crate) fn app_created(&mut self, app: &AppName) {
        self.apps.insert(app.clone(), AcknowledgedApp::default());
    }

    pub(crate) fn deploy_started(&mut self, app: &AppName, number: DeployNumber) {
        self.apps.entry(app.clone()).or_default().deploys.insert(number);
    }

    pub(crate) fn scaled(&mut self, app: &AppName, copies: u32) {
        self.apps.entry(app.clone()).or_default().copies = Some(copies);
    }

    pub(crate) fn scale_unknown(&mut self, app: &AppName) {
        self.apps.entry(app.clone()).or_default().copies = None;
    }

    pub(crate) fn destroy_requested(&mut self, app: &AppName) {
        self.destroyed.insert(app.clone());
    }

    pub(crate) fn may_be_destroyed(&self, app: &AppName) -> bool {
        self.destroyed.contains(app)
    }
}

/// An instance that a transaction tells to stop, with its address.
struct StoppedInstance {
    id: AllocationId,
    address: Option<MachineAddress>,
}

impl Simulation {
    /// Checks that no live router leads to an instance that a transaction tells to stop or removes.
    pub(crate) fn assert_barrier(&self, transaction: &[RecordChange]) {
        let stopped: Vec<StoppedInstance> = transaction.iter().flat_map(|change| self.stopped_by(change)).collect();
        if stopped.is_empty() {
            return;
        }
        let now = self.timeline.now;
        for (index, router) in self.routers.iter().enumerate() {
            let last_report = self.checks.last_reports.get(&Peer::Router(index));
            let is_live = router.is_up && last_report.is_some_and(|at| now.since(*at) <= LEASE_MILLIS);
            if let Some(table) = router.tables.part().filter(|_| is_live)
                && let Some(found) = stopped.iter().find(|stopped| leads_to(table, stopped))
            {
                let revision = table.generation;
                panic!("{} stops, and router {index} at revision {revision} still leads there", found.id);
            }
        }
    }

    /// Checks that a transaction lets no deploy fail because of a router.
    pub(crate) fn assert_no_router_fails_a_deploy(&self, transaction: &[RecordChange]) {
        for change in transaction {
            if let RecordChange::Put(record) = change
                && let StoreRecord::Deploy(deploy) = &**record
                && let Some(Reason::NoProgress { on: Some(reason), .. }) = &deploy.reason
                && matches!(**reason, Reason::RouterBehind { .. } | Reason::NoRouter)
            {
                panic!("deploy {} of {} failed: {reason:?}", deploy.number, deploy.app);
            }
        }
    }

    /// Checks that a transaction places no allocation that was placed before.
    pub(crate) fn assert_placed_once(&mut self, transaction: &[RecordChange]) {
        for change in transaction {
            if let RecordChange::Put(record) = change
                && let StoreRecord::Machine(name, part) = &**record
            {
                let before = self.store.records.plan.machines.get(name);
                let is_new = |id: &&AllocationId| before.is_none_or(|before| !before.instances.contains_key(*id));
                for id in part.instances.keys().filter(is_new) {
                    assert!(self.checks.placed.insert(id.clone()), "{id} is placed again, on {name}");
                }
            }
        }
    }

    /// The instances that a change tells to stop, or removes without that.
    fn stopped_by(&self, change: &RecordChange) -> Vec<StoppedInstance> {
        let RecordChange::Put(record) = change else { return Vec::new() };
        let StoreRecord::Machine(name, part) = &**record else { return Vec::new() };
        let Some(before) = self.store.records.plan.machines.get(name) else { return Vec::new() };
        let stops =
            |part: &MachinePlan, id: &AllocationId| part.instances.get(id).is_none_or(|a| a.goal == InstanceGoal::Stop);
        let ids = before.instances.keys().filter(|id| !stops(before, id) && stops(part, id));
        let machine: usize = name.as_str()[1..].parse().expect("a machine of this run");
        let address = |id: &AllocationId| {
            let address = self.agents[machine].containers.get(id)?.status.address?;
            Some(MachineAddress::new(name.clone(), address))
        };
        ids.map(|id| StoppedInstance { id: id.clone(), address: address(id) }).collect()
    }

    /// Checks that no other copy of a role with one copy runs or has the volume while a container starts.
    pub(crate) fn assert_single_writer(&self, machine: usize, id: &AllocationId, is_single: bool) {
        if let Some((other_machine, other)) = self.other_writer(id).filter(|_| is_single) {
            panic!("{id} starts on machine {machine} beside {other} on machine {other_machine}");
        }
    }

    /// Checks that records hold every acknowledged change.
    pub(crate) fn assert_nothing_lost(&self, records: &RecordIndex) {
        let kept = self.checks.apps.iter().filter(|(name, _)| !self.checks.destroyed.contains(*name));
        for (first, acknowledged) in kept {
            let known = self.apps.iter().find(|app| app.name == *first);
            let app = known.and_then(|app| records.apps.get(app.present_name(records)?));
            let Some(app) = app else { panic!("the acknowledged app {first} is lost") };
            let name = &app.name;
            for number in &acknowledged.deploys {
                let is_there = records.deploys.get(name).is_some_and(|deploys| deploys.contains_key(number));
                assert!(is_there, "the acknowledged deploy {number} of {name} is lost");
            }
            if let Some(copies) = acknowledged.copies {
                let scale = app.scale.get(&role_name("web"));
                assert_eq!(scale, Some(&copies), "the acknowledged scale of {name} is lost");
            }
        }
    }
}

/// Reports whether a routing table leads requests or names to an instance.
fn leads_to(table: &RoutingTable, stopped: &StoppedInstance) -> bool {
    let mut endpoints = table.routes.values().flat_map(|route| &route.endpoints);
    let mut named = table.names.values().flat_map(|names| names.roles.values().flatten());
    endpoints.any(|endpoint| endpoint.allocation == stopped.id)
        || named.any(|address| Some(address) == stopped.address.as_ref())
}
