//! The machines as the planner sees them: records, reports and liveness together.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{
    AllocationId, AppName, ClusterPolicy, Machine, MachineAvailability, MachineCapacity, MachineName, MachinePlan,
    MachineRefusal, MachineState, Moment, PlacementRefusal, Plan, Reason, RolePattern, Slot,
};
use gantry_placement::{MachineReadiness, PlacementMachine, Resources};
use gantry_plan_audit::AuditedMachine;
use gantry_planner::{ClusterIndex, MachineLoads, PlanReport, unregistered};
use gantry_records::RecordIndex;

use crate::global_roles::GlobalRoles;
use crate::liveness::Liveness;

/// The machines with their loads and their liveness.
#[derive(Debug, Default)]
pub(crate) struct ClusterMachines {
    pub(crate) liveness: Liveness,
    pub(crate) loads: MachineLoads,
    /// A machine began to take copies since the last tick.
    pub(crate) opened: bool,
    /// When the apps with crowded copies were last planned for their `rebalance-interval`.
    pub(crate) crowded: Moment,
}

/// Shortest and longest time between two passes over the apps with crowded copies, in milliseconds.
const CROWDED_PAUSE: (u64, u64) = (5_000, 60_000);

impl ClusterMachines {
    /// Computes the loads again from all records. The liveness stays.
    pub(crate) fn load(&mut self, records: &RecordIndex, index: &mut ClusterIndex) {
        let known: Vec<MachineName> = names(records).cloned().collect();
        let machines = known.iter().map(|name| self.placement_machine(name, records));
        self.loads = MachineLoads::of(machines.collect::<Vec<_>>(), &records.plan);
        for name in &known {
            index.machine_is(name, self.readiness(name));
            index.machine_is_fenced(name, self.liveness.is_fenced(name));
        }
    }

    /// Takes over a change of a machine's record or liveness. Returns whether a machine with a tunnel was lost, or
    /// returned: the routes of all apps share the list of these machines.
    pub(crate) fn follow(&mut self, name: &MachineName, records: &RecordIndex, index: &mut ClusterIndex) -> bool {
        let machine = self.placement_machine(name, records);
        self.opened |= machine.readiness == MachineReadiness::Ready;
        let is_lost = |readiness| readiness == MachineReadiness::Lost;
        let has_tunnel = records.tunnels.machines().contains_key(name);
        let is_changed = has_tunnel && is_lost(index.readiness(name)) != is_lost(machine.readiness);
        index.machine_is(name, machine.readiness);
        index.machine_is_fenced(name, self.liveness.is_fenced(name));
        self.loads.put_machine(machine);
        is_changed
    }

    /// Reports whether the apps with crowded copies are to be planned: a machine began to take copies, or copies may have
    /// been ready for long enough to move. Without a `rebalance-interval`, each move follows the report that ends the one
    /// before.
    pub(crate) fn may_spread(&mut self, policy: &ClusterPolicy, now: Moment) -> bool {
        let interval = policy.rebalance_interval().millis();
        let pause = interval.clamp(CROWDED_PAUSE.0, CROWDED_PAUSE.1);
        let is_due = interval > 0 && now.since(self.crowded) >= pause;
        if is_due {
            self.crowded = now;
        }
        std::mem::take(&mut self.opened) || is_due
    }

    /// Takes over that the wall clock jumped by `by` milliseconds.
    pub(crate) fn move_stamps(&mut self, by: i64) {
        self.liveness.move_stamps(by);
        self.crowded = self.crowded.moved(by);
    }

    fn readiness(&self, name: &MachineName) -> MachineReadiness {
        self.loads.readiness(name).unwrap_or(MachineReadiness::Joining)
    }

    fn placement_machine(&self, name: &MachineName, records: &RecordIndex) -> PlacementMachine {
        let state = self.liveness.state(name).unwrap_or(MachineState::Joining);
        let Some(machine) = records.machines.get(name) else {
            return unregistered(name.clone(), readiness(state, &MachineAvailability::Schedulable));
        };
        let Machine { capacity, architecture, labels, availability, protocol, .. } = &**machine;
        PlacementMachine {
            name: name.clone(),
            capacity: Resources { memory: capacity.memory.0, cpu: u64::from(capacity.cpu.0) },
            reserve: Resources { memory: records.policy.system_memory().0, cpu: 0 },
            architecture: architecture.clone(),
            labels: labels.clone(),
            protocol: *protocol,
            readiness: readiness(state, availability),
        }
    }

