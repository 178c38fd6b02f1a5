//! Attempts until one succeeds.

use std::error::Error;
use std::time::Duration;

use gantry_error::ErrorChain;
use tokio::time::Instant;

use crate::Backoff;

/// Repeats an attempt until it succeeds. For what a service waits for once; [`crate::ReconcileLoop`] keeps a state.
#[derive(Debug)]
pub struct Retry {
    name: &'static str,
    backoff: Backoff,
    quiet: u64,
    failures: u64,
    /// The failure that was logged last.
    logged: Option<String>,
}

impl Retry {
    /// Repeats with these pauses. The name is for logs.
    #[must_use]
    pub fn new(name: &'static str, backoff: Backoff) -> Self {
        Self { name, backoff, quiet: 1, failures: 0, logged: None }
    }

    /// Logs failures only once this many attempts have failed: early failures are expected.
    #[must_use]
    pub fn quiet_for(self, attempts: u64) -> Self {
        Self { quiet: attempts.max(1), ..self }
    }

    /// Returns the result of the first attempt that succeeds. A failure that lasts is logged once, and again when its text
    /// changes.
    pub async fn until_done<T, E: Error, F>(mut self, mut attempt: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T, E>>,
    {
        loop {
            match attempt().await {
                Ok(done) => {
                    self.succeeded();
                    return done;
                }
                Err(error) => tokio::time::sleep(self.failed(&error)).await,
            }
        }
    }

    /// Returns the result of the first attempt that succeeds, or the error of the first attempt that fails at `deadline`
    /// or later. Failures are logged as those of [`Self::until_done`].
    pub async fn until<T, E: Error, F>(mut self, deadline: Instant, mut attempt: impl FnMut() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        loop {
            match attempt().await {
                Ok(done) => {
                    self.succeeded();
                    return Ok(done);
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(error) => tokio::time::sleep(self.failed(&error)).await,
            }
        }
    }

    /// Takes note of an attempt that succeeded, if the caller itself repeats attempts. The pauses begin again.
    pub fn succeeded(&mut self) {
        if self.failures >= self.quiet {
            tracing::info!(task = self.name, failures = self.failures, "task works now");
        }
        self.failures = 0;
        self.logged = None;
        self.backoff.reset();
    }

    /// Counts and logs a failure, if the caller itself repeats attempts. Returns the pause before the next attempt.
    pub fn failed(&mut self, error: &dyn Error) -> Duration {
        if let Some(why) = self.news(error) {
            tracing::warn!(task = self.name, error = why, "task failed; retrying");
        }
        self.backoff.pause()
    }

    /// Counts a failure. Returns its text if the failure is to be logged.
    fn news(&mut self, error: &dyn Error) -> Option<String> {
        self.failures += 1;
        if self.failures < self.quiet {
            return None;
        }
        let why = ErrorChain(error).to_string();
        let is_new = self.logged.as_ref() != Some(&why);
        is_new.then(|| self.logged.insert(why).clone())
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::io;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeats_with_pauses_until_an_attempt_succeeds() {
        let begun = Instant::now();
        let mut attempts = 0;
        let retry = Retry::new("test", Backoff::new(Duration::from_secs(1), Duration::from_secs(4))).quiet_for(3);
        let done = retry
            .until_done(|| {
                attempts += 1;
                ready(if attempts == 5 { Ok("done") } else { Err(io::Error::other("not yet")) })
            })
            .await;
        // Pauses of 1, 2, 4 and 4 s.
        assert_eq!((done, begun.elapsed()), ("done", Duration::from_secs(11)));
    }

    #[test]
    fn a_failure_that_lasts_is_logged_again_when_its_text_changes() {
        let mut retry = Retry::new("test", Backoff::constant(Duration::from_secs(1))).quiet_for(3);
        let texts = ["a", "b", "b", "b", "c", "c", "b"];
        let logged = texts.map(|text| retry.news(&io::Error::other(text)));
        let [b, c] = ["b", "c"].map(|text| Some(text.to_owned()));
        assert_eq!(logged, [None, None, b.clone(), None, c, None, b]);
    }

    #[test]
    fn a_failure_after_a_success_counts_as_the_first() {
        let second = Duration::from_secs(1);
        let mut retry = Retry::new("test", Backoff::new(second, 4 * second));
        let error = io::Error::other("a");
        assert_eq!([(); 2].map(|()| retry.failed(&error)), [second, 2 * second]);
        assert_eq!(retry.news(&error), None);
        retry.succeeded();
        assert_eq!(retry.news(&error), Some("a".to_owned()));
        assert_eq!(retry.failed(&error), second);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_with_the_failure_of_the_attempt_at_the_deadline() {
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        let mut attempts = 0;
        let retry = Retry::new("test", Backoff::constant(4 * second));
        let failed = retry
            .until(begun + 10 * second, || {
                attempts += 1;
                ready(Err::<(), _>(io::Error::other(format!("failure {attempts}"))))
            })
            .await;
        assert_eq!(failed.expect_err("no success").to_string(), "failure 4");
        assert_eq!(begun.elapsed(), 12 * second);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_after_the_deadline_may_still_succeed() {
        let deadline = Instant::now();
        let mut results = [Ok("done")].into_iter();
        tokio::time::advance(Duration::from_secs(1)).await;
        let retry = Retry::new("test", Backoff::constant(Duration::from_secs(1)));
        let attempt = || ready(results.next().unwrap_or(Err(io::Error::other("one more attempt"))));
        assert_eq!(retry.until(deadline, attempt).await.expect("a success"), "done");
    }
}
