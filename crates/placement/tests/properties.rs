//! Properties of placement, for any machines, demands and order of calls.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{AppName, LabelKey, LabelValue, MachineName, ReleaseNumber, RoleName, RolePattern};
use gantry_placement::{
    CopySpread, DemandShape, MachineReadiness, PinnedMachine, PlacedRole, PlacementDemand, PlacementIndex,
    PlacementMachine, Resources,
};
use proptest::prelude::*;

fn machine_name(number: usize) -> MachineName {
    MachineName::parse(&format!("m{number}")).expect("a name")
}

fn zone() -> LabelKey {
    LabelKey::parse("zone").expect("a key")
}

fn value(name: &str) -> LabelValue {
    LabelValue::parse(name).expect("a value")
}

fn role(number: usize) -> PlacedRole {
    PlacedRole {
        app: AppName::parse(&format!("app-{}", number / 2)).expect("a name"),
        role: RoleName::parse(["web", "worker"][number % 2]).expect("a name"),
        release: ReleaseNumber(1),
    }
}

fn machines() -> impl Strategy<Value = Vec<PlacementMachine>> {
    let readiness = prop_oneof![
        8 => Just(MachineReadiness::Ready),
        1 => Just(MachineReadiness::Cordoned),
        1 => Just(MachineReadiness::Draining),
        1 => Just(MachineReadiness::Lost),
        1 => Just(MachineReadiness::Joining),
    ];
    let machine = (1..20u64, 1..20u64, 0..3u64, 0..3usize, readiness);
    prop::collection::vec(machine, 0..120).prop_map(|machines| {
        let machine =
            |(number, (memory, cpu, reserve, place, readiness)): (usize, (u64, u64, u64, usize, _))| PlacementMachine {
                name: machine_name(number),
                capacity: Resources { memory, cpu },
                reserve: Resources { memory: reserve, cpu: 0 },
                architecture: None,
                labels: [(zone(), value(["a", "b", "c"][place]))].into(),
                readiness,
            };
        machines.into_iter().enumerate().map(machine).collect()
    })
}

fn demands() -> impl Strategy<Value = Vec<PlacementDemand>> {
    let shape = (0..6u64, 0..6u64, prop::collection::btree_set(0..3usize, 0..3));
    let relations = (
        prop::option::weighted(0.1, 0..8usize),
        prop::option::weighted(0.2, 0..8usize),
        any::<bool>(),
        prop::option::weighted(0.1, 0..40usize),
        prop::collection::btree_set(0..40usize, 0..3),
        any::<bool>(),
    );
    let demand = (0..8usize, shape, relations).prop_map(|(number, shape, relations)| {
        let (memory, cpu, zones) = shape;
        let (with, apart, one_per_machine, pinned, avoided, by_zone) = relations;
        let pattern = |number: usize| RolePattern::parse(["app-0", "*/web", "app-1/w*", "app-3/web"][number % 4]).ok();
        let zones: BTreeSet<LabelValue> = zones.into_iter().map(|zone| value(["a", "b", "c"][zone])).collect();
        let labels = if zones.is_empty() { BTreeMap::new() } else { [(zone(), zones)].into() };
        PlacementDemand {
            role: role(number),
            shape: DemandShape { resources: Resources { memory, cpu }, architecture: None, labels },
            with: with.and_then(pattern).into_iter().collect(),
            apart_from: apart.and_then(pattern).into_iter().collect(),
            one_per_machine,
            pinned: pinned.map(machine_name).map(PinnedMachine::Named).into_iter().collect(),
            avoided: avoided.into_iter().map(machine_name).collect(),
            spread: if by_zone { CopySpread::Label(zone()) } else { CopySpread::Machines },
        }
    });
    prop::collection::vec(demand, 0..250)
}

/// A copy that was placed.
type Placed = (MachineName, PlacementDemand);

