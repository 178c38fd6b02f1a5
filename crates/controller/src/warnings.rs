//! Warnings about the machine and the store: shown by `gantry status`, and beside every answer of `gantry why`.

use crate::Server;
use crate::core::ClusterView;

/// Returns the warnings, each with its meaning and the action to take.
pub(crate) fn warnings(server: &Server, view: &ClusterView) -> Vec<String> {
    clock(view).into_iter().chain(disk(server)).collect()
}

/// Warns of a jump of the wall clock, which explains odd ages and stamps.
fn clock(view: &ClusterView) -> Option<String> {
    let jump = view.jumps.recent(view.now)?;
    let ago = view.now.since(jump.at) / 1000;
    Some(format!("{jump}, {ago} s ago; deploys and leases are not affected; earlier timestamps may look wrong"))
}

/// Warns of a disk that takes no writes, which explains refused changes.
fn disk(server: &Server) -> Option<String> {
    let data = &server.settings.data;
    let is_refused = !server.writes || gantry_linux::disk::is_read_only(data);
    is_refused.then(|| {
        format!(
            "the disk of {} cannot be written to: it is read-only or failing, and `dmesg` shows the reason; running \
             instances are not affected, and changes are refused until the disk takes writes again",
            data.display()
        )
    })
}
