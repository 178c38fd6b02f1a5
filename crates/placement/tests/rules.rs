//! Tables of placement's rules: machines with their copies, a copy, and the machines that take the copy.

mod fixtures;

use std::collections::{BTreeMap, BTreeSet};

use fixtures::{machine_name, open_machine, role_named, value, zone};
use gantry_model::{
    Architecture, Bytes, LabelKey, LabelValue, MachineRefusal, MilliCpu, PlacementRefusal, PlacementRules,
    RefusingMachines, ReleaseNumber, RolePattern,
};
use gantry_placement::{
    CopySpread, DemandShape, MachineReadiness, PinnedMachine, PlacedRole, PlacementDemand, PlacementIndex,
    PlacementMachine, Resources,
};

fn memory(memory: u64) -> Resources {
    Resources { memory, cpu: 0 }
}

fn pattern(text: &str) -> RolePattern {
    RolePattern::parse(text).expect("a pattern")
}

fn patterns(texts: &str) -> BTreeSet<RolePattern> {
    texts.split_whitespace().map(pattern).collect()
}

/// A copy of the role `app/role`. `app/role!pattern` must be apart from the roles of the pattern.
fn copy(text: &str) -> PlacementDemand {
    let (name, apart_from) = text.split_once('!').unwrap_or((text, ""));
    let (app, role) = name.split_once('/').expect("app/role");
    PlacementDemand { apart_from: patterns(apart_from), ..PlacementDemand::new(role_named(app, role), memory(1)) }
}

/// Open machines; each runs the copies that its text names.
fn running(machines: &[&str]) -> PlacementIndex {
    let mut index = PlacementIndex::default();
    for (number, copies) in machines.iter().enumerate() {
        index.put_machine(open_machine(number));
        copies.split_whitespace().for_each(|text| index.occupy(&machine_name(number), &copy(text)));
    }
    index
}

/// The machines that take a copy: the copy is placed if it may go to this machine only.
fn takers(index: &PlacementIndex, machines: usize, demand: &PlacementDemand) -> String {
    let takes = |number: &usize| {
        let mut demand = demand.clone();
        demand.pinned.push(PinnedMachine::Named(machine_name(*number)));
        index.clone().place(&demand).is_ok()
    };
    let names: Vec<String> = (0..machines).filter(takes).map(|number| machine_name(number).to_string()).collect();
    names.join(" ")
}

fn refused(why: MachineRefusal, machines: u32, short: u64) -> RefusingMachines {
    RefusingMachines { why, machines, short }
}

