//! Tables and properties of the plan of one layer's parts.

use std::collections::BTreeMap;

use gantry_model::MachineName;
use proptest::prelude::*;

use super::*;

const QUICK: Duration = Duration::from_millis(10);

fn machine(number: usize) -> LayerSource {
    LayerSource::Machine(MachineName::parse(&format!("m{number}")).expect("a name"))
}

fn plan(count: usize, sources: &[usize]) -> PartPlan {
    let mut plan = PartPlan::new(count, &BTreeSet::new());
    plan.offer(sources.iter().map(|number| machine(*number)));
    plan
}

#[test]
fn each_source_sends_other_parts() {
    let mut plan = plan(3, &[1, 2]);
    assert_eq!(plan.start(), [machine(1), machine(2)]);
    assert_eq!(plan.start(), []);
    assert_eq!((plan.next(&machine(1)), plan.next(&machine(2))), (Some(0), Some(1)));
    plan.verified(&machine(2), QUICK);
    assert_eq!(plan.next(&machine(2)), Some(2));
    plan.verified(&machine(2), QUICK);
    assert_eq!((plan.next(&machine(2)), plan.is_complete()), (None, false));
    plan.verified(&machine(1), QUICK);
    assert_eq!((plan.next(&machine(1)), plan.is_complete(), plan.is_idle()), (None, true, true));
}

#[test]
fn a_machine_that_failed_sends_no_further_part() {
    let mut plan = plan(2, &[1]);
    plan.start();
    assert_eq!(plan.next(&machine(1)), Some(0));
    plan.failed(&machine(1));
    assert_eq!((plan.start(), plan.next(&machine(1)), plan.is_idle()), (vec![], None, true));
    assert!(!plan.has_source());
    plan.offer([machine(1), machine(2)]);
    assert_eq!(plan.start(), [machine(2)]);
    assert_eq!(plan.next(&machine(2)), Some(0), "the part of the machine that failed");
}

#[test]
fn a_source_that_failed_sends_again_once_it_is_allowed_and_offered() {
    let mut plan = PartPlan::new(1, &BTreeSet::new());
    for _ in 0..2 {
        plan.offer([LayerSource::Server]);
        assert_eq!(plan.start(), [LayerSource::Server]);
        assert_eq!(plan.next(&LayerSource::Server), Some(0));
        plan.failed(&LayerSource::Server);
        plan.offer([LayerSource::Server]);
        assert_eq!((plan.start(), plan.has_source()), (vec![], false));
        plan.allow(&LayerSource::Server);
    }
}

#[test]
fn a_source_that_is_taken_away_ends_after_its_part() {
    let mut plan = plan(3, &[1, 2]);
    plan.start();
    assert_eq!((plan.next(&machine(1)), plan.next(&machine(2))), (Some(0), Some(1)));
    plan.offer([machine(1)]);
    plan.verified(&machine(2), QUICK);
    assert_eq!((plan.next(&machine(2)), plan.is_idle()), (None, false));
    plan.verified(&machine(1), QUICK);
    assert_eq!(plan.next(&machine(1)), Some(2));
}

#[test]
fn a_slow_source_sends_no_further_part_beside_a_fast_one() {
    for (slow, quick, is_dropped) in [(17, 2, true), (16, 2, false), (2, 0, false), (3, 0, true)] {
        let mut plan = plan(9, &[1, 2]);
        plan.start();
        assert_eq!((plan.next(&machine(1)), plan.next(&machine(2))), (Some(0), Some(1)));
        plan.verified(&machine(1), Duration::from_secs(slow));
        plan.verified(&machine(2), Duration::from_secs(quick));
        assert_eq!(plan.next(&machine(1)).is_none(), is_dropped, "{slow} s beside {quick} s");
        assert_eq!(plan.start(), []);
        assert!(plan.next(&machine(2)).is_some());
        // The slow one is better than none.
        plan.failed(&machine(2));
        let started = if is_dropped { vec![machine(1)] } else { vec![] };
        assert_eq!(plan.start(), started, "{slow} s beside {quick} s");
    }
}

#[test]
fn parts_that_are_there_are_not_sent() {
    let mut plan = PartPlan::new(3, &BTreeSet::from([0, 2]));
    plan.offer([machine(1), machine(2)]);
    assert_eq!(plan.start(), [machine(1)], "one part is missing");
    assert_eq!(plan.next(&machine(1)), Some(1));
    plan.verified(&machine(1), QUICK);
    assert!(plan.is_complete());
    assert!(PartPlan::new(0, &BTreeSet::new()).is_complete());
}

#[derive(Debug, Clone)]
enum Event {
    Offer(BTreeSet<usize>),
    Start,
    Next(usize),
    Verified(usize, u64),
    Failed(usize),
    Allow(usize),
}

const SOURCES: usize = 6;

/// Source 0 is the servers.
fn source(number: usize) -> LayerSource {
    if number == 0 { LayerSource::Server } else { machine(number) }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => prop::collection::btree_set(0..SOURCES, 0..SOURCES).prop_map(Event::Offer),
        2 => Just(Event::Start),
        6 => (0..SOURCES).prop_map(Event::Next),
        4 => (0..SOURCES, 0..20u64).prop_map(|(number, seconds)| Event::Verified(number, seconds)),
        1 => (0..SOURCES).prop_map(Event::Failed),
        1 => (0..SOURCES).prop_map(Event::Allow),
    ]
}

proptest! {
    #[test]
    fn every_part_is_sent_by_one_source_at_a_time(count in 1..12usize, events in prop::collection::vec(event(), 0..80)) {
        let mut plan = PartPlan::new(count, &BTreeSet::new());
        let (mut under_way, mut failed) = (BTreeMap::new(), BTreeSet::new());
        let mut arrived = BTreeSet::new();
        for event in events {
            match event {
                Event::Offer(numbers) => plan.offer(numbers.into_iter().map(source)),
                Event::Start => for started in plan.start() {
                    prop_assert!(!failed.contains(&started));
                },
                // A source sends one part at a time.
                Event::Next(number) if !under_way.contains_key(&source(number)) => {
                    if let Some(part) = plan.next(&source(number)) {
                        prop_assert!(!failed.contains(&source(number)));
                        prop_assert!(part < count && !arrived.contains(&part));
                        prop_assert!(!under_way.values().any(|other| *other == part), "part {part} twice");
                        under_way.insert(source(number), part);
                    }
                }
                Event::Next(_) => {}
                Event::Verified(number, seconds) => {
                    plan.verified(&source(number), Duration::from_secs(seconds));
                    arrived.extend(under_way.remove(&source(number)));
                }
                Event::Failed(number) => {
                    plan.failed(&source(number));
                    under_way.remove(&source(number));
                    failed.insert(source(number));
                }
                Event::Allow(number) => {
                    plan.allow(&source(number));
                    failed.remove(&source(number));
                }
            }
            prop_assert!(under_way.len() <= SOURCES_AT_ONCE);
            prop_assert_eq!(plan.is_complete(), arrived.len() == count);
        }
        // Every source ends; then the servers alone complete the layer.
        for number in 0..SOURCES {
            plan.failed(&source(number));
        }
        plan.allow(&LayerSource::Server);
        plan.offer([LayerSource::Server]);
        for _ in 0..count - arrived.len() {
            plan.start();
            prop_assert!(plan.next(&LayerSource::Server).is_some());
            plan.verified(&LayerSource::Server, QUICK);
        }
        prop_assert!(plan.is_complete());
    }
}
