//! The server's clocks.

use std::time::Duration;

use gantry_model::Moment;
use gantry_model::clock::{Clock, Reading};

/// What the kernel's clocks show now.
pub(crate) fn reading() -> Reading {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Reading {
        wall: Moment(gantry_linux::clock::wall()),
        awake: millis(gantry_linux::clock::awake()),
        booted: millis(gantry_linux::clock::booted()),
    }
}

/// A clock that shows the wall clock's time of now.
pub(crate) fn start() -> Clock {
    Clock::new(reading())
}