    /// The machines for an audit of a plan, taken from the records and the liveness and not from the loads.
    pub(crate) fn audited(&self, records: &RecordIndex) -> BTreeMap<MachineName, AuditedMachine> {
        let reserve = records.policy.system_memory().0;
        let audited = |name: &MachineName| {
            let state = self.liveness.state(name).unwrap_or(MachineState::Joining);
            let machine = records.machines.get(name);
            let availability = machine.map_or(&MachineAvailability::Schedulable, |machine| &machine.availability);
            let readiness = readiness(state, availability);
            let usable = machine.map_or((0, 0), |machine| {
                let MachineCapacity { cpu, memory } = &machine.capacity;
                (memory.0.saturating_sub(reserve), u64::from(cpu.0))
            });
            let audited = AuditedMachine {
                takes_copies: readiness == MachineReadiness::Ready,
                is_lost: readiness == MachineReadiness::Lost,
                is_fenced: self.liveness.is_fenced(name),
                usable,
                protocol: machine.map_or(0, |machine| machine.protocol),
            };
            (name.clone(), audited)
        };
        names(records).map(audited).collect()
    }
}

/// Registered machines, and machines with a part of the plan.
pub(crate) fn names(records: &RecordIndex) -> impl Iterator<Item = &MachineName> {
    let unregistered = records.plan.machines.keys().filter(|name| !records.machines.contains_key(*name));
    records.machines.keys().chain(unregistered)
}

/// Returns whether a machine takes new copies. The machine's own state outweighs its operator's decision, except for its
/// removal.
fn readiness(state: MachineState, availability: &MachineAvailability) -> MachineReadiness {
    match (state, availability) {
        (_, MachineAvailability::Removed) => MachineReadiness::Removed,
        (MachineState::Joining, _) => MachineReadiness::Joining,
        (MachineState::Suspected, _) => MachineReadiness::Silent,
        (MachineState::Lost, _) => MachineReadiness::Lost,
        (MachineState::Ready, MachineAvailability::Cordoned { .. }) => MachineReadiness::Cordoned,
        (MachineState::Ready, MachineAvailability::Draining { .. }) => MachineReadiness::Draining,
        (MachineState::Ready, MachineAvailability::Schedulable) => MachineReadiness::Ready,
    }
}

/// The apps with copies on a machine.
pub(crate) fn apps_on<'a>(plan: &'a Plan, machine: &MachineName) -> impl Iterator<Item = &'a AppName> {
    plan.machines.get(machine).into_iter().flat_map(|part| part.instances.keys()).map(|id| &id.slot.app)
}

/// The apps that may place a copy on a machine that begins to take copies: those that wait for room, and those with a copy
/// on every machine.
pub(crate) fn apps_for_open_machine(global: &GlobalRoles, report: &PlanReport) -> BTreeSet<AppName> {
    apps_without_room(report).chain(global.apps()).cloned().collect()
}

/// The apps with several copies of a role on one machine. The copies may spread once another machine takes copies.
pub(crate) fn crowded_apps(plan: &Plan) -> BTreeSet<AppName> {
    let share_role =
        |one: &Slot, other: &Slot| (&one.app, one.release, &one.role) == (&other.app, other.release, &other.role);
    let of_part = |part: &MachinePlan| {
        let ids: Vec<&AllocationId> = part.instances.keys().collect();
        // Allocations of one role are next to each other.
        let pairs = ids.windows(2).filter(|pair| share_role(&pair[0].slot, &pair[1].slot));
        pairs.map(|pair| pair[0].slot.app.clone()).collect::<Vec<_>>()
    };
    plan.machines.values().flat_map(|part| of_part(part)).collect()
}

/// The apps that wait for a machine with room.
pub(crate) fn apps_without_room(report: &PlanReport) -> impl Iterator<Item = &AppName> {
    report.waits.iter().filter(|(_, waits)| waits.iter().any(|reason| refusal(reason).is_some())).map(|(app, _)| app)
}

/// The apps that wait for a machine with a copy of another role, each with the pattern of that role.
pub(crate) fn apps_without_neighbour(report: &PlanReport) -> impl Iterator<Item = (&AppName, &RolePattern)> {
    report.waits.iter().flat_map(|(app, waits)| {
        let refusing = waits.iter().filter_map(refusal).flat_map(|refusal| &refusal.0);
        refusing.filter_map(move |refusing| match &refusing.why {
            MachineRefusal::LacksNeighbour { pattern } => Some((app, pattern)),
            _ => None,
        })
    })
}