/// For each reason, a machine that runs a copy of `blog/db`, and a copy that the machine refuses for this reason alone.
fn refusals() -> Vec<(PlacementMachine, PlacementDemand, MachineRefusal, u64)> {
    use MachineRefusal as Why;
    let is = |readiness| PlacementMachine { readiness, ..open_machine(0) };
    let shaped = |shape| PlacementDemand { shape, ..copy("shop/web") };
    let pinned = |pin| PlacementDemand { pinned: vec![pin], ..copy("shop/web") };
    let sized = |memory, cpu| PlacementDemand::new(role_named("shop", "web"), Resources { memory, cpu });
    let amd = DemandShape { architecture: Some(Architecture("amd64".into())), ..DemandShape::default() };
    let arm = PlacementMachine { architecture: Some(Architecture("arm64".into())), ..open_machine(0) };
    let in_zone = DemandShape { labels: [(zone(), [value("a")].into())].into(), ..DemandShape::default() };
    let elsewhere = PlacementMachine { labels: [(zone(), value("b"))].into(), ..open_machine(0) };
    let fenced = DemandShape { protocol: 4, ..DemandShape::default() };
    let other = machine_name(9);
    vec![
        (is(MachineReadiness::Joining), copy("shop/web"), Why::Joining, 0),
        (is(MachineReadiness::Silent), copy("shop/web"), Why::Silent, 0),
        (is(MachineReadiness::Lost), copy("shop/web"), Why::Lost, 0),
        (is(MachineReadiness::Draining), copy("shop/web"), Why::Draining, 0),
        (is(MachineReadiness::Cordoned), copy("shop/web"), Why::Cordoned, 0),
        (open_machine(0), shaped(fenced), Why::OldAgent, 0),
        (open_machine(0), shaped(amd.clone()), Why::OtherArchitecture, 0),
        (arm, shaped(amd), Why::OtherArchitecture, 0),
        (open_machine(0), shaped(in_zone.clone()), Why::WrongLabel { key: zone() }, 0),
        (elsewhere, shaped(in_zone), Why::WrongLabel { key: zone() }, 0),
        (open_machine(0), pinned(PinnedMachine::Named(other.clone())), Why::NotNamed { machine: other.clone() }, 0),
        (open_machine(0), pinned(PinnedMachine::HasData(other.clone())), Why::DataElsewhere { machine: other }, 0),
        (
            open_machine(0),
            PlacementDemand { avoided: (0..3).map(machine_name).collect(), ..copy("shop/web") },
            Why::Failed,
            0,
        ),
        (
            open_machine(0),
            PlacementDemand { with: patterns("cache/*"), ..copy("shop/web") },
            Why::LacksNeighbour { pattern: pattern("cache/*") },
            0,
        ),
        (
            open_machine(0),
            copy("shop/web!blog/*"),
            Why::Conflict { app: copy("blog/db").role.app, role: copy("blog/db").role.role },
            0,
        ),
        (open_machine(0), PlacementDemand { one_per_machine: true, ..copy("blog/db") }, Why::HasCopy, 0),
        (open_machine(0), sized(120, 0), Why::ShortOfMemory, 21),
        (open_machine(0), sized(0, 101), Why::ShortOfCpu, 1),
    ]
}

#[test]
fn each_reason_for_a_refusal_is_named_and_counted() {
    for (machine, demand, why, short) in refusals() {
        for machines in [1, 3] {
            let mut index = PlacementIndex::default();
            for name in (0..machines).map(machine_name) {
                index.put_machine(PlacementMachine { name: name.clone(), ..machine.clone() });
                index.occupy(&name, &copy("blog/db"));
            }
            let expected = PlacementRefusal(vec![refused(why.clone(), machines as u32, short)]);
            assert_eq!(index.explain(&demand), expected);
            assert_eq!(index.place(&demand), Err(expected), "the copy is not placed");
        }
    }
}

#[test]
fn a_machine_without_the_reason_takes_the_refused_copy() {
    for (_, demand, why, _) in refusals() {
        let name = demand.pinned.first().map_or(machine_name(7), |pinned| pinned.machine().clone());
        let mut index = PlacementIndex::default();
        index.put_machine(PlacementMachine {
            name: name.clone(),
            capacity: Resources { memory: 200, cpu: 200 },
            architecture: Some(Architecture("amd64".into())),
            labels: [(zone(), value("a"))].into(),
            protocol: 4,
            ..open_machine(0)
        });
        index.occupy(&name, &copy("cache/redis"));
        assert_eq!(index.explain(&demand), PlacementRefusal::default(), "{why:?}");
        assert_eq!(index.place(&demand), Ok(name), "{why:?}");
    }
}

#[test]
fn a_refusal_lists_the_most_frequent_reason_first_with_the_smallest_lack() {
    let mut index = PlacementIndex::default();
    for number in 0..8 {
        let (readiness, memory) = match number {
            0 | 1 => (MachineReadiness::Ready, [70, 95][number]),
            2..5 => (MachineReadiness::Cordoned, 200),
            5 => (MachineReadiness::Lost, 200),
            _ => (MachineReadiness::Removed, 200),
        };
        let capacity = Resources { memory, cpu: 100 };
        index.put_machine(PlacementMachine { capacity, readiness, ..open_machine(number) });
    }
    let refusal = index.place(&PlacementDemand::new(role_named("shop", "web"), memory(100))).expect_err("refused");
    let expected = [
        refused(MachineRefusal::Cordoned, 3, 0),
        refused(MachineRefusal::ShortOfMemory, 2, 5),
        refused(MachineRefusal::Lost, 1, 0),
    ];
    assert_eq!(refusal.0, expected, "removed machines do not count");
    assert_eq!(index.present(), 6);
}

