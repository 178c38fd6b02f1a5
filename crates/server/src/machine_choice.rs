//! Choice of the machines for requests that are not part of the plan: builds, one-offs, logs, volumes. Pure.

use std::collections::BTreeSet;

use gantry_blobs::DigestHasher;
use gantry_model::{MachineName, MachineState};

use crate::core::ClusterView;

/// The machines of the cluster, by whether their agents report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MachinesByReport {
    /// Machines whose agents report.
    pub(crate) reporting: Vec<MachineName>,
    /// Machines whose agents are silent, or have not reported yet.
    pub(crate) silent: Vec<MachineName>,
}

/// Divides the known machines by whether their agents report. A machine that was silent for a moment is asked.
pub(crate) fn machines_by_report(view: &ClusterView) -> MachinesByReport {
    // A machine whose registration could not be written reports all the same.
    let known: BTreeSet<&MachineName> = view.records.machines.keys().chain(view.observed.machines.keys()).collect();
    let (reporting, silent) = known.into_iter().cloned().partition(|name| is_reporting(view, name));
    MachinesByReport { reporting, silent }
}

fn is_reporting(view: &ClusterView, name: &MachineName) -> bool {
    matches!(view.machine_state(name), MachineState::Ready | MachineState::Suspected)
}

/// The machine for a one-off: the one with the fewest instances.
pub(crate) fn least_used(view: &ClusterView) -> Option<MachineName> {
    by_use(view).into_iter().next()
}

/// The machines for a one-off, the one with the fewest instances first.
pub(crate) fn by_use(view: &ClusterView) -> Vec<MachineName> {
    let count = |name: &MachineName| view.records.plan.machines.get(name).map_or(0, |part| part.instances.len());
    let mut machines = candidates(view);
    machines.sort_by_key(count);
    machines
}

/// The machine for a build, a base or a pull. `work` is the app's name, empty, or the reference. As long as the machine
/// reports, the same work gets the same one: the build cache of an app is there. `avoided` machines did not take the order
/// before.
pub(crate) fn for_build(view: &ClusterView, work: &str, avoided: &[MachineName]) -> Option<MachineName> {
    // The highest hash of work and machine: a machine that comes or goes changes only its own apps' builders.
    let weight = |name: &MachineName| DigestHasher::of(format!("{work} {name}").as_bytes()).hex().to_owned();
    let (refused, others): (Vec<_>, Vec<_>) = candidates(view).into_iter().partition(|name| avoided.contains(name));
    others.into_iter().max_by_key(weight).or_else(|| refused.into_iter().max_by_key(weight))
}

/// The machines that take new work. If there is none, those that report, although an operator wants no new work there; or
/// else all that have reported, because an agent may be back in a moment.
fn candidates(view: &ClusterView) -> Vec<MachineName> {
    let of = |suits: &dyn Fn(&MachineName) -> bool| -> Vec<MachineName> {
        view.observed.machines.keys().filter(|name| suits(name)).cloned().collect()
    };
    let classes: [&dyn Fn(&MachineName) -> bool; 3] =
        [&|name| view.takes_work(name), &|name| view.machine_state(name) == MachineState::Ready, &|_| true];
    classes.into_iter().map(of).find(|machines| !machines.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_model::clock::ClockJumps;
    use gantry_model::{
        Bytes, Machine, MachineAvailability, MachineCapacity, MachineId, MilliCpu, Moment, ObservedCluster,
        ObservedMachine,
    };
    use gantry_records::{RecordIndex, StoreRecord};

    use super::*;

    fn named(name: &str) -> MachineName {
        MachineName::parse(name).expect("a name")
    }

    /// Machines `a`, `b` and `c`, which have just reported.
    fn view(change: impl Fn(&mut Machine)) -> ClusterView {
        let now = Moment(1_000_000);
        let (mut records, mut observed) =
            (RecordIndex::default(), ObservedCluster { began: now, ..Default::default() });
        for name in ["a", "b", "c"].map(named) {
            let mut machine = Machine {
                id: MachineId::from_random(1),
                name: name.clone(),
                capacity: MachineCapacity { cpu: MilliCpu(4000), memory: Bytes::mebi(4096) },
                program: String::new(),
                protocol: 3,
                registered: now,
                addresses: Vec::new(),
                subnet: None,
                architecture: None,
                labels: Default::default(),
                availability: MachineAvailability::Schedulable,
            };
            change(&mut machine);
            records.apply(StoreRecord::Registered(machine).into());
            observed.machines.insert(name, ObservedMachine { seen: now, ..Default::default() }.into());
        }
        ClusterView {
            records: Arc::new(records),
            observed: Arc::new(observed),
            report: Arc::default(),
            now,
            jumps: Arc::new(ClockJumps::default()),
            states: Arc::default(),
        }
    }

    #[test]
    fn offers_jobs_to_machines_that_accept_work() {
        let closed = MachineAvailability::Cordoned { reason: None };
        let mut view = view(|machine| {
            if machine.name == named("a") {
                machine.availability = closed.clone();
            }
        });
        Arc::make_mut(&mut view.states).insert(named("b"), MachineState::Suspected);
        assert_eq!(by_use(&view), [named("c")]);
        for app in 0..20 {
            assert_eq!(for_build(&view, &format!("app-{app}"), &[]), Some(named("c")));
        }
        assert_eq!(machines_by_report(&view).silent, [], "a machine that was silent for a moment is asked");
        Arc::make_mut(&mut view.states).insert(named("c"), MachineState::Lost);
        assert_eq!(by_use(&view), [named("a")], "a cordoned machine is better than a silent one");
        assert_eq!(machines_by_report(&view).silent, [named("c")]);
        Arc::make_mut(&mut view.states).insert(named("a"), MachineState::Lost);
        assert_eq!(by_use(&view).len(), 3, "an agent may be back in a moment");
    }

    #[test]
    fn spreads_builds_and_pulls_over_the_machines_and_keeps_each_at_its_own() {
        let view = view(|_| {});
        for work in ["shop", "registry.example/image"] {
            let of = |number: u32| for_build(&view, &format!("{work}:{number}"), &[]).expect("a machine");
            let chosen: BTreeSet<MachineName> = (0..40).map(of).collect();
            assert_eq!(chosen.len(), 3, "{work}");
            assert_eq!(of(1), of(1));
        }
    }
}
