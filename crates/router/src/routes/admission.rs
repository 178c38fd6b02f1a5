//! Admission of requests: the limits of an app, and the requests that wait for an instance. Each app has its own gate,
//! so that an app whose instances are all down delays no other app.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use gantry_model::traffic::FAILURE_GAP_MILLIS;
use gantry_model::{AllocationId, FailureRun, Moment, RequestCounts, RequestFailure, TrafficPolicy};

/// Maximum number of requests that wait for one app.
const WAITING_MAX: u64 = 1000;

/// Admission counters of an app.
#[derive(Default)]
pub(crate) struct AdmissionGate {
    under_way: AtomicU64,
    /// Requests that ended with a response. The counter shares the cache line that each request writes anyway.
    ended: AtomicU64,
    waiting: AtomicU64,
    held: AtomicU64,
    refused: AtomicU64,
    limited: AtomicU64,
    bucket: Mutex<TokenBucket>,
    failures: Mutex<BTreeMap<RequestFailure, CountedRun>>,
}

/// A run of failures, and the number of requests that had ended before the first failure.
struct CountedRun {
    run: FailureRun,
    before: u64,
}

/// Time for which a run of failures is reported after its last failure, in milliseconds.
const REPORTED_MILLIS: u64 = 10 * FAILURE_GAP_MILLIS;

/// Token bucket of the rate limit. The bucket holds one second's worth of requests and refills at the rate.
#[derive(Default)]
struct TokenBucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl TokenBucket {
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

/// Guard of an admitted request; counts the request until dropped.
pub(crate) struct AdmittedRequest(Arc<AdmissionGate>);

impl Drop for AdmittedRequest {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Place in the waiting queue, until dropped. A place dropped without [`QueuePlace::mark_admitted`] counts as refused.
pub(crate) struct QueuePlace {
    gate: Arc<AdmissionGate>,
    admitted: bool,
}

impl QueuePlace {
    pub(crate) fn mark_admitted(mut self) {
        self.admitted = true;
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.gate.waiting.fetch_sub(1, Ordering::Relaxed);
        let counted = if self.admitted { &self.gate.held } else { &self.gate.refused };
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Limit that a request exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExceededLimit {
    #[error("at most {0} requests at once")]
    Concurrent(u32),
    #[error("at most {0} requests a second")]
    Rate(u32),
}

impl AdmissionGate {
    /// Admits a request, or returns the exceeded limit.
    pub(crate) fn admit(
        self: &Arc<Self>,
        traffic: &TrafficPolicy,
        now: Instant,
    ) -> Result<AdmittedRequest, ExceededLimit> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let admitted = AdmittedRequest(Arc::clone(self));
        let over = match (traffic.concurrent, traffic.rate) {
            (Some(most), _) if before >= u64::from(most) => Some(ExceededLimit::Concurrent(most)),
            (_, Some(rate)) if !self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(rate, now) => {
                Some(ExceededLimit::Rate(rate))
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

    /// Takes a place in the waiting queue; none if the queue is full.
    pub(crate) fn wait(self: &Arc<Self>) -> Option<QueuePlace> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(QueuePlace { gate: Arc::clone(self), admitted: false })
    }

    /// Counts a request that ended with a response.
    pub(crate) fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a failed request to the run of its kind, after [`Self::ended`] counted the request. Begins a new run if the
    /// last run is over.
    pub(crate) fn failed(&self, kind: RequestFailure, status: u16, instance: Option<&AllocationId>, now: Moment) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.ended.load(Ordering::Relaxed).saturating_sub(1);
        let fresh = || CountedRun {
            run: FailureRun { count: 0, of: 0, since: now, last: now, status, instance: None },
            before,
        };
        let entry = failures.entry(kind).or_insert_with(fresh);
        if now.since(entry.run.last) > FAILURE_GAP_MILLIS {
            *entry = fresh();
        }
        let run = &mut entry.run;
        (run.count, run.last, run.status, run.instance) = (run.count + 1, now, status, instance.cloned());
    }

    /// Returns the newest run of each kind, and removes the runs that ended long ago.
    pub(crate) fn failures(&self, now: Moment) -> BTreeMap<RequestFailure, FailureRun> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, run| now.since(run.run.last) <= REPORTED_MILLIS);
        let ended = self.ended.load(Ordering::Relaxed);
        let of = |run: &CountedRun| ended.saturating_sub(run.before).max(run.run.count);
        failures.iter().map(|(kind, run)| (*kind, FailureRun { of: of(run), ..run.run.clone() })).collect()
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
    fn bounds_and_counts_the_waiting_queue() {
        let gate = Arc::<AdmissionGate>::default();
        let mut places: Vec<_> = std::iter::from_fn(|| gate.wait()).collect();
        assert_eq!(places.len() as u64, WAITING_MAX);
        places.pop().expect("a place").mark_admitted();
        let counts = gate.counts();
        assert_eq!((counts.waiting, counts.held, counts.refused), (WAITING_MAX - 1, 1, 1));
        drop(places);
        assert_eq!((gate.counts().waiting, gate.counts().refused), (0, WAITING_MAX));
        assert!(gate.wait().is_some());
    }

    #[test]
    fn counts_failures_in_runs() {
        let gate = AdmissionGate::default();
        let instance = AllocationId::parse("shop.v1.web-1");
        let fails = |kind, at| {
            gate.ended();
            gate.failed(kind, 502, instance.as_ref(), Moment(at));
        };
        (0..5).for_each(|_| gate.ended());
        fails(RequestFailure::Broken, 1_000);
        (0..7).for_each(|_| gate.ended());
        fails(RequestFailure::Broken, 50_000);
        fails(RequestFailure::Slow, 50_000);
        let runs = gate.failures(Moment(51_000));
        let broken = &runs[&RequestFailure::Broken];
        assert_eq!((broken.count, broken.of, broken.since, broken.last), (2, 10, Moment(1_000), Moment(50_000)));
        assert_eq!((broken.status, &broken.instance), (502, &instance));
        assert_eq!((runs[&RequestFailure::Slow].count, runs[&RequestFailure::Slow].of), (1, 1));
        // A failure after a pause begins another run. A run that ended long ago is no longer reported.
        fails(RequestFailure::Broken, 50_001 + FAILURE_GAP_MILLIS);
        let runs = gate.failures(Moment(50_000 + REPORTED_MILLIS + 1));
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[&RequestFailure::Broken].count, runs[&RequestFailure::Broken].of), (1, 1));
    }

    #[test]
    fn limits_the_rate_of_requests() {
        let (gate, begun) = (Arc::<AdmissionGate>::default(), Instant::now());
        let traffic = TrafficPolicy { rate: Some(10), ..TrafficPolicy::default() };
        let passed = |at: Instant| (0..30).filter(|_| gate.admit(&traffic, at).is_ok()).count();
        assert_eq!(passed(begun), 10);
        assert_eq!(passed(begun + Duration::from_millis(500)), 5);
        assert_eq!(passed(begun + Duration::from_secs(60)), 10);
        assert_eq!(gate.counts().limited, 65);
    }

    #[test]
    fn limits_concurrent_requests() {
        let gate = Arc::<AdmissionGate>::default();
        let traffic = TrafficPolicy { concurrent: Some(2), ..TrafficPolicy::default() };
        let now = Instant::now();
        let one = gate.admit(&traffic, now).expect("one");
        let _other = gate.admit(&traffic, now).expect("another");
        assert_eq!(gate.admit(&traffic, now).err(), Some(ExceededLimit::Concurrent(2)));
        drop(one);
        assert!(gate.admit(&traffic, now).is_ok());
    }
}
