//! IdleTimer for request deadlines. Moving a registered timer to a later time takes one atomic operation, whereas a new
//! timer takes the lock of its driver twice. So the requests of a connection reuse one timer in turn.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

type Timer = Pin<Box<Sleep>>;

/// Timer of a connection, while no request uses the timer.
#[derive(Default)]
pub(crate) struct IdleTimer(Mutex<Option<Timer>>);

impl IdleTimer {
    /// Takes a timer that fires at `deadline`.
    pub(crate) fn take(&self, deadline: Instant) -> Timer {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(mut timer) => {
                timer.as_mut().reset(deadline);
                timer
            }
            None => Box::pin(sleep_until(deadline)),
        }
    }

    /// Keeps the timer for the next request. If the timer fires before that, the task that waited last wakes once and
    /// goes on waiting.
    pub(crate) fn keep(&self, timer: Timer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
    }
}

/// Runs the work; none if the timer fires first.
pub(crate) async fn within<F: Future>(timer: &mut Timer, mut work: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Timer for the heads of a connection's requests. hyper asks for a new deadline with each head.
#[derive(Default)]
pub(crate) struct HeadTimer(Arc<IdleTimer>);

impl hyper::rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until((Instant::now() + duration).into_std())
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let timer = self.0.take(Instant::from_std(deadline));
        Box::pin(LentTimer { timer: Some(timer), timers: Arc::clone(&self.0) })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// Timer that returns to its connection on drop.
struct LentTimer {
    timer: Option<Timer>,
    timers: Arc<IdleTimer>,
}

impl Future for LentTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx))
    }
}

impl hyper::rt::Sleep for LentTimer {}

impl Drop for LentTimer {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.timers.keep(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_used_ends_at_its_new_deadline() {
        let (timers, begun) = (IdleTimer::default(), Instant::now());
        for seconds in [5, 20, 3] {
            let begun_now = Instant::now();
            let mut timer = timers.take(begun_now + Duration::from_secs(seconds));
            let work = std::pin::pin!(tokio::time::sleep(Duration::from_secs(4)));
            let done = within(&mut timer, work).await;
            assert_eq!(done.is_some(), seconds > 4, "{seconds} s");
            assert_eq!(begun_now.elapsed().as_secs(), seconds.min(4));
            timers.keep(timer);
        }
        assert_eq!(begun.elapsed().as_secs(), 4 + 4 + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_heads_of_a_connection_have_one_timer() {
        let timer = HeadTimer::default();
        let kept = || timer.0.0.lock().expect("not poisoned").as_ref().map(|kept| std::ptr::from_ref(&**kept));
        drop(timer.sleep(Duration::from_secs(1)));
        let first = kept();
        for seconds in [75, 80, 75] {
            let begun = Instant::now();
            timer.sleep(Duration::from_secs(seconds)).await;
            assert_eq!(begun.elapsed().as_secs(), seconds);
            assert!(first.is_some() && kept() == first, "it was given back");
        }
    }
}
