//! Room on the disk: asked for before something is kept.

use gantry_api::Problem;

use crate::Settings;

/// Refuses what would fill the disk, with the numbers. `what` is about to keep `more` bytes, as far as that is known.
pub(crate) fn has_room(settings: &Settings, what: &str, more: u64) -> Result<(), Problem> {
    let data = &settings.data;
    if gantry_linux::disk::is_read_only(data) {
        let refused = format!("the disk of {} is read-only, and {what} needs to write to it", data.display());
        return Err(
            Problem::new(503, refused).hint("`dmesg` says what the kernel found; it goes on once it can be written to")
        );
    }
    let needed = settings.collect.reserve.saturating_add(more);
    let (free, size) = gantry_linux::disk::space(data).map_err(|error| {
        Problem::internal(format!("cannot tell how much of the disk of {} is free: {error}", data.display()))
    })?;
    if free >= needed {
        return Ok(());
    }
    let bytes = gantry_model::Bytes;
    let refused = format!(
        "the disk of {} has {} free of {}, and {what} needs {}",
        data.display(),
        bytes(free),
        bytes(size),
        bytes(needed)
    );
    let hint = "`gantry status` tells what takes the space; `gantry app destroy` and `gantry base rm` free some";
    Err(Problem::new(507, refused).hint(hint))
}

/// Between two looks at the disk while something comes of which nobody said how large it is.
const ROOM_STEP: u64 = 64 << 20;

/// Asks for room again and again while something comes.
pub(crate) struct Room {
    what: &'static str,
    since: u64,
}

impl Room {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, since: 0 }
    }

    /// Notes that so many bytes came.
    pub(crate) fn take(&mut self, settings: &Settings, bytes: usize) -> Result<(), Problem> {
        self.since += bytes as u64;
        if self.since < ROOM_STEP {
            return Ok(());
        }
        self.since = 0;
        has_room(settings, self.what, 0)
    }
}
