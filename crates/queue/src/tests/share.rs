use std::collections::BTreeMap;

use proptest::prelude::*;

use super::project;
use crate::{FairShare, QueueLoad, Rank};

fn queue(of: &str, leased: u32, head: i64) -> QueueLoad {
    QueueLoad { project: project(of), leased, limit: None, paused: false, head: Some(Rank(head)) }
}

/// Takes `count` turns; every queue has jobs without end, each with the next rank.
fn turns(mut share: FairShare, count: usize) -> Vec<usize> {
    let mut taken = Vec::new();
    for turn in 0..count {
        let Some(place) = share.next() else { break };
        share.take(place, Some(Rank(1000 + turn as i64)));
        taken.push(place);
    }
    taken
}

#[test]
fn projects_take_turns() {
    let share = FairShare::new(vec![queue("big", 0, 1), queue("small", 0, 500)], None);
    assert_eq!(turns(share, 6), [0, 1, 0, 1, 0, 1]);
    let share = FairShare::new(vec![queue("big", 3, 1), queue("small", 0, 500)], None);
    assert_eq!(turns(share, 5), [1, 1, 1, 0, 1], "what runs already counts");
}

#[test]
fn the_queues_of_a_project_go_by_rank() {
    let share = FairShare::new(vec![queue("shop", 0, 7), queue("shop", 5, 3)], None);
    assert_eq!(turns(share, 2), [1, 0]);
}

#[test]
fn limits_and_pauses_stop_a_queue_and_no_other() {
    let limited = QueueLoad { limit: Some(2), ..queue("a", 1, 1) };
    let paused = QueueLoad { paused: true, ..queue("a", 0, 0) };
    let empty = QueueLoad { head: None, ..queue("a", 0, 0) };
    let share = FairShare::new(vec![limited, paused, empty, queue("b", 9, 5)], None);
    assert_eq!(turns(share, 4), [0, 3, 3, 3]);
    let none = QueueLoad { limit: Some(0), ..queue("a", 0, 1) };
    assert!(turns(FairShare::new(vec![none], None), 1).is_empty());
}

#[test]
fn the_total_limit_counts_running_jobs() {
    let queues = || vec![queue("a", 2, 1), queue("b", 1, 1)];
    assert_eq!(turns(FairShare::new(queues(), Some(5)), 10).len(), 2);
    assert_eq!(turns(FairShare::new(queues(), Some(3)), 10).len(), 0);
}

#[test]
fn a_queue_whose_job_expired_is_passed_over() {
    let mut share = FairShare::new(vec![queue("a", 0, 1), queue("a", 0, 2)], None);
    share.pass_over(0, None);
    assert_eq!(share.next(), Some(1));
}

fn loads() -> impl Strategy<Value = Vec<QueueLoad>> {
    let load = (0_usize..4, 0_u32..5, prop::option::of(0_u32..8), any::<bool>(), prop::option::of(0_i64..100));
    let load = load.prop_map(|(of, leased, limit, paused, head)| QueueLoad {
        project: project(["a", "b", "c", "d"][of]),
        leased,
        limit,
        paused: paused && leased % 2 == 0,
        head: head.map(Rank),
    });
    prop::collection::vec(load, 0..12)
}

proptest! {
    #[test]
    fn no_limit_is_exceeded(loads in loads(), overall in prop::option::of(0_u32..20), count in 0_usize..40) {
        let before = loads.clone();
        let taken = turns(FairShare::new(loads, overall), count);
        let mut now: Vec<u32> = before.iter().map(|load| load.leased).collect();
        for place in &taken {
            now[*place] += 1;
            prop_assert!(!before[*place].paused && before[*place].head.is_some());
        }
        for (load, now) in before.iter().zip(&now) {
            prop_assert!(load.limit.is_none_or(|limit| *now <= limit.max(load.leased)));
        }
        let all: u32 = before.iter().map(|load| load.leased).sum();
        prop_assert!(overall.is_none_or(|most| all + taken.len() as u32 <= most.max(all)));
    }

    #[test]
    fn a_turn_goes_to_a_project_with_the_fewest_running_jobs(loads in loads()) {
        let Some(place) = FairShare::new(loads.clone(), None).next() else { return Ok(()) };
        let mut running: BTreeMap<_, u32> = BTreeMap::new();
        for load in &loads {
            *running.entry(load.project.clone()).or_default() += load.leased;
        }
        let has_turn = |load: &&QueueLoad| {
            !load.paused && load.head.is_some() && load.limit.is_none_or(|limit| load.leased < limit)
        };
        for load in loads.iter().filter(has_turn) {
            prop_assert!(running[&loads[place].project] <= running[&load.project]);
        }
    }

    #[test]
    fn no_slot_stays_empty_while_a_queue_may_start(loads in loads(), count in 1_usize..20) {
        let open = loads.iter().any(|load| !load.paused && load.head.is_some() && load.limit.is_none());
        let taken = turns(FairShare::new(loads, None), count);
        prop_assert!(!open || taken.len() == count);
    }
}