/// Checks all constraints of a new copy, without regard to how the machine was chosen.
fn assert_allowed(machine: &PlacementMachine, demand: &PlacementDemand, before: &[Placed]) {
    let here = || before.iter().filter(|(name, _)| *name == machine.name).map(|(_, demand)| demand);
    let sum =
        |amount: fn(&Resources) -> u64| -> u64 { here().chain([demand]).map(|d| amount(&d.shape.resources)).sum() };
    assert!(sum(|r| r.memory) <= machine.capacity.memory.saturating_sub(machine.reserve.memory));
    assert!(sum(|r| r.cpu) <= machine.capacity.cpu);
    assert_eq!(machine.readiness, MachineReadiness::Ready);
    assert!(demand.shape.labels.iter().all(|(key, values)| values.contains(&machine.labels[key])));
    assert!(demand.with.iter().all(|pattern| here().any(|other| pattern.covers(&other.role.app, &other.role.role))));
    let apart = |one: &PlacementDemand, two: &PlacementDemand| {
        one.apart_from.iter().any(|p| p.covers(&two.role.app, &two.role.role))
    };
    assert!(here().filter(|other| other.role != demand.role).all(|o| !apart(demand, o) && !apart(o, demand)));
    assert!(!demand.one_per_machine || here().all(|other| other.role != demand.role));
    assert!(demand.pinned.iter().all(|pinned| *pinned.machine() == machine.name));
    assert!(!demand.avoided.contains(&machine.name));
}

/// Places demands; every third success is followed by the removal of an older copy.
fn run(machines: &[PlacementMachine], demands: &[PlacementDemand]) -> Vec<Result<MachineName, String>> {
    let mut index = PlacementIndex::default();
    machines.iter().for_each(|machine| index.put_machine(machine.clone()));
    let mut placed: Vec<Placed> = Vec::new();
    let mut results = Vec::new();
    for demand in demands {
        match index.place(demand) {
            Ok(name) => {
                let machine = machines.iter().find(|machine| machine.name == name).expect("a machine");
                assert_allowed(machine, demand, &placed);
                placed.push((name.clone(), demand.clone()));
                results.push(Ok(name));
                if placed.len().is_multiple_of(3) {
                    let (name, demand) = placed.swap_remove(placed.len() / 2);
                    index.vacate(&name, &demand);
                }
            }
            Err(refusal) => {
                assert_eq!(refusal.machines() as usize, machines.len(), "each machine has a reason: {refusal}");
                results.push(Err(refusal.to_string()));
            }
        }
    }
    // The loads follow from the copies alone.
    let mut again = PlacementIndex::default();
    machines.iter().for_each(|machine| again.put_machine(machine.clone()));
    placed.iter().for_each(|(name, demand)| again.occupy(name, demand));
    machines.iter().for_each(|machine| assert_eq!(index.free(&machine.name), again.free(&machine.name)));
    for demand in demands {
        assert_eq!(index.explain(demand), again.explain(demand), "both have the same room");
    }
    results
}

proptest! {
    #[test]
    fn constraints_hold_and_decisions_repeat(machines in machines(), demands in demands()) {
        let first = run(&machines, &demands);
        prop_assert_eq!(run(&machines, &demands), first);
    }

    #[test]
    fn a_demand_that_a_machine_could_take_is_placed(machines in machines(), demands in demands()) {
        let mut index = PlacementIndex::default();
        machines.iter().for_each(|machine| index.put_machine(machine.clone()));
        for demand in &demands {
            let refusals = index.explain(demand).machines() as usize;
            prop_assert_eq!(index.place(demand).is_ok(), refusals < machines.len());
        }
    }
}

fn plain(number: usize, memory: u64) -> PlacementDemand {
    PlacementDemand::new(role(number), Resources { memory, ..Resources::default() })
}

fn index(zones: &[&str]) -> PlacementIndex {
    let mut index = PlacementIndex::default();
    for (number, place) in zones.iter().enumerate() {
        index.put_machine(PlacementMachine {
            name: machine_name(number),
            capacity: Resources { memory: 100, cpu: 100 },
            reserve: Resources::default(),
            architecture: None,
            labels: [(zone(), value(place))].into(),
            readiness: MachineReadiness::Ready,
        });
    }
    index
}

#[test]
fn copies_of_a_role_spread_and_other_roles_pack() {
    let mut index = index(&["a"; 4]);
    let machines: BTreeSet<MachineName> = (0..4).map(|_| index.place(&plain(0, 1)).expect("placed")).collect();
    assert_eq!(machines.len(), 4, "a machine for each copy");
    let full = index.place(&plain(2, 50)).expect("placed");
    for number in 3..8 {
        assert_eq!(index.place(&plain(number, 5)).expect("placed"), full, "the fullest machine first");
    }
}

