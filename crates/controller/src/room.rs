//! Disk reserve: the server checks free space before it stores data.

use gantry_api::Problem;

use crate::Settings;

/// Refuses a write that would use up the disk reserve, and names the numbers. `what` is about to store `more` bytes; 0
/// when the size is unknown.
pub(crate) fn has_room(settings: &Settings, what: &str, more: u64) -> Result<(), Problem> {
    let data = &settings.data;
    takes_writes(settings, what)?;
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

/// Refuses a write to a read-only disk, and names the disk.
fn takes_writes(settings: &Settings, what: &str) -> Result<(), Problem> {
    let data = &settings.data;
    if !gantry_linux::disk::is_read_only(data) {
        return Ok(());
    }
    let refused =
        format!("the disk of {} cannot be written to, it is read-only, and {what} needs to write", data.display());
    Err(Problem::new(503, refused)
        .hint("`dmesg` says what the kernel found; all goes on once the disk can be written to"))
}

/// Bytes between two checks of the disk, while data of unknown size arrives.
const ROOM_STEP: u64 = 64 << 20;

/// Repeated check of the disk reserve while data arrives.
pub(crate) struct Room {
    what: &'static str,
    since: u64,
}

impl Room {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, since: 0 }
    }

    /// Counts received bytes, and checks the disk reserve once per [`ROOM_STEP`] bytes.
    pub(crate) fn take(&mut self, settings: &Settings, bytes: usize) -> Result<(), Problem> {
        self.since += bytes as u64;
        if self.since < ROOM_STEP {
            return Ok(());
        }
        self.since = 0;
        has_room(settings, self.what, 0)
    }
}