#[test]
fn a_machine_names_its_own_state_before_its_copies_and_its_room() {
    let mut demand = PlacementDemand::new(role_named("shop", "web"), memory(10));
    let mut index = running(&["shop/web blog/db"]);
    let reason = |index: &PlacementIndex, demand: &PlacementDemand| index.explain(demand).to_string();
    assert_eq!(index.explain(&demand), PlacementRefusal::default());
    demand.shape.resources = Resources { memory: 0, cpu: 600 };
    assert_eq!(reason(&index, &demand), "1: 0.5 processors short");
    demand.shape.resources.memory = 1 << 20;
    assert_eq!(reason(&index, &demand), "1: 1 MiB short of memory");
    demand.one_per_machine = true;
    assert_eq!(reason(&index, &demand), "1: has a copy already");
    demand.apart_from = patterns("blog/*");
    assert_eq!(reason(&index, &demand), "1: conflict with blog/db");
    demand.with = patterns("cache/*");
    assert_eq!(reason(&index, &demand), "1: no copy of cache/*");
    demand.avoided = [machine_name(0)].into();
    assert_eq!(reason(&index, &demand), "1: failed there just now");
    demand.pinned = vec![PinnedMachine::HasData(machine_name(1))];
    assert_eq!(reason(&index, &demand), "1: not m1, which has the role's data");
    demand.shape.labels = [(zone(), [value("a")].into())].into();
    assert_eq!(reason(&index, &demand), "1: label zone has no required value");
    demand.shape.architecture = Some(Architecture("amd64".into()));
    assert_eq!(reason(&index, &demand), "1: another architecture");
    demand.shape.protocol = 4;
    assert_eq!(reason(&index, &demand), "1: agent too old for a single copy; update the machine");
    index.put_machine(PlacementMachine { readiness: MachineReadiness::Draining, ..open_machine(0) });
    assert_eq!(reason(&index, &demand), "1: draining");
}

#[test]
fn a_copy_goes_only_where_every_neighbour_runs() {
    for (with, machines, expected) in [
        ("db/main", ["", "db/main", "db/other"], "m1"),
        ("db", ["", "db/main", "db/other"], "m1 m2"),
        ("*/main", ["db/main", "cache/main", "db/other"], "m0 m1"),
        ("db/* cache/*", ["db/main", "db/main cache/main", "cache/main"], "m1"),
        ("db/* cache/*", ["db/main", "", "cache/main"], ""),
        ("d*b/m*n", ["database/main", "db/main", "db/min"], "m1 m2"),
    ] {
        let index = running(&machines);
        let demand = PlacementDemand { with: patterns(with), ..copy("shop/web") };
        assert_eq!(takers(&index, machines.len(), &demand), expected, "{with} on {machines:?}");
    }
}

#[test]
fn a_neighbour_that_leaves_is_no_neighbour() {
    let mut index = running(&["db/main db/main"]);
    let demand = PlacementDemand { with: patterns("db/*"), ..copy("shop/web") };
    for (copies, expected) in [(2, "m0"), (1, "m0"), (0, "")] {
        assert_eq!(takers(&index, 1, &demand), expected, "{copies} copies");
        index.vacate(&machine_name(0), &copy("db/main"));
    }
}

