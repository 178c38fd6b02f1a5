//! Properties of placement, for any machines, demands and order of calls.

mod fixtures;

use std::collections::{BTreeMap, BTreeSet};

use fixtures::{machine_name, open_machine, role_named, value, zone};
use gantry_model::{LabelValue, MachineName, ReleaseNumber, RolePattern};
use gantry_placement::{
    CopySpread, DemandShape, MachineReadiness, PinnedMachine, PlacedRole, PlacementDemand, PlacementIndex,
    PlacementMachine, Resources,
};
use proptest::prelude::*;

fn role(number: usize) -> PlacedRole {
    role_named(&format!("app-{}", number / 2), ["web", "worker"][number % 2])
}

fn readiness() -> impl Strategy<Value = MachineReadiness> {
    prop_oneof![
        8 => Just(MachineReadiness::Ready),
        1 => Just(MachineReadiness::Cordoned),
        1 => Just(MachineReadiness::Draining),
        1 => Just(MachineReadiness::Lost),
        1 => Just(MachineReadiness::Joining),
    ]
}

fn machines() -> impl Strategy<Value = Vec<PlacementMachine>> {
    let machine = (1..20u64, 1..20u64, 0..3u64, 0..3usize, readiness());
    prop::collection::vec(machine, 0..120).prop_map(|machines| {
        let machine =
            |(number, (memory, cpu, reserve, place, readiness)): (usize, (u64, u64, u64, usize, _))| PlacementMachine {
                capacity: Resources { memory, cpu },
                reserve: Resources { memory: reserve, cpu: 0 },
                labels: [(zone(), value(["a", "b", "c"][place]))].into(),
                protocol: 2 + (memory % 2) as u32,
                readiness,
                ..open_machine(number)
            };
        machines.into_iter().enumerate().map(machine).collect()
    })
}

fn demand() -> impl Strategy<Value = PlacementDemand> {
    let shape = (0..6u64, 0..6u64, prop::collection::btree_set(0..3usize, 0..3));
    let relations = (
        prop::option::weighted(0.1, 0..8usize),
        prop::option::weighted(0.2, 0..8usize),
        any::<bool>(),
        prop::option::weighted(0.1, 0..40usize),
        prop::collection::btree_set(0..40usize, 0..3),
        any::<bool>(),
    );
    (0..8usize, shape, relations).prop_map(|(number, shape, relations)| {
        let (memory, cpu, zones) = shape;
        let (with, apart, one_per_machine, pinned, avoided, by_zone) = relations;
        let pattern = |number: usize| RolePattern::parse(["app-0", "*/web", "app-1/w*", "app-3/web"][number % 4]).ok();
        let zones: BTreeSet<LabelValue> = zones.into_iter().map(|zone| value(["a", "b", "c"][zone])).collect();
        let labels = if zones.is_empty() { BTreeMap::new() } else { [(zone(), zones)].into() };
        PlacementDemand {
            role: role(number),
            shape: DemandShape {
                resources: Resources { memory, cpu },
                architecture: None,
                labels,
                protocol: if cpu == 5 { 3 } else { 0 },
            },
            with: with.and_then(pattern).into_iter().collect(),
            apart_from: apart.and_then(pattern).into_iter().collect(),
            one_per_machine,
            pinned: pinned.map(machine_name).map(PinnedMachine::Named).into_iter().collect(),
            avoided: avoided.into_iter().map(machine_name).collect(),
            spread: if by_zone { CopySpread::Label(zone()) } else { CopySpread::Machines },
        }
    })
}

fn demands() -> impl Strategy<Value = Vec<PlacementDemand>> {
    prop::collection::vec(demand(), 0..250)
}

/// A change of a machine, of its copies, or of both.
#[derive(Debug, Clone)]
enum Churn {
    /// A copy is placed.
    Place(PlacementDemand),
    /// A copy leaves.
    Vacate(usize),
    /// A machine changes.
    Machine { number: usize, capacity: Resources, reserve: u64, readiness: MachineReadiness },
}