#[test]
fn copies_spread_over_the_values_of_a_label() {
    let mut index = index(&["a", "a", "a", "b", "c"]);
    let demand = PlacementDemand { spread: CopySpread::Label(zone()), ..plain(0, 1) };
    let machines: BTreeSet<MachineName> = (0..3).map(|_| index.place(&demand).expect("placed")).collect();
    assert!(machines.contains(&machine_name(3)) && machines.contains(&machine_name(4)), "{machines:?}");
    let more: BTreeSet<MachineName> = (0..2).map(|_| index.place(&demand).expect("placed")).collect();
    assert_eq!(more.len(), 2, "the next value, not the same again: {more:?}");
}

#[test]
fn a_conflict_is_symmetric() {
    let apart = PlacementDemand { apart_from: RolePattern::parse("app-1/*").into_iter().collect(), ..plain(0, 1) };
    let mut first = index(&["a"]);
    first.place(&apart).expect("placed");
    assert_eq!(first.place(&plain(2, 1)).expect_err("refused").to_string(), "1: conflict with app-0/web");
    let mut second = index(&["a"]);
    second.place(&plain(2, 1)).expect("placed");
    assert_eq!(second.place(&apart).expect_err("refused").to_string(), "1: conflict with app-1/web");
}

#[test]
fn a_change_of_a_machine_counts_at_once() {
    let mut index = index(&["a"]);
    index.place(&plain(0, 60)).expect("placed");
    let cordoned = PlacementMachine {
        name: machine_name(0),
        capacity: Resources { memory: 50, cpu: 1 },
        reserve: Resources::default(),
        architecture: None,
        labels: BTreeMap::new(),
        readiness: MachineReadiness::Cordoned,
    };
    index.put_machine(cordoned.clone());
    assert_eq!(index.place(&plain(1, 0)).expect_err("refused").to_string(), "1: cordoned");
    index.put_machine(PlacementMachine { readiness: MachineReadiness::Ready, ..cordoned });
    assert_eq!(index.place(&plain(1, 1 << 20)).expect_err("refused").to_string(), "1: 1 MiB short of memory");
    index.vacate(&machine_name(0), &plain(0, 60));
    index.place(&plain(1, 50)).expect("placed");
}

#[test]
fn copies_without_a_reservation_go_where_the_fewest_are() {
    for machines in [4, 100] {
        let mut index = index(&vec!["a"; machines]);
        let first = index.place(&plain(0, 50)).expect("placed");
        let used: BTreeSet<MachineName> =
            (1..machines).map(|n| index.place(&plain(n % 8, 0)).expect("placed")).collect();
        assert_eq!(used.len(), machines - 1, "each copy has a machine of its own");
        assert!(!used.contains(&first));
    }
}

#[test]
fn a_new_release_may_be_beside_the_old_one() {
    let mut index = index(&["a"]);
    let alone = PlacementDemand { one_per_machine: true, ..plain(0, 1) };
    index.place(&alone).expect("placed");
    assert_eq!(index.place(&alone).expect_err("refused").to_string(), "1: has a copy already");
    let next = PlacedRole { release: ReleaseNumber(2), ..alone.role.clone() };
    index.place(&PlacementDemand { role: next, ..alone }).expect("a deploy starts the new copy first");
}

#[test]
fn a_removed_machine_neither_takes_nor_refuses_a_copy() {
    let mut index = index(&["a", "b"]);
    let removed = index.machine(&machine_name(0)).expect("known").clone();
    index.put_machine(PlacementMachine { readiness: MachineReadiness::Removed, ..removed });
    assert_eq!(index.place(&plain(0, 60)), Ok(machine_name(1)));
    assert_eq!(index.place(&plain(2, 60)).expect_err("refused").machines(), 1);
}

#[test]
fn a_pin_and_a_failure_are_named() {
    let mut index = index(&["a", "b"]);
    let data = PlacementDemand { pinned: vec![PinnedMachine::HasData(machine_name(1))], ..plain(0, 60) };
    assert_eq!(index.place(&data), Ok(machine_name(1)));
    let refusal = index.place(&data).expect_err("refused").to_string();
    assert_eq!(refusal, "1: not m1, which has the role's data; 1: 1 MiB short of memory");
    let failed = PlacementDemand { avoided: [machine_name(0)].into(), ..plain(2, 60) };
    assert_eq!(
        index.place(&failed).expect_err("refused").to_string(),
        "1: failed there just now; 1: 1 MiB short of memory"
    );
}
