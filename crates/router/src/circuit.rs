//! Whether an instance is asked: one that fails is passed over for a while, then tried with a single request. Pure but for
//! its own state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long it is passed over, by failures in a row.
const OPEN: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(10)];

/// Answers that break off in a row before an instance that can be reached is passed over: one bad request must not
/// take it from the others.
const BROKEN_MAX: usize = 5;

/// How long a single request tries an instance again before another one may: each waits for one that hangs, as long as its role says.
const TRIAL: Duration = Duration::from_secs(10);

/// How a request failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection.
    Unreachable,
    /// It took the request and gave no answer.
    Broken,
}

#[derive(Default)]
pub(crate) struct Circuit {
    /// Anything failed since it last worked: what a request looks at first.
    troubled: AtomicBool,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Trouble {
    unreachable: usize,
    broken: usize,
    until: Option<Instant>,
    /// When it was first found to fail: what was asked of it before says nothing more.
    opened: Option<Instant>,
    /// When the request began that tries it again.
    trying: Option<Instant>,
}

impl Circuit {
    fn trouble(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It may be asked.
    pub(crate) fn is_closed(&self, now: Instant) -> bool {
        !self.is_troubled() || self.trouble().until.is_none_or(|until| until <= now)
    }

    /// It can be reached, whatever it answers: better than nothing.
    pub(crate) fn is_reachable(&self) -> bool {
        !self.is_troubled() || self.trouble().unreachable == 0
    }

    /// Takes the right to ask: after a failure one request has it, until it is known how that went.
    pub(crate) fn enter(&self, now: Instant) -> bool {
        if !self.is_troubled() {
            return true;
        }
        let mut trouble = self.trouble();
        match trouble.until {
            Some(until) if until > now => false,
            Some(_) => {
                (trouble.until, trouble.trying) = (Some(now + TRIAL), Some(now));
                true
            }
            None => true,
        }
    }

    /// Something failed of late, and nothing worked since.
    pub(crate) fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    /// A connection was made: while its answer is waited for, it is better than nothing.
    pub(crate) fn reached(&self) {
        if self.is_troubled() {
            self.trouble().unreachable = 0;
        }
    }

    /// What was asked of it at `asked` ended before anything was known of it. If that tried it again, another may.
    pub(crate) fn given_up(&self, asked: Instant) {
        let mut trouble = self.trouble();
        if trouble.trying.take_if(|trying| *trying == asked).is_some() {
            trouble.until = Some(asked);
        }
    }

    pub(crate) fn worked(&self) {
        if self.troubled.swap(false, Ordering::Relaxed) {
            *self.trouble() = Trouble::default();
        }
    }

    /// What was asked of it at `asked` failed. Of many that were under way at once, the first counts.
    pub(crate) fn failed(&self, how: Failure, asked: Instant, now: Instant) {
        let mut trouble = self.trouble();
        if trouble.opened.is_some_and(|opened| asked < opened) {
            return;
        }
        let count = match how {
            Failure::Unreachable => {
                trouble.unreachable += 1;
                trouble.unreachable
            }
            Failure::Broken => {
                (trouble.unreachable, trouble.broken) = (0, trouble.broken + 1);
                (trouble.broken + 1).saturating_sub(BROKEN_MAX)
            }
        };
        let tried = trouble.trying.take().is_some();
        if count > 0 {
            trouble.until = Some(now + OPEN[(count - 1).min(OPEN.len() - 1)]);
            trouble.opened.get_or_insert(now);
        } else if tried {
            trouble.until = Some(now);
        }
        self.troubled.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_one_is_passed_over_then_tried_by_one_request() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        circuit.failed(Failure::Unreachable, now, now);
        assert!(!circuit.is_closed(now) && !circuit.enter(now) && !circuit.is_reachable());
        let later = now + OPEN[0];
        assert!(circuit.is_closed(later) && circuit.enter(later));
        assert!(!circuit.is_closed(later) && !circuit.enter(later), "one tries, the others go elsewhere");
        circuit.given_up(now);
        assert!(!circuit.enter(later), "another one's end says nothing");
        circuit.given_up(later);
        assert!(circuit.enter(later), "its client went away");
        assert!(circuit.enter(later + TRIAL), "the one that tried was never heard of again");
        circuit.failed(Failure::Unreachable, later, later);
        circuit.given_up(later + TRIAL);
        assert!(!circuit.is_closed(later + OPEN[0]) && circuit.is_closed(later + OPEN[1]));
        // A hundred that were asked before that, and waited for the same.
        let before = now.checked_sub(TRIAL).expect("a past");
        (0..100).for_each(|_| circuit.failed(Failure::Unreachable, before, later + OPEN[0]));
        assert!(circuit.is_closed(later + OPEN[1]));
        circuit.worked();
        assert!(circuit.is_closed(now) && circuit.enter(now) && circuit.enter(now));
    }

    #[test]
    fn one_that_is_tried_and_can_be_reached_is_better_than_nothing() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        circuit.failed(Failure::Unreachable, now, now);
        let later = now + OPEN[0];
        assert!(circuit.enter(later) && !circuit.is_reachable());
        circuit.reached();
        assert!(circuit.is_reachable() && !circuit.is_closed(later), "its answer takes its time");
        circuit.failed(Failure::Broken, later, later);
        assert!(circuit.is_closed(later), "one bad request takes it from nobody");
    }

    #[test]
    fn broken_answers_count_only_in_a_row() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        for _ in 1..BROKEN_MAX {
            circuit.failed(Failure::Broken, now, now);
        }
        assert!(circuit.is_closed(now));
        circuit.worked();
        for _ in 1..BROKEN_MAX {
            circuit.failed(Failure::Broken, now, now);
        }
        assert!(circuit.is_closed(now));
        circuit.failed(Failure::Broken, now, now);
        assert!(!circuit.is_closed(now) && circuit.is_reachable());
    }
}
