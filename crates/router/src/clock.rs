//! The router's clock.

use std::sync::OnceLock;
use std::time::Duration;

use gantry_model::Moment;
use gantry_model::clock::{ClockJump, ClockReading, SteadyClock};

/// Returns the router's own time: the wall clock at its start, plus the time elapsed since. A report shifts the
/// timestamps to the current wall clock.
pub(crate) fn now() -> Moment {
    clock().now(reading())
}

fn clock() -> &'static SteadyClock {
    static CLOCK: OnceLock<SteadyClock> = OnceLock::new();
    CLOCK.get_or_init(|| SteadyClock::new(reading()))
}

fn reading() -> ClockReading {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    ClockReading {
        wall: Moment(gantry_linux::clock::wall()),
        awake: millis(gantry_linux::clock::awake()),
        booted: millis(gantry_linux::clock::booted()),
    }
}

/// Returns the jump of the wall clock since the start, if there was one.
pub(crate) fn jump() -> Option<ClockJump> {
    clock().jump(reading())
}
