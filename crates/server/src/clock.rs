//! Clocks of the server, read from the kernel.

use std::time::Duration;

use gantry_model::Moment;
use gantry_model::clock::{ClockReading, SteadyClock};

/// Reads the kernel's clocks.
pub(crate) fn reading() -> ClockReading {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    ClockReading {
        wall: Moment(gantry_linux::clock::wall()),
        awake: millis(gantry_linux::clock::awake()),
        booted: millis(gantry_linux::clock::booted()),
    }
}

/// Starts a clock for records with this newest stamp.
pub(crate) fn start_after(newest: Option<Moment>) -> SteadyClock {
    SteadyClock::after(reading(), newest.unwrap_or_default())
}
