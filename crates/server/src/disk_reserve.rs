//! Disk reserve: the server checks free space before it stores data.

use gantry_api::{ErrorCode, Problem};

use crate::{Server, ServerSettings};

/// Refuses a write that would use up the disk reserve, and names the numbers. `what` is about to store `more` bytes; 0
/// when the size is unknown.
pub(crate) fn check_reserve(server: &Server, what: &str, more: u64) -> Result<(), Problem> {
    let data = &server.settings.data;
    check_writable(&server.settings, what)?;
    let needed = server.core.view().records.policy.reserve().0.saturating_add(more);
    let (free, size) = gantry_linux::disk::space(data).map_err(|error| {
        Problem::internal(format!("cannot measure the free space on the disk of {}: {error}", data.display()))
    })?;
    if free >= needed {
        return Ok(());
    }
    let bytes = gantry_model::Bytes;
    let refused = format!(
        "the disk of {} is full: {} free of {}, and {what} needs {}",
        data.display(),
        bytes(free),
        bytes(size),
        bytes(needed)
    );
    let hint = "`gantry status` lists what uses the space; `gantry app destroy APP --confirm APP` and `gantry base rm BASE` free some";
    Err(Problem::new(ErrorCode::DiskFull, refused).hint(hint))
}

/// Refuses a write to a read-only disk, and names the disk.
fn check_writable(settings: &ServerSettings, what: &str) -> Result<(), Problem> {
    let data = &settings.data;
    if !gantry_linux::disk::is_read_only(data) {
        return Ok(());
    }
    let refused =
        format!("the disk of {} cannot be written to: it is read-only, and {what} must write to it", data.display());
    Err(Problem::new(ErrorCode::DiskReadOnly, refused)
        .hint("`dmesg` shows the kernel's reason; the server recovers by itself once the disk takes writes"))
}

/// Bytes between two checks of the disk, while data of unknown size arrives.
const CHECK_EVERY: u64 = 64 << 20;

/// Repeated check of the disk reserve while data arrives.
pub(crate) struct ReserveCheck {
    what: &'static str,
    since: u64,
}

impl ReserveCheck {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, since: 0 }
    }

    /// Counts received bytes, and checks the disk reserve once per [`CHECK_EVERY`] bytes.
    pub(crate) fn take(&mut self, server: &Server, bytes: usize) -> Result<(), Problem> {
        self.since += bytes as u64;
        if self.since < CHECK_EVERY {
            return Ok(());
        }
        self.since = 0;
        check_reserve(server, self.what, 0)
    }
}
