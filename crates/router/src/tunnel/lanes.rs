//! The lanes of a connection to another machine's router.
//!
//! HTTP/2 gives each stream a window: the number of bytes that it carries in one round trip. The requests of a lane share
//! one window, so a connection over a long way has several lanes. Machines of one network have one lane, because requests
//! on one lane go out together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderValue;
use http::request::Parts;

use crate::http2::body::SharedUse;
use crate::request::request_body::RequestBody;
use crate::tunnel::lane::{Lane, LaneExchange};

/// Maximum number of lanes of a connection: 4 MiB in each round trip.
pub(crate) const LANES_MAX: usize = 16;

/// Round trip for which one lane is enough: it carries 128 MiB/s.
const ROUND_TRIP_OF_ONE: Duration = Duration::from_millis(2);

/// The lanes of a connection.
pub(crate) struct Lanes {
    all: Vec<Arc<Lane>>,
    /// Number of lanes that get new exchanges.
    used: AtomicUsize,
}

impl Lanes {
    /// Creates the lanes of a connection, whose first ping took `round_trip`.
    pub(super) fn new(round_trip: Duration) -> Self {
        let count = needed(round_trip);
        Self { all: std::iter::repeat_with(Arc::default).take(count).collect(), used: AtomicUsize::new(count) }
    }

    /// Takes over the round trip of a further ping. The shortest one counts: the others include the time that a busy router
    /// took to answer.
    pub(super) fn record_round_trip(&self, round_trip: Duration) {
        self.used.fetch_min(needed(round_trip), Ordering::Relaxed);
    }

    fn used(&self) -> &[Arc<Lane>] {
        &self.all[..self.used.load(Ordering::Relaxed).min(self.all.len())]
    }

    /// Opens the lanes, unless the connection has opened them already.
    pub(super) fn open(&self, sender: &SendRequest<Bytes>) {
        self.used().iter().for_each(|lane| lane.open(sender));
    }

    /// Begins an exchange on the lane with the fewest exchanges; none if the request needs a stream of its own.
    pub(super) fn begin(
        &self,
        user: &SharedUse,
        request: &Parts,
        allocation: &HeaderValue,
        body: &RequestBody,
    ) -> Option<LaneExchange> {
        let open = self.used().iter().filter_map(|lane| Some((lane.load()?, lane)));
        let (_, lane) = open.min_by_key(|(load, _)| *load)?;
        lane.begin(user, request, allocation, body)
    }
}

/// Returns the number of lanes for a round trip.
fn needed(round_trip: Duration) -> usize {
    let lanes = round_trip.as_nanos() / ROUND_TRIP_OF_ONE.as_nanos();
    usize::try_from(lanes).unwrap_or(LANES_MAX).clamp(1, LANES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_way_has_several_lanes() {
        let needed = |millis| needed(Duration::from_millis(millis));
        assert_eq!([0, 1, 2, 3].map(needed), [1; 4]);
        assert_eq!([4, 10, 50, 10_000].map(needed), [2, 5, LANES_MAX, LANES_MAX]);
    }

    #[test]
    fn a_ping_that_a_busy_router_answered_late_does_not_count() {
        let lanes = Lanes::new(Duration::from_millis(50));
        for (millis, used) in [(80, LANES_MAX), (8, 4), (1, 1), (50, 1)] {
            lanes.record_round_trip(Duration::from_millis(millis));
            assert_eq!(lanes.used().len(), used, "{millis} ms");
        }
    }
}