#[test]
fn a_conflict_keeps_copies_apart_by_the_rule_of_either() {
    for (text, machines, expected) in [
        ("shop/web!blog/db", ["blog/db", "blog/web", "blog2/db"], "m1 m2"),
        ("shop/web!blog", ["blog/db", "blog/web", "blog2/db"], "m2"),
        ("shop/web!b*/d*", ["blog/db", "bank/data", "blog/web"], "m2"),
        ("shop/web!*/db", ["blog/db", "bank/db", ""], "m2"),
        ("shop/web!*/*", ["blog/db", "shop/worker", "shop/web"], "m2"),
        ("shop/web", ["blog/db!shop/web", "bank/db!shop", "desk/db!shop/worker"], "m2"),
        ("shop/web", ["blog/db!*/web", "bank/db!s*/w*", "desk/db!bank"], "m2"),
        ("shop/web!blog", ["bank/db!shop", "blog/db", "bank/web!blog"], "m2"),
        ("shop/web!shop/web", ["shop/web", "shop/web!shop/web", "shop/worker!shop/web"], "m0 m1"),
    ] {
        assert_eq!(takers(&running(&machines), machines.len(), &copy(text)), expected, "{text} on {machines:?}");
    }
}

#[test]
fn a_conflict_ends_with_the_last_copy_that_has_the_rule() {
    let mut index = running(&["blog/db!shop blog/db!shop blog/db"]);
    for (rules, expected) in [(2, ""), (1, ""), (0, "m0")] {
        assert_eq!(takers(&index, 1, &copy("shop/web")), expected, "{rules} copies with the rule");
        index.vacate(&machine_name(0), &copy("blog/db!shop"));
    }
}

#[test]
fn a_conflict_holds_between_releases_of_other_roles_only() {
    let next = |text: &str| {
        let demand = copy(text);
        PlacementDemand { role: PlacedRole { release: ReleaseNumber(2), ..demand.role.clone() }, ..demand }
    };
    assert_eq!(
        takers(&running(&["shop/web!*/*"]), 1, &next("shop/web!*/*")),
        "m0",
        "a deploy starts the new copy first"
    );
    assert_eq!(takers(&running(&["shop/web!*/*"]), 1, &next("shop/worker")), "");
}

#[test]
fn all_keys_of_the_labels_must_match_and_one_value_of_each() {
    let disk = || LabelKey::parse("disk").expect("a key");
    let labels = |zones: &str, disks: &str| -> BTreeMap<LabelKey, LabelValue> {
        let label = |key: LabelKey, text: &str| (!text.is_empty()).then(|| (key, value(text)));
        label(zone(), zones).into_iter().chain(label(disk(), disks)).collect()
    };
    let mut index = PlacementIndex::default();
    let machines = [("a", "ssd"), ("b", "ssd"), ("a", "hdd"), ("", "ssd"), ("", "")];
    for (number, (zones, disks)) in machines.into_iter().enumerate() {
        index.put_machine(PlacementMachine { labels: labels(zones, disks), ..open_machine(number) });
    }
    let values = |texts: &str| -> BTreeSet<LabelValue> { texts.split_whitespace().map(value).collect() };
    for (zones, disks, expected) in [
        ("", "", "m0 m1 m2 m3 m4"),
        ("a", "", "m0 m2"),
        ("a b", "", "m0 m1 m2"),
        ("c", "", ""),
        ("", "ssd", "m0 m1 m3"),
        ("a", "ssd", "m0"),
        ("a b", "ssd", "m0 m1"),
        ("a b", "ssd hdd", "m0 m1 m2"),
        ("b", "hdd", ""),
    ] {
        let mut demand = copy("shop/web");
        let wanted = [(zone(), values(zones)), (disk(), values(disks))];
        demand.shape.labels = wanted.into_iter().filter(|(_, values)| !values.is_empty()).collect();
        assert_eq!(takers(&index, machines.len(), &demand), expected, "zone {zones:?}, disk {disks:?}");
    }
}

