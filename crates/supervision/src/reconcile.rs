//! The reconcile loop: the one shape of all loops that bring the actual state to the wanted state.
//!
//! ```text
//!        ┌──────────── every interval, or when nudged ───────────┐
//!        ▼                                                       │
//! pass (one at a time) ─► done ──────────────────────────────────┤
//!                     ├─► failed: logged once, back-off ─► pass  │
//!                     └─► over: the loop returns                 │
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::ops::ControlFlow;
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

/// Due time of the next pass: after the loop's interval, or after a time that the pass returns. A pass may also end the
/// loop.
pub trait NextPass {
    /// Result of the loop, if a pass ends the loop.
    type End;

    /// The pause until the next pass, at most `interval`; or the end of the loop.
    fn within(self, interval: Duration) -> ControlFlow<Self::End, Duration>;
}

impl NextPass for () {
    type End = Infallible;

    fn within(self, interval: Duration) -> ControlFlow<Infallible, Duration> {
        ControlFlow::Continue(interval)
    }
}

impl NextPass for Duration {
    type End = Infallible;

    fn within(self, interval: Duration) -> ControlFlow<Infallible, Duration> {
        ControlFlow::Continue(self.min(interval))
    }
}

impl<T> NextPass for ControlFlow<T> {
    type End = T;

    fn within(self, interval: Duration) -> ControlFlow<T, Duration> {
        self.map_continue(|()| interval)
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
    quiet: u64,
    backoff: Backoff,
    status: watch::Sender<LoopStatus>,
}

impl ReconcileLoop {
    /// A loop that runs a pass at once and then at each interval. The name is for logs. An interval of zero is for
    /// passes that wait themselves, such as long polls.
    #[must_use]
    pub fn new(name: &'static str, every: Duration, backoff: Backoff) -> Self {
        let (status, _) = watch::channel(LoopStatus::default());
        Self { name, every, delay: Duration::ZERO, gather: Duration::ZERO, quiet: 1, backoff, status }
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

    /// Logs a failure only once this many passes in a row have failed: early failures are expected.
    #[must_use]
    pub fn quiet_for(self, passes: u64) -> Self {
        Self { quiet: passes.max(1), ..self }
    }

    /// The loop's status, for others to read.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LoopStatus> {
        self.status.subscribe()
    }

    /// Runs passes periodically, or when a pass says, until a pass ends the loop.
    pub async fn run<N: NextPass, E: Error>(self, pass: impl AsyncFnMut() -> Result<N, E>) -> N::End {
        self.run_nudged(&Nudge::default(), pass).await
    }

    /// Runs passes periodically, or when a pass says, and when nudged, until a pass ends the loop. A nudge does not
    /// shorten a back-off.
    pub async fn run_nudged<N: NextPass, E: Error>(
        mut self,
        nudge: &Nudge,
        mut pass: impl AsyncFnMut() -> Result<N, E>,
    ) -> N::End {
        tokio::time::sleep(self.delay).await;
        loop {
            let began = Instant::now();
            match pass().await {
                Ok(next) => {
                    self.succeed();
                    let pause = match next.within(self.every) {
                        ControlFlow::Continue(pause) => pause,
                        ControlFlow::Break(end) => return end,
                    };
                    if tokio::time::timeout(pause, nudge.0.notified()).await.is_ok() {
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
            if status.failures >= self.quiet {
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
            status.passes += 1;
            status.failures += 1;
            let is_new = status.failures == self.quiet || status.failure.as_ref() != Some(&why);
            if is_new && status.failures >= self.quiet {
                tracing::warn!(task = self.name, error = why, "task failed; retrying");
            }
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
    async fn backs_off_after_failures_and_reports_the_cause() {
        let loops = ReconcileLoop::new("test", 10 * SECOND, backoff());
        let outcome = |pass| if pass == 5 { Ok(()) } else { Err(io::Error::other(format!("failure {pass}"))) };
        let (began, status) = passes(loops, &Nudge::default(), 30 * SECOND, outcome).await;
        // Pauses of 1, 2, 4 and 4 s; after the success the interval, and then the first pause again.
        assert_eq!(began, [0, 1, 3, 7, 11, 21, 22, 24, 28]);
        assert_eq!((status.failures, status.failure.as_deref()), (4, Some("failure 9")));
        assert_eq!(status.passes, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_names_the_time_of_the_next_within_the_interval() {
        let (mut began, start) = (Vec::new(), Instant::now());
        let pass = async || {
            began.push(start.elapsed().as_secs());
            match began.len() {
                1 => Ok(3 * SECOND),
                2 => Ok(60 * SECOND),
                3 => Err(io::Error::other("failure")),
                _ => Ok(7 * SECOND),
            }
        };
        let running = ReconcileLoop::new("test", 10 * SECOND, backoff()).run(pass);
        let _ = tokio::time::timeout(25 * SECOND, running).await;
        assert_eq!(began, [0, 3, 13, 14, 21]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_ends_the_loop() {
        let (mut passes, start) = (0, Instant::now());
        let pass = async || {
            passes += 1;
            match passes {
                1 => Ok(ControlFlow::Continue(())),
                2 => Err(io::Error::other("failure")),
                _ => Ok(ControlFlow::Break("over")),
            }
        };
        let end = ReconcileLoop::new("test", 10 * SECOND, backoff()).run(pass).await;
        assert_eq!((end, start.elapsed()), ("over", 11 * SECOND));
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
