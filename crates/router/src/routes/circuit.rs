//! Circuit breaker: decides whether an instance may get requests. A failing instance is passed over for a while; then a
//! single request, the half-open probe, tries the instance again. Pure, apart from the state of the breaker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time for which an instance is passed over, by the number of consecutive failures.
const OPEN: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(10)];

/// Consecutive broken responses before a reachable instance is passed over. One bad request must not take the instance
/// from all others.
const BROKEN_MAX: usize = 5;

/// Time after which another half-open probe may start. A probe of an instance that hangs waits for the response timeout
/// of its role.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Failure of a request to an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstanceFailure {
    /// The router got no connection.
    Unreachable,
    /// The instance took the request and gave no response.
    Broken,
}

#[derive(Default)]
pub(crate) struct CircuitBreaker {
    /// A request failed since the last success. Every request reads this flag first.
    troubled: AtomicBool,
    trouble: Mutex<CircuitState>,
}

#[derive(Default)]
struct CircuitState {
    unreachable: usize,
    broken: usize,
    until: Option<Instant>,
    /// Time at which the circuit opened. Failures of requests sent before this time are ignored.
    opened: Option<Instant>,
    /// Start of the half-open probe.
    trying: Option<Instant>,
}

impl CircuitBreaker {
    fn trouble(&self) -> std::sync::MutexGuard<'_, CircuitState> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the instance may get a request.
    pub(crate) fn is_closed(&self, now: Instant) -> bool {
        !self.is_troubled() || self.trouble().until.is_none_or(|until| until <= now)
    }

    /// Returns whether the instance accepts connections. A reachable instance with broken responses is better than
    /// none.
    pub(crate) fn is_reachable(&self) -> bool {
        !self.is_troubled() || self.trouble().unreachable == 0
    }

    /// Claims the right to send a request. After a failure only the half-open probe has this right, until its outcome
    /// is known.
    pub(crate) fn enter(&self, now: Instant) -> bool {
        if !self.is_troubled() {
            return true;
        }
        let mut trouble = self.trouble();
        match trouble.until {
            Some(until) if until > now => false,
            Some(_) => {
                (trouble.until, trouble.trying) = (Some(now + PROBE_TIMEOUT), Some(now));
                true
            }
            None => true,
        }
    }

    /// Returns whether a request failed since the last success.
    pub(crate) fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    /// Records a successful connection. While its response is pending, the instance counts as reachable, in case there
    /// is no better choice.
    pub(crate) fn record_connection(&self) {
        if self.is_troubled() {
            self.trouble().unreachable = 0;
        }
    }

    /// Records that the request sent at `sent` ended without an outcome. If this request was the half-open probe,
    /// another probe may start.
    pub(crate) fn record_no_outcome(&self, sent: Instant) {
        let mut trouble = self.trouble();
        if trouble.trying.take_if(|trying| *trying == sent).is_some() {
            trouble.until = Some(sent);
        }
    }

    pub(crate) fn record_success(&self) {
        if self.troubled.swap(false, Ordering::Relaxed) {
            *self.trouble() = CircuitState::default();
        }
    }

    /// Records the failure of the request sent at `sent`. Of many requests that were under way at once, only the first
    /// failure counts.
    pub(crate) fn record_failure(&self, how: InstanceFailure, sent: Instant, now: Instant) {
        let mut trouble = self.trouble();
        if trouble.opened.is_some_and(|opened| sent < opened) {
            return;
        }
        let count = match how {
            InstanceFailure::Unreachable => {
                trouble.unreachable += 1;
                trouble.unreachable
            }
            InstanceFailure::Broken => {
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
    fn opens_after_a_failure_then_allows_one_probe() {
        let (circuit, now) = (CircuitBreaker::default(), Instant::now());
        circuit.record_failure(InstanceFailure::Unreachable, now, now);
        assert!(!circuit.is_closed(now) && !circuit.enter(now) && !circuit.is_reachable());
        let later = now + OPEN[0];
        assert!(circuit.is_closed(later) && circuit.enter(later));
        assert!(!circuit.is_closed(later) && !circuit.enter(later), "one tries, the others go elsewhere");
        circuit.record_no_outcome(now);
        assert!(!circuit.enter(later), "another one's end says nothing");
        circuit.record_no_outcome(later);
        assert!(circuit.enter(later), "its client went away");
        assert!(circuit.enter(later + PROBE_TIMEOUT), "the one that tried was never heard of again");
        circuit.record_failure(InstanceFailure::Unreachable, later, later);
        circuit.record_no_outcome(later + PROBE_TIMEOUT);
        assert!(!circuit.is_closed(later + OPEN[0]) && circuit.is_closed(later + OPEN[1]));
        // A hundred requests were sent before that, and waited for the same response.
        let before = now.checked_sub(PROBE_TIMEOUT).expect("a past");
        (0..100).for_each(|_| circuit.record_failure(InstanceFailure::Unreachable, before, later + OPEN[0]));
        assert!(circuit.is_closed(later + OPEN[1]));
        circuit.record_success();
        assert!(circuit.is_closed(now) && circuit.enter(now) && circuit.enter(now));
    }

    #[test]
    fn falls_back_to_a_reachable_instance_during_its_probe() {
        let (circuit, now) = (CircuitBreaker::default(), Instant::now());
        circuit.record_failure(InstanceFailure::Unreachable, now, now);
        let later = now + OPEN[0];
        assert!(circuit.enter(later) && !circuit.is_reachable());
        circuit.record_connection();
        assert!(circuit.is_reachable() && !circuit.is_closed(later), "its answer takes its time");
        circuit.record_failure(InstanceFailure::Broken, later, later);
        assert!(circuit.is_closed(later), "one bad request takes it from nobody");
    }

    #[test]
    fn counts_only_consecutive_broken_responses() {
        let (circuit, now) = (CircuitBreaker::default(), Instant::now());
        for _ in 1..BROKEN_MAX {
            circuit.record_failure(InstanceFailure::Broken, now, now);
        }
        assert!(circuit.is_closed(now));
        circuit.record_success();
        for _ in 1..BROKEN_MAX {
            circuit.record_failure(InstanceFailure::Broken, now, now);
        }
        assert!(circuit.is_closed(now));
        circuit.record_failure(InstanceFailure::Broken, now, now);
        assert!(!circuit.is_closed(now) && circuit.is_reachable());
    }
}
