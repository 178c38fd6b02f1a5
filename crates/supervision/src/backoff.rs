//! Pauses between attempts, which double up to a limit.

use std::time::Duration;

/// The pauses after consecutive failures: `first`, then twice as long each time, at most `longest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first), next: first }
    }

    /// The same pause after each failure.
    #[must_use]
    pub fn constant(pause: Duration) -> Self {
        Self::new(pause, pause)
    }

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }

    /// Starts again with the first pause, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_pause_and_starts_again_after_a_reset() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        assert_eq!([(); 5].map(|()| backoff.pause()), [1, 2, 4, 5, 5].map(seconds));
        backoff.reset();
        assert_eq!(backoff.pause(), seconds(1));
        let mut constant = Backoff::constant(seconds(3));
        assert_eq!([(); 3].map(|()| constant.pause()), [3, 3, 3].map(seconds));
    }

    #[test]
    fn never_exceeds_its_limits() {
        for (first, longest) in [(0, 10), (7, 3), (1, u64::MAX)] {
            let (first, longest) = (Duration::from_secs(first), Duration::from_secs(longest));
            let mut backoff = Backoff::new(first, longest);
            for _ in 0..100 {
                let pause = backoff.pause();
                assert!(pause >= first && pause <= longest.max(first), "{pause:?}");
            }
        }
    }
}
