//! How many of an app's requests go on: those that wait for an instance, and those that its owners allow. One gate for
//! each app, so that one whose instances are all down holds up nobody else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use gantry_model::{RequestCounts, Traffic};

/// The most requests that wait for one app.
const WAITING_MAX: u64 = 1000;

/// Counts an app's requests.
#[derive(Default)]
pub(crate) struct Gate {
    under_way: AtomicU64,
    waiting: AtomicU64,
    held: AtomicU64,
    refused: AtomicU64,
    limited: AtomicU64,
    bucket: Mutex<Bucket>,
}

/// Requests that may still come: as many as the rate at most, filled at the rate.
#[derive(Default)]
struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let gained = self.filled.map_or(rate, |filled| now.duration_since(filled).as_secs_f64() * rate);
        self.filled = Some(now);
        self.tokens = (self.tokens + gained).min(rate);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// A request that goes on, for as long as it lives.
pub(crate) struct Admitted(Arc<Gate>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among those that wait, for as long as it lives. Whoever does not say that it found an instance waited in vain.
pub(crate) struct Place {
    gate: Arc<Gate>,
    found: bool,
}

impl Place {
    pub(crate) fn found(mut self) {
        self.found = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.waiting.fetch_sub(1, Ordering::Relaxed);
        let counted = if self.found { &self.gate.held } else { &self.gate.refused };
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// Lets a request on; or says which limit it is over.
    pub(crate) fn admit(self: &Arc<Self>, traffic: &Traffic, now: Instant) -> Result<Admitted, String> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(Arc::clone(self));
        let over = match (traffic.concurrent, traffic.rate) {
            (Some(most), _) if before >= u64::from(most) => Some(format!("at most {most} requests at once")),
            (_, Some(rate)) if !self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(rate, now) => {
                Some(format!("at most {rate} requests a second"))
            }
            _ => None,
        };
        match over {
            None => Ok(admitted),
            Some(why) => {
                self.limited.fetch_add(1, Ordering::Relaxed);
                Err(why)
            }
        }
    }

    /// A place among those that wait; none when there are too many already.
    pub(crate) fn wait(self: &Arc<Self>) -> Option<Place> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { gate: Arc::clone(self), found: false })
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            waiting: read(&self.waiting),
            held: read(&self.held),
            refused: read(&self.refused),
            limited: read(&self.limited),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn places_are_bounded_counted_and_given_back() {
        let gate = Arc::<Gate>::default();
        let mut places: Vec<_> = std::iter::from_fn(|| gate.wait()).collect();
        assert_eq!(places.len() as u64, WAITING_MAX);
        places.pop().expect("a place").found();
        let counts = gate.counts();
        assert_eq!((counts.waiting, counts.held, counts.refused), (WAITING_MAX - 1, 1, 1));
        drop(places);
        assert_eq!((gate.counts().waiting, gate.counts().refused), (0, WAITING_MAX));
        assert!(gate.wait().is_some());
    }

    #[test]
    fn a_rate_lets_a_second_s_worth_through_and_then_no_more_than_that() {
        let (gate, begun) = (Arc::<Gate>::default(), Instant::now());
        let traffic = Traffic { rate: Some(10), ..Traffic::default() };
        let passed = |at: Instant| (0..30).filter(|_| gate.admit(&traffic, at).is_ok()).count();
        assert_eq!(passed(begun), 10);
        assert_eq!(passed(begun + Duration::from_millis(500)), 5);
        assert_eq!(passed(begun + Duration::from_secs(60)), 10);
        assert_eq!(gate.counts().limited, 65);
    }

    #[test]
    fn so_many_at_once_and_no_more() {
        let gate = Arc::<Gate>::default();
        let traffic = Traffic { concurrent: Some(2), ..Traffic::default() };
        let now = Instant::now();
        let one = gate.admit(&traffic, now).expect("one");
        let _other = gate.admit(&traffic, now).expect("another");
        assert_eq!(gate.admit(&traffic, now).err().as_deref(), Some("at most 2 requests at once"));
        drop(one);
        assert!(gate.admit(&traffic, now).is_ok());
    }
}
