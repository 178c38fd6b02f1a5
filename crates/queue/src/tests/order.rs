use gantry_model::Moment;
use proptest::prelude::*;

use crate::{BACKOFF_MAX, Jitter, Priority, Rank, backoff};

const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// Head start of one level, in milliseconds.
const LEVEL: u64 = 15 * 60 * 1000;

#[test]
fn higher_priorities_go_first_and_equal_ones_by_age() {
    let rank = |since, priority| Rank::of(Moment(since), priority);
    assert!(rank(5, Priority::High) < rank(5, Priority::Normal));
    assert!(rank(5, Priority::Normal) < rank(5, Priority::Low));
    assert!(rank(4, Priority::Low) < rank(5, Priority::Low));
}

#[test]
fn a_priority_is_0_1_or_2() {
    for priority in PRIORITIES {
        assert_eq!(Priority::try_from(u8::from(priority)), Ok(priority));
        let text = serde_json::to_string(&priority).expect("JSON");
        assert_eq!(serde_json::from_str::<Priority>(&text).expect("a priority"), priority);
    }
    let error = Priority::try_from(3).expect_err("no priority");
    assert!(error.to_string().contains("0, 1, or 2"), "{error}");
    assert!(serde_json::from_str::<Priority>("3").is_err());
}

#[test]
fn pauses_double_up_to_an_hour() {
    let pauses: Vec<u64> = (1..=5).map(|attempt| backoff(1000, attempt, Jitter(0))).collect();
    assert_eq!(pauses, [1000, 2000, 4000, 8000, 16_000]);
    assert_eq!(backoff(1000, 100, Jitter(0)), BACKOFF_MAX);
    assert_eq!(backoff(0, 7, Jitter(u16::MAX)), 0);
    assert_eq!(backoff(1000, 1, Jitter(u16::MAX)), 1250);
}

proptest! {
    #[test]
    fn no_job_waits_behind_others_that_come_two_head_starts_later(
        since in 0..u64::from(u32::MAX),
        later in 2 * LEVEL + 1..10 * LEVEL,
        own in 0_usize..3,
        other in 0_usize..3,
    ) {
        let first = Rank::of(Moment(since), PRIORITIES[own]);
        let second = Rank::of(Moment(since + later), PRIORITIES[other]);
        prop_assert!(first < second);
    }

    #[test]
    fn within_the_head_start_priority_decides(since in 0..u64::from(u32::MAX), later in 0..LEVEL) {
        let low = Rank::of(Moment(since), Priority::Low);
        let urgent = Rank::of(Moment(since + later), Priority::Normal);
        prop_assert!(urgent < low);
    }

    #[test]
    fn pauses_are_bounded_and_grow(first in 0..100_000_u64, attempt in 0..200_u32, jitter: u16) {
        let pause = backoff(first, attempt, Jitter(jitter));
        prop_assert!(pause >= first.min(BACKOFF_MAX) && pause <= BACKOFF_MAX + BACKOFF_MAX / 4);
        prop_assert!(backoff(first, attempt + 1, Jitter(0)) >= backoff(first, attempt, Jitter(0)));
    }

    #[test]
    fn ranks_of_any_moment_exist(since: u64, priority in 0_usize..3) {
        let rank = Rank::of(Moment(since), PRIORITIES[priority]);
        prop_assert!(rank <= Rank::of(Moment(u64::MAX), Priority::Low));
    }
}