#[test]
fn one_copy_per_machine_leaves_the_rest_without_a_machine() {
    let mut index = running(&["", "", ""]);
    let demand = PlacementDemand { one_per_machine: true, ..copy("shop/web") };
    let placed: BTreeSet<_> = (0..3).map(|_| index.place(&demand).expect("placed")).collect();
    assert_eq!(placed.len(), 3);
    let refusal = PlacementRefusal(vec![refused(MachineRefusal::HasCopy, 3, 0)]);
    assert_eq!(index.place(&demand), Err(refusal));
    assert_eq!(index.machines_for(&demand).len(), 3, "a machine with the copy is one of the machines for it");
    index.vacate(&machine_name(1), &demand);
    assert_eq!(index.place(&demand), Ok(machine_name(1)), "the machine whose copy left");
}

#[test]
fn a_pinned_copy_goes_to_its_machine_alone() {
    let pins = |machines: &[usize]| -> Vec<PinnedMachine> {
        machines.iter().map(|number| PinnedMachine::Named(machine_name(*number))).collect()
    };
    for (machines, expected) in
        [(vec![], "m0 m1 m2"), (vec![1], "m1"), (vec![1, 1], "m1"), (vec![0, 1], ""), (vec![9], "")]
    {
        let demand = PlacementDemand { pinned: pins(&machines), ..copy("shop/web") };
        assert_eq!(takers(&running(&["", "", ""]), 3, &demand), expected, "{machines:?}");
    }
    let data = PinnedMachine::HasData(machine_name(0));
    let apart = PlacementDemand { pinned: vec![PinnedMachine::Named(machine_name(1)), data], ..copy("shop/web") };
    let refusal = running(&["", ""]).place(&apart).expect_err("refused").to_string();
    assert_eq!(refusal, "1: not m1, which the role names; 1: not m0, which has the role's data");
}

#[test]
fn the_system_keeps_its_reserve() {
    let both = |memory, cpu| Resources { memory, cpu };
    for (capacity, reserve, demand, expected) in [
        (both(100, 10), both(30, 0), both(70, 10), None),
        (both(100, 10), both(30, 0), both(71, 10), Some((MachineRefusal::ShortOfMemory, 1))),
        (both(100, 10), both(30, 4), both(0, 7), Some((MachineRefusal::ShortOfCpu, 1))),
        (both(100, 10), both(100, 0), both(1, 0), Some((MachineRefusal::ShortOfMemory, 1))),
        (both(100, 10), both(200, 0), both(5, 0), Some((MachineRefusal::ShortOfMemory, 5))),
        (both(100, 10), both(200, 20), both(0, 0), None),
        (both(0, 0), both(0, 0), both(0, 0), None),
        (both(u64::MAX, u64::MAX), both(0, 0), both(u64::MAX, u64::MAX), None),
    ] {
        let mut index = PlacementIndex::default();
        index.put_machine(PlacementMachine { capacity, reserve, ..open_machine(0) });
        let demand = PlacementDemand::new(role_named("shop", "web"), demand);
        let expected =
            expected.map_or(Ok(machine_name(0)), |(why, short)| Err(PlacementRefusal(vec![refused(why, 1, short)])));
        assert_eq!(index.place(&demand), expected, "{capacity:?} less {reserve:?}");
    }
}

#[test]
fn a_machine_is_filled_and_never_over_committed() {
    for (machines, copy, fit) in [(1, 10, 10), (3, 10, 30), (2, 33, 6), (2, 51, 2), (2, 101, 0)] {
        let mut index = running(&vec![""; machines]);
        let demand = PlacementDemand::new(role_named("shop", "web"), memory(copy));
        let placed = (0..fit + 5).filter(|_| index.place(&demand).is_ok()).count();
        assert_eq!(placed, fit, "copies of {copy} on {machines} machines");
        let free: u64 = (0..machines).filter_map(|n| index.free(&machine_name(n))).map(|free| free.memory).sum();
        assert_eq!(free, 100 * machines as u64 - copy * fit as u64);
    }
}

