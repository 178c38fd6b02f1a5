//! Warnings about the machine and the store: shown by `gantry status`, and beside every answer of `gantry why`.

use crate::Server;
use crate::core::View;

/// Returns the warnings, each with its meaning and the action to take.
pub(crate) fn warnings(server: &Server, view: &View) -> Vec<String> {
    clock(view).into_iter().chain(disk(server)).collect()
}

/// Warns of a jump of the wall clock, which explains odd ages and stamps.
fn clock(view: &View) -> Option<String> {
    let jump = view.jumps.told(view.now)?;
    let ago = view.now.since(jump.at) / 1000;
    Some(format!("{jump}, {ago} s ago; deploys and leases go on as before, stamps of before may look wrong"))
}

/// Warns of a disk that takes no writes, which explains refused changes.
fn disk(server: &Server) -> Option<String> {
    let data = &server.settings.data;
    let is_refused = !server.writes || gantry_linux::disk::is_read_only(data);
    is_refused.then(|| {
        format!(
            "the disk of {} cannot be written to: it is read-only or failing, `dmesg` says why; what runs goes on, changes \
             are refused, and all goes on by itself once the disk can be written to",
            data.display()
        )
    })
}
