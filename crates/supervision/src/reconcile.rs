//! The one shape of a loop that brings a state about.
//!
//! ```text
//!        ┌──────────── every interval, or when nudged ───────────┐
//!        ▼                                                       │
//! pass (one at a time) ─► done ──────────────────────────────────┤
//!                     └─► failed: logged once, back-off ─► pass  │
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use gantry_error::ErrorChain;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::Backoff;

/// Asks a loop for a pass soon. Nudges during a pass lead to one more pass.
#[derive(Debug, Default)]
pub struct Nudge(Notify);

impl Nudge {
    /// Asks for a pass.
    pub fn nudge(&self) {
        self.0.notify_one();
    }

    /// Waits for a nudge, or returns at once if one came since the last call.
    pub async fn nudged(&self) {
        self.0.notified().await;
    }
}

/// Progress of a loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoopStatus {
    /// Number of passes that ended.
    pub passes: u64,
    /// Number of failures since the last success.
    pub failures: u64,
    /// The last failure with its causes, until a pass succeeds.
    pub failure: Option<String>,
    /// Time of the last success.
    pub succeeded: Option<Instant>,
}

/// A periodic loop.
#[derive(Debug)]
pub struct ReconcileLoop {
    name: &'static str,
    every: Duration,
    delay: Duration,
    gather: Duration,
    backoff: Backoff,
    status: watch::Sender<LoopStatus>,
}

impl ReconcileLoop {
    /// A loop that runs a pass at once and then at each interval. The name is for logs. An interval of zero is for
    /// passes that wait themselves, such as long polls.
    #[must_use]
    pub fn new(name: &'static str, every: Duration, backoff: Backoff) -> Self {
        let (status, _) = watch::channel(LoopStatus::default());
        Self { name, every, delay: Duration::ZERO, gather: Duration::ZERO, backoff, status }
    }

    /// Runs the first pass only after the first interval.
    #[must_use]
    pub fn delayed(self) -> Self {
        Self { delay: self.every, ..self }
    }

    /// Keeps nudged passes this far apart. A nudge after a quiet time leads to a pass at once; nudges that follow each
    /// other closely share a pass.
    #[must_use]
    pub fn gathering(self, gather: Duration) -> Self {
        Self { gather, ..self }
    }

    /// The loop's status, for others to read.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LoopStatus> {
        self.status.subscribe()
    }

    /// Runs passes for ever, periodically.
    pub async fn run<E: Error>(self, pass: impl AsyncFnMut() -> Result<(), E>) -> Infallible {
        self.run_nudged(&Nudge::default(), pass).await
    }

    /// Runs passes for ever, periodically and when nudged. A nudge does not shorten a back-off.
    pub async fn run_nudged<E: Error>(
        mut self,
        nudge: &Nudge,
        mut pass: impl AsyncFnMut() -> Result<(), E>,
    ) -> Infallible {
        tokio::time::sleep(self.delay).await;
        loop {
            let began = Instant::now();
            match pass().await {
                Ok(()) => {
                    self.succeed();
                    if tokio::time::timeout(self.every, nudge.0.notified()).await.is_ok() {
                        tokio::time::sleep_until(began + self.gather).await;
                    }
                }
                Err(error) => {
                    self.fail(&error);
                    tokio::time::sleep(self.backoff.pause()).await;
                }
            }
        }
    }

    fn succeed(&mut self) {
        self.backoff.reset();
        self.status.send_modify(|status| {
            if status.failures > 0 {
                tracing::info!(task = self.name, failures = status.failures, "task works again");
            }
            let (passes, succeeded) = (status.passes + 1, Some(Instant::now()));
            *status = LoopStatus { passes, succeeded, ..LoopStatus::default() };
        });
    }

    /// Logs each failure whose text differs from the failure before: a loop may fail several times a second for hours.
    fn fail(&self, error: &dyn Error) {
        let why = ErrorChain(error).to_string();
        self.status.send_modify(|status| {
            if status.failure.as_ref() != Some(&why) {
                tracing::warn!(task = self.name, error = why, "task failed; retrying");
            }
            status.passes += 1;
            status.failures += 1;
            status.failure = Some(why);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;
    use std::rc::Rc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Runs a loop for some virtual time; returns the seconds at which its passes began, and its last status. `outcome`
    /// decides each pass by its number.
    async fn passes(
        loops: ReconcileLoop,
        nudge: &Nudge,
        time: Duration,
        outcome: impl Fn(usize) -> Result<(), io::Error>,
    ) -> (Vec<u64>, LoopStatus) {
        let (began, status) = (Rc::new(RefCell::new(Vec::new())), loops.status());
        let start = Instant::now();
        let running = loops.run_nudged(nudge, async || {
            began.borrow_mut().push(start.elapsed().as_secs());
            outcome(began.borrow().len())
        });
        let _ = tokio::time::timeout(time, running).await;
        let last = status.borrow().clone();
        (began.take(), last)
    }

    fn backoff() -> Backoff {
        Backoff::new(SECOND, 4 * SECOND)
    }

    #[tokio::test(start_paused = true)]
    async fn runs_at_once_and_at_each_interval() {
        let loops = ReconcileLoop::new("test", 10 * SECOND, backoff());
        let (began, status) = passes(loops, &Nudge::default(), 35 * SECOND, |_| Ok(())).await;
        assert_eq!((began, status.passes, status.failures), (vec![0, 10, 20, 30], 4, 0));
        let delayed = ReconcileLoop::new("test", 10 * SECOND, backoff()).delayed();
        assert_eq!(passes(delayed, &Nudge::default(), 25 * SECOND, |_| Ok(())).await.0, [10, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn backs_off_after_failures_and_says_why() {
        let loops = ReconcileLoop::new("test", 10 * SECOND, backoff());
        let outcome = |pass| if pass == 5 { Ok(()) } else { Err(io::Error::other(format!("failure {pass}"))) };
        let (began, status) = passes(loops, &Nudge::default(), 30 * SECOND, outcome).await;
        // Pauses of 1, 2, 4 and 4 s; after the success the interval, and then the first pause again.
        assert_eq!(began, [0, 1, 3, 7, 11, 21, 22, 24, 28]);
        assert_eq!((status.failures, status.failure.as_deref()), (4, Some("failure 9")));
        assert_eq!(status.passes, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn runs_once_for_nudges_that_follow_each_other_closely() {
        let loops = ReconcileLoop::new("test", 100 * SECOND, backoff()).gathering(2 * SECOND);
        let nudge = Nudge::default();
        let nudging = async {
            for at in [5, 1, 20] {
                tokio::time::sleep(at * SECOND).await;
                nudge.nudge();
            }
        };
        let ((began, _), ()) = tokio::join!(passes(loops, &nudge, 60 * SECOND, |_| Ok(())), nudging);
        // The nudge of second 6 came too soon after the pass of second 5, and waited.
        assert_eq!(began, [0, 5, 7, 26]);
    }

    #[tokio::test(start_paused = true)]
    async fn remembers_a_nudge_that_comes_during_a_pass() {
        let loops = ReconcileLoop::new("test", 100 * SECOND, backoff());
        let nudge = Nudge::default();
        let outcome = |pass| {
            if pass == 1 {
                nudge.nudge();
            }
            Ok(())
        };
        assert_eq!(passes(loops, &nudge, 50 * SECOND, outcome).await.0, [0, 0]);
    }
}