/// The refusals of the machines, if a copy waits for a machine.
fn refusal(reason: &Reason) -> Option<&PlacementRefusal> {
    match reason {
        Reason::NoRoom { refusal, .. } | Reason::CannotLeave { refusal, .. } | Reason::CannotMove { refusal, .. } => {
            Some(refusal)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::{
        App, Bytes, InstanceGoal, LabelKey, LabelValue, MachineRefusal, PlacementRefusal, RefusingMachines, Role,
        RoleCommand, Seconds,
    };
    use gantry_records::StoreRecord;

    use super::*;
    use crate::tests::{app_name, machine_name, part, registered, release_of, role_name};

    const CORDONED: MachineAvailability = MachineAvailability::Cordoned { reason: None };
    const DRAINING: MachineAvailability = MachineAvailability::Draining { reason: None, deadline: None };

    fn records(records: impl IntoIterator<Item = StoreRecord>) -> RecordIndex {
        let mut index = RecordIndex::default();
        records.into_iter().for_each(|record| index.apply(record.into()));
        index
    }

    fn on(machine: &str, ids: &[&str]) -> StoreRecord {
        let assigned: Vec<(&str, InstanceGoal)> = ids.iter().map(|id| (*id, InstanceGoal::Run)).collect();
        StoreRecord::Machine(machine_name(machine), part(&assigned).into())
    }

    /// The machines, of which one has a state.
    fn with_state(machine: &str, state: MachineState) -> ClusterMachines {
        let liveness = Liveness::of(&[(machine_name(machine), state)].into());
        ClusterMachines { liveness, ..ClusterMachines::default() }
    }

    fn texts<'a, T: ToString + 'a>(names: impl IntoIterator<Item = &'a T>) -> Vec<String> {
        names.into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_state_of_a_machine_outweighs_its_availability_except_for_a_removal() {
        use MachineReadiness::{Cordoned, Draining, Joining, Lost, Ready, Removed, Silent};
        for (state, expected) in [
            (MachineState::Joining, [Joining, Joining, Joining, Removed]),
            (MachineState::Ready, [Ready, Cordoned, Draining, Removed]),
            (MachineState::Suspected, [Silent, Silent, Silent, Removed]),
            (MachineState::Lost, [Lost, Lost, Lost, Removed]),
        ] {
            let all = [MachineAvailability::Schedulable, CORDONED, DRAINING, MachineAvailability::Removed];
            for (availability, expected) in all.into_iter().zip(expected) {
                assert_eq!(readiness(state, &availability), expected, "{state:?}, {availability:?}");
                let machine = StoreRecord::Registered(Machine { availability, ..registered("m") });
                let (machines, records) = (with_state("m", state), records([machine]));
                assert_eq!(machines.placement_machine(&machine_name("m"), &records).readiness, expected);
                let audited = machines.audited(&records)[&machine_name("m")];
                assert_eq!((audited.takes_copies, audited.is_lost), (expected == Ready, expected == Lost));
            }
        }
    }

    #[test]
    fn a_machine_offers_what_its_record_says_less_what_the_system_keeps() {
        let label = (LabelKey::parse("zone").expect("a key"), LabelValue::parse("a").expect("a value"));
        let machine = Machine { labels: [label.clone()].into(), protocol: 7, ..registered("m") };
        let policy = ClusterPolicy { system_memory: Some(Bytes::mebi(24)), ..ClusterPolicy::default() };
        let records = records([StoreRecord::Registered(machine), StoreRecord::Policy(policy), on("n", &[])]);
        let machines = with_state("m", MachineState::Ready);
        let expected = PlacementMachine {
            name: machine_name("m"),
            capacity: Resources { memory: 1024 << 20, cpu: 4_000 },
            reserve: Resources { memory: 24 << 20, cpu: 0 },
            architecture: None,
            labels: [label].into(),
            protocol: 7,
            readiness: MachineReadiness::Ready,
        };
        assert_eq!(machines.placement_machine(&machine_name("m"), &records), expected);
        let audited = machines.audited(&records);
        assert_eq!(audited[&machine_name("m")].usable, (1_000 << 20, 4_000));
        // A machine without a record takes copies without a reservation only, once it reports.
        let unknown = unregistered(machine_name("n"), MachineReadiness::Joining);
        assert_eq!(machines.placement_machine(&machine_name("n"), &records), unknown);
        assert_eq!(audited[&machine_name("n")], AuditedMachine::default());
    }

    #[test]
    fn the_machines_are_those_with_a_record_or_a_part() {
        let machine = |name: &str| StoreRecord::Registered(registered(name));
        let records = records([machine("b"), machine("c"), on("a", &[]), on("b", &[])]);
        assert_eq!(texts(names(&records)), ["b", "c", "a"]);
    }

    #[test]
    fn the_loads_of_all_records_equal_those_that_followed_each_change() {
        let machine = StoreRecord::Registered(registered("m"));
        let records = records([machine, on("m", &["shop.v1.web-1"]), on("n", &["shop.v1.web-2"])]);
        let mut machines = with_state("m", MachineState::Ready);
        let mut index = ClusterIndex::default();
        machines.load(&records, &mut index);
        assert_eq!(index.readiness(&machine_name("m")), MachineReadiness::Ready);
        assert_eq!(index.readiness(&machine_name("n")), MachineReadiness::Joining);
        assert!(!machines.opened, "a load opens no machine");
        machines.follow(&machine_name("n"), &records, &mut index);
        assert!(!machines.opened, "the machine is not ready");
        machines.liveness.record_report(&machine_name("n"));
        machines.follow(&machine_name("n"), &records, &mut index);
        assert!(machines.opened);
        assert_eq!(index.readiness(&machine_name("n")), MachineReadiness::Ready);
    }

    #[test]
    fn the_loss_and_the_return_of_a_machine_with_a_tunnel_concern_all_routes() {
        let address = "10.0.0.7:7001".parse().expect("an address");
        for (addresses, expected) in [(vec![address], true), (vec![], false)] {
            let records = records([StoreRecord::Registered(Machine { addresses, ..registered("m") })]);
            let mut machines = with_state("m", MachineState::Ready);
            let mut index = ClusterIndex::default();
            machines.load(&records, &mut index);
            for (state, is_turn) in [
                (MachineState::Ready, false),
                (MachineState::Suspected, false),
                (MachineState::Lost, true),
                (MachineState::Lost, false),
                (MachineState::Ready, true),
            ] {
                machines.liveness = with_state("m", state).liveness;
                let found = machines.follow(&machine_name("m"), &records, &mut index);
                assert_eq!(found, expected && is_turn, "{state:?}, tunnel: {expected}");
            }
        }
    }

    #[test]
    fn crowded_apps_are_planned_after_a_pause_of_five_seconds_to_a_minute() {
        for (interval, pause) in [(1, 5_000), (5, 5_000), (20, 20_000), (60, 60_000), (600, 60_000)] {
            let policy = ClusterPolicy { rebalance_interval: Some(Seconds(interval)), ..ClusterPolicy::default() };
            let last = Moment(100_000);
            let mut machines = ClusterMachines { crowded: last, ..ClusterMachines::default() };
            assert!(!machines.may_spread(&policy, Moment(last.0 + pause - 1)), "{interval} s");
            assert!(machines.may_spread(&policy, Moment(last.0 + pause)), "{interval} s");
            assert!(!machines.may_spread(&policy, Moment(last.0 + pause)), "the pause starts over");
            machines.move_stamps(-50_000);
            assert!(!machines.may_spread(&policy, Moment(last.0 + 2 * pause - 50_001)), "a jump of the clock");
            assert!(machines.may_spread(&policy, Moment(last.0 + 2 * pause - 50_000)), "a jump of the clock");
        }
    }

    #[test]
    fn crowded_apps_are_planned_once_when_a_machine_begins_to_take_copies() {
        let mut machines = ClusterMachines { opened: true, ..ClusterMachines::default() };
        let policy = ClusterPolicy::default();
        assert!(machines.may_spread(&policy, Moment(1_000_000)));
        assert!(!machines.may_spread(&policy, Moment(9_000_000)), "without an interval, time alone spreads nothing");
    }

    #[test]
    fn an_app_is_crowded_if_a_machine_has_two_copies_of_one_role_and_release() {
        for (parts, expected) in [
            ([vec!["shop.v1.web-1"], vec!["shop.v1.web-2"]], vec![]),
            ([vec!["shop.v1.web-1", "shop.v1.web-2"], vec![]], vec!["shop"]),
            ([vec!["shop.v1.web-1", "shop.v2.web-1"], vec![]], vec![]),
            ([vec!["shop.v1.web-1", "shop.v1.worker-1"], vec![]], vec![]),
            ([vec!["blog.v1.web-1", "shop.v1.web-1"], vec![]], vec![]),
            ([vec!["blog.v1.web-1", "blog.v1.web-9"], vec!["shop.v3.web-1", "shop.v3.web-10"]], vec!["blog", "shop"]),
            ([vec!["shop.v1.web-1", "shop.v1.web-2", "shop.v1.worker-1"], vec!["shop.v1.web-3"]], vec!["shop"]),
        ] {
            let plan = records([on("m", &parts[0]), on("n", &parts[1])]).plan;
            assert_eq!(texts(&crowded_apps(&plan)), expected, "{parts:?}");
        }
    }

    #[test]
    fn the_apps_on_a_machine_are_those_of_its_part() {
        let plan = records([on("m", &["blog.v1.web-1", "shop.v1.web-1"]), on("n", &["wiki.v1.web-1"])]).plan;
        for (machine, expected) in [("m", vec!["blog", "shop"]), ("n", vec!["wiki"]), ("o", vec![])] {
            assert_eq!(texts(apps_on(&plan, &machine_name(machine))), expected, "{machine}");
        }
    }

    /// Reasons of waits with the apps `a`, `b` and so on.
    fn report(reasons: impl IntoIterator<Item = Reason>) -> PlanReport {
        let named = reasons.into_iter().zip('a'..).map(|(reason, name)| (app_name(&name.to_string()), vec![reason]));
        PlanReport { waits: named.collect() }
    }

    fn no_room(reasons: impl IntoIterator<Item = MachineRefusal>) -> Reason {
        let refusing = reasons.into_iter().map(|why| RefusingMachines { why, machines: 1, short: 0 });
        let instance = Slot::parse("a.v1.web-1").expect("a slot");
        Reason::NoRoom { instance, refusal: PlacementRefusal(refusing.collect()) }
    }

    #[test]
    fn an_app_waits_for_room_if_its_copy_has_no_machine_or_cannot_leave_one() {
        let refusal = PlacementRefusal::default();
        let instance = AllocationId::parse("a.v1.web-1").expect("an id");
        let machine = machine_name("m");
        let (on, copy) = (|| machine.clone(), || instance.clone());
        let leaves = Reason::CannotLeave { instance: copy(), machine: on(), refusal: refusal.clone() };
        let moves = Reason::CannotMove { instance: copy(), machine: on(), refusal };
        let data = Reason::DataStays { instance: copy(), machine: on() };
        let report = report([Reason::NoMachine, no_room([]), Reason::BuildRuns, leaves, moves, data]);
        assert_eq!(texts(apps_without_room(&report)), ["b", "d", "e"]);
    }

    #[test]
    fn an_app_waits_for_a_neighbour_if_a_machine_lacks_one() {
        let lacks =
            |pattern: &str| MachineRefusal::LacksNeighbour { pattern: RolePattern::parse(pattern).expect("a pattern") };
        let report = report([
            no_room([MachineRefusal::Cordoned, lacks("db/*")]),
            no_room([MachineRefusal::HasCopy]),
            no_room([lacks("db/*"), lacks("cache/*")]),
            Reason::NoMachine,
        ]);
        let found = apps_without_neighbour(&report).map(|(app, pattern)| format!("{app} beside {pattern}"));
        assert_eq!(found.collect::<Vec<_>>(), ["a beside db/*", "c beside db/*", "c beside cache/*"]);
    }

    #[test]
    fn an_open_machine_matters_to_apps_without_room_and_with_a_copy_on_every_machine() {
        let mut role = Role::new(RoleCommand::Shell("serve".into()));
        role.placement.global = true;
        let app = |name: &str, current: Option<u64>| {
            let current = current.map(gantry_model::ReleaseNumber);
            StoreRecord::App(App { current, ..App::new(app_name(name), Moment(0)) })
        };
        let release = release_of("everywhere", 1, [(role_name("web"), role)].into());
        let records = records([app("everywhere", Some(1)), StoreRecord::Release(release), app("new", None)]);
        let found = apps_for_open_machine(&GlobalRoles::of(&records), &report([no_room([]), Reason::NoMachine]));
        assert_eq!(texts(&found), ["a", "everywhere"]);
    }
}