const CHURNED: usize = 5;

fn churn() -> impl Strategy<Value = Vec<Churn>> {
    let machine = (0..CHURNED, 0..40u64, 0..40u64, 0..10u64, readiness());
    let change = prop_oneof![
        8 => demand().prop_map(|mut demand| {
            demand.shape.labels.clear();
            Churn::Place(PlacementDemand { pinned: Vec::new(), ..demand })
        }),
        2 => any::<usize>().prop_map(Churn::Vacate),
        2 => machine.prop_map(|(number, memory, cpu, reserve, readiness)| {
            Churn::Machine { number, capacity: Resources { memory, cpu }, reserve, readiness }
        }),
    ];
    prop::collection::vec(change, 0..120)
}

/// The sum of the demands of the copies on a machine.
fn used(machine: &MachineName, placed: &[Placed]) -> Resources {
    let here = placed.iter().filter(|(name, _)| name == machine).map(|(_, demand)| demand.shape.resources);
    here.fold(Resources::default(), |sum, one| Resources { memory: sum.memory + one.memory, cpu: sum.cpu + one.cpu })
}

/// A copy that was placed.
type Placed = (MachineName, PlacementDemand);

/// Checks all constraints of a new copy, without regard to how the machine was chosen.
fn assert_allowed(machine: &PlacementMachine, demand: &PlacementDemand, before: &[Placed]) {
    let here = || before.iter().filter(|(name, _)| *name == machine.name).map(|(_, demand)| demand);
    let fits = |amount: fn(&Resources) -> u64, usable: u64| {
        // A copy that reserves nothing fits on a machine that became too small for its copies.
        let sum: u64 = here().chain([demand]).map(|demand| amount(&demand.shape.resources)).sum();
        amount(&demand.shape.resources) == 0 || sum <= usable
    };
    assert!(fits(|r| r.memory, machine.capacity.memory.saturating_sub(machine.reserve.memory)));
    assert!(fits(|r| r.cpu, machine.capacity.cpu));
    assert_eq!(machine.readiness, MachineReadiness::Ready);
    assert!(machine.protocol >= demand.shape.protocol);
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

/// Reports whether no two counts differ by more than one.
fn is_even(counts: impl Iterator<Item = u32> + Clone) -> bool {
    let (least, most) = (counts.clone().min(), counts.max());
    most.zip(least).is_none_or(|(most, least)| most - least <= 1)
}

proptest! {
    #[test]
    fn constraints_hold_and_decisions_repeat(machines in machines(), demands in demands()) {
        let first = run(&machines, &demands);
        prop_assert_eq!(run(&machines, &demands), first);
    }

    #[test]
    fn no_copy_is_placed_beyond_what_a_changing_machine_has(churn in churn()) {
        let mut machines: Vec<PlacementMachine> = (0..CHURNED).map(open_machine).collect();
        let mut index = PlacementIndex::default();
        machines.iter().for_each(|machine| index.put_machine(machine.clone()));
        let mut placed: Vec<Placed> = Vec::new();
        for change in churn {
            match change {
                Churn::Place(demand) => {
                    let Ok(name) = index.place(&demand) else { continue };
                    let machine = machines.iter().find(|machine| machine.name == name).expect("known");
                    assert_allowed(machine, &demand, &placed);
                    placed.push((name, demand));
                }
                Churn::Vacate(place) if !placed.is_empty() => {
                    let (name, demand) = placed.swap_remove(place % placed.len());
                    index.vacate(&name, &demand);
                }
                Churn::Vacate(_) => {}
                Churn::Machine { number, capacity, reserve, readiness } => {
                    let reserve = Resources { memory: reserve, cpu: 0 };
                    machines[number] = PlacementMachine { capacity, reserve, readiness, ..open_machine(number) };
                    index.put_machine(machines[number].clone());
                }
            }
            for machine in &machines {
                // A machine that became smaller than its copies has nothing free.
                let used = used(&machine.name, &placed);
                let usable = machine.capacity.memory.saturating_sub(machine.reserve.memory);
                let memory = usable.saturating_sub(used.memory);
                let free = Resources { memory, cpu: machine.capacity.cpu.saturating_sub(used.cpu) };
                prop_assert_eq!(index.free(&machine.name), Some(free));
            }
        }
    }

    /// The order decides between machines that are equally good, and nothing else.
    #[test]
    fn the_order_of_machines_decides_neither_whether_a_copy_is_placed_nor_why_it_is_refused(
        (machines, shuffled) in
            machines().prop_flat_map(|machines| (Just(machines.clone()), Just(machines).prop_shuffle())),
        demands in demands(),
    ) {
        let mut index = PlacementIndex::default();
        machines.iter().for_each(|machine| index.put_machine(machine.clone()));
        let mut other = PlacementIndex::default();
        shuffled.iter().for_each(|machine| other.put_machine(machine.clone()));
        for demand in &demands {
            prop_assert_eq!(other.explain(demand), index.explain(demand));
            match index.place(demand) {
                Ok(name) => other.occupy(&name, demand),
                Err(refusal) => prop_assert_eq!(other.place(demand), Err(refusal)),
            }
        }
    }

    #[test]
    fn copies_that_spread_over_a_label_differ_by_one_between_values(
        zones in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", ""]), 1..80),
        copies in 0..80usize,
        memory in 0..2u64,
    ) {
        let mut index = index(&zones);
        let demand = PlacementDemand { spread: CopySpread::Label(zone()), ..plain(0, memory) };
        let (mut of_zones, mut of_machines) = (BTreeMap::new(), BTreeMap::new());
        for (number, zone) in zones.iter().enumerate() {
            of_zones.insert(*zone, 0);
            of_machines.insert(machine_name(number), (*zone, 0));
        }
        for _ in 0..copies {
            let (zone, count) = of_machines.get_mut(&index.place(&demand).expect("placed")).expect("known");
            *count += 1;
            *of_zones.get_mut(*zone).expect("known") += 1;
        }
        prop_assert!(is_even(of_zones.values().copied()), "{:?}", of_zones);
        for value in of_zones.keys() {
            let here = of_machines.values().filter(|(zone, _)| zone == value).map(|(_, count)| *count);
            prop_assert!(is_even(here), "{}: {:?}", value, of_machines);
        }
        prop_assert_eq!(index.crowded(&demand), None);
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

/// Machines in zones. A machine with an empty zone has no label.
fn index(zones: &[&str]) -> PlacementIndex {
    let mut index = PlacementIndex::default();
    for (number, place) in zones.iter().enumerate() {
        let labels = (!place.is_empty()).then(|| (zone(), value(place))).into_iter().collect();
        index.put_machine(PlacementMachine { labels, ..open_machine(number) });
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
        capacity: Resources { memory: 50, cpu: 1 },
        readiness: MachineReadiness::Cordoned,
        ..open_machine(0)
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
fn an_agent_without_fencing_gets_no_single_copy() {
    let mut index = index(&["a", "b", "c"]);
    for number in [0, 1] {
        let old = index.machine(&machine_name(number)).expect("known").clone();
        index.put_machine(PlacementMachine { protocol: 2, ..old });
    }
    let mut fenced = plain(0, 60);
    fenced.shape.protocol = 3;
    assert_eq!(index.place(&fenced), Ok(machine_name(2)));
    let refusal = index.place(&fenced).expect_err("refused").to_string();
    assert_eq!(refusal, "2: agent too old for a single copy; update the machine; 1: 1 MiB short of memory");
    let updated = index.machine(&machine_name(0)).expect("known").clone();
    index.put_machine(PlacementMachine { protocol: 3, ..updated });
    assert_eq!(index.place(&fenced), Ok(machine_name(0)), "an update counts at once");
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
