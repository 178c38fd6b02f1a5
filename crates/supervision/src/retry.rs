//! Attempts until one succeeds.

use std::error::Error;

use gantry_error::ErrorChain;

use crate::Backoff;

/// Repeats an attempt until it succeeds. For what a service waits for at its start; [`crate::ReconcileLoop`] keeps a state.
#[derive(Debug)]
pub struct Retry {
    name: &'static str,
    backoff: Backoff,
    quiet: u64,
}

impl Retry {
    /// Repeats with these pauses. The name is for logs.
    #[must_use]
    pub fn new(name: &'static str, backoff: Backoff) -> Self {
        Self { name, backoff, quiet: 1 }
    }

    /// Logs the failure only once this many attempts have failed: early failures are expected.
    #[must_use]
    pub fn quiet_for(self, attempts: u64) -> Self {
        Self { quiet: attempts.max(1), ..self }
    }

    /// Returns the result of the first attempt that succeeds. A failure that lasts is logged once.
    pub async fn until_done<T, E: Error>(mut self, mut attempt: impl FnMut() -> Result<T, E>) -> T {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(done) => {
                    if failures >= self.quiet {
                        tracing::info!(task = self.name, failures, "task works now");
                    }
                    return done;
                }
                Err(error) => {
                    failures += 1;
                    if failures == self.quiet {
                        tracing::warn!(task = self.name, error = %ErrorChain(&error), "task failed; retrying");
                    }
                    tokio::time::sleep(self.backoff.pause()).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeats_with_pauses_until_an_attempt_succeeds() {
        let begun = Instant::now();
        let mut attempts = 0;
        let retry = Retry::new("test", Backoff::new(Duration::from_secs(1), Duration::from_secs(4))).quiet_for(3);
        let done = retry
            .until_done(|| {
                attempts += 1;
                if attempts == 5 { Ok("done") } else { Err(io::Error::other("not yet")) }
            })
            .await;
        // Pauses of 1, 2, 4 and 4 s.
        assert_eq!((done, begun.elapsed()), ("done", Duration::from_secs(11)));
    }
}