#[test]
fn copies_taken_over_beyond_the_capacity_block_the_machine_until_they_leave() {
    let mut index = running(&[""]);
    let large = PlacementDemand::new(role_named("shop", "web"), memory(80));
    (0..2).for_each(|_| index.occupy(&machine_name(0), &large));
    assert_eq!(index.free(&machine_name(0)), Some(Resources { memory: 0, cpu: 100 }));
    index.place(&copy("blog/db")).expect_err("refused");
    index.vacate(&machine_name(0), &large);
    assert_eq!(index.free(&machine_name(0)), Some(Resources { memory: 20, cpu: 100 }));
    index.place(&copy("blog/db")).expect("placed");
}

/// For each machine its zone, or `-` without a label; the copies before; and the machine of the next copy.
#[test]
fn the_next_copy_goes_to_the_value_of_the_label_with_the_fewest_copies() {
    for (zones, copies, expected) in [
        ("a a b", vec![], 0),
        ("a a b", vec![0], 2),
        ("a a b", vec![0, 2], 1),
        ("a a b", vec![0, 1, 2], 2),
        ("a b c", vec![0, 0, 1, 1, 2], 2),
        ("a - -", vec![0], 1),
        ("a - -", vec![0, 1], 2),
        ("a - -", vec![0, 1, 2], 0),
    ] {
        let mut index = PlacementIndex::default();
        for (number, text) in zones.split_whitespace().enumerate() {
            let labels = (text != "-").then(|| (zone(), value(text))).into_iter().collect();
            index.put_machine(PlacementMachine { labels, ..open_machine(number) });
        }
        let demand = PlacementDemand { spread: CopySpread::Label(zone()), ..copy("shop/web") };
        copies.iter().for_each(|number| index.occupy(&machine_name(*number), &demand));
        assert_eq!(index.place(&demand), Ok(machine_name(expected)), "{copies:?} in {zones}");
    }
}

#[test]
fn a_spread_copy_goes_beside_another_before_it_waits() {
    let mut index = running(&["", ""]);
    index.occupy(&machine_name(1), &PlacementDemand::new(role_named("blog", "db"), memory(100)));
    (0..2).for_each(|_| assert_eq!(index.place(&copy("shop/web")), Ok(machine_name(0))));
    assert_eq!(index.crowded(&copy("shop/web")), None, "no other machine has room");
    index.vacate(&machine_name(1), &PlacementDemand::new(role_named("blog", "db"), memory(100)));
    assert_eq!(index.crowded(&copy("shop/web")), Some(machine_name(0)));
}

#[test]
fn the_rules_of_a_role_become_the_demand_of_its_copies() {
    let rules = PlacementRules {
        reserve_memory: Some(Bytes(5)),
        reserve_cpu: Some(MilliCpu(7)),
        labels: [(zone(), [value("a")].into())].into(),
        architecture: Some(Architecture("arm64".into())),
        with: patterns("db/*"),
        apart_from: patterns("batch/*"),
        one_per_machine: false,
        global: true,
        machine: Some(machine_name(3)),
        spread: Some(zone()),
    };
    let shape = DemandShape {
        resources: Resources { memory: 5, cpu: 7 },
        architecture: rules.architecture.clone(),
        labels: rules.labels.clone(),
        protocol: 0,
    };
    let expected = PlacementDemand {
        role: role_named("shop", "web"),
        shape,
        with: patterns("db/*"),
        apart_from: patterns("batch/*"),
        one_per_machine: true,
        pinned: vec![PinnedMachine::Named(machine_name(3))],
        avoided: BTreeSet::new(),
        spread: CopySpread::Label(zone()),
    };
    assert_eq!(PlacementDemand::of_rules(role_named("shop", "web"), &rules), expected);
    let none = PlacementDemand::of_rules(role_named("shop", "web"), &PlacementRules::default());
    assert_eq!(none, PlacementDemand::new(role_named("shop", "web"), Resources::default()));
}
