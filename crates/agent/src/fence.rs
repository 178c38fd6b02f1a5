//! The fence of roles with `single: true`: two copies of such a role never run at once.
//!
//! The agent asks the server for a lease as long as such a copy is to run here. The lease counts from the moment at which
//! the agent asked. The agent writes the end of the lease, as time since boot, into the modification time of each copy's
//! exit record, and pid 1 of the container ends the container at that time. So the copy ends on a machine that is cut off,
//! even if its agent has ended or stands still. The server starts another copy only after that.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use gantry_model::{AllocationId, Generation};
use gantry_supervision::Nudge;

use crate::status::reading;

/// The machine's lease, and the copies that need the lease.
#[derive(Default)]
pub(crate) struct Fence {
    state: Mutex<FenceState>,
    requests: Nudge,
}

#[derive(Default)]
struct FenceState {
    /// End of the lease, in milliseconds since boot.
    end: u64,
    /// Generation of the plan that this machine had with the lease. An older plan says nothing about what may run.
    generation: Generation,
    /// Exit record of each copy that needs the lease.
    copies: BTreeMap<AllocationId, PathBuf>,
}

impl Fence {
    fn lock(&self) -> MutexGuard<'_, FenceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a lease for a copy with this exit record, until [`Self::leave`].
    pub(crate) fn enter(&self, id: &AllocationId, exit: PathBuf) {
        if self.lock().copies.insert(id.clone(), exit).is_none() {
            self.requests.nudge();
        }
    }

    /// Takes back what [`Self::enter`] asked for.
    pub(crate) fn leave(&self, id: &AllocationId) {
        self.lock().copies.remove(id);
    }

    /// Waits for a copy that asks for a lease.
    pub(crate) async fn lease_requested(&self) {
        self.requests.nudged().await;
    }

    /// Reports whether a copy needs the lease.
    pub(crate) fn is_needed(&self) -> bool {
        !self.lock().copies.is_empty()
    }

    /// Takes over a lease for which the agent asked at `requested`, with the plan of this generation.
    pub(crate) fn renew(&self, requested: u64, millis: u64, generation: Generation) {
        let mut state = self.lock();
        state.generation = state.generation.max(generation);
        state.end = state.end.max(requested.saturating_add(millis));
        for (id, exit) in &state.copies {
            match File::options().append(true).open(exit).and_then(|file| write_end(&file, state.end)) {
                // The copy does not run now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::error!(instance = %id, %error, "cannot renew the lease of a single copy"),
                Ok(()) => {}
            }
        }
    }

    /// Reports whether a copy may start now, under a plan of the generation `adopted`.
    pub(crate) fn allows(&self, adopted: Generation) -> bool {
        let state = self.lock();
        reading().booted < state.end && adopted >= state.generation
    }

    /// Makes the exit record of a copy that starts, with the end of the lease.
    pub(crate) fn open(&self, exit: &Path) -> io::Result<()> {
        let file = File::create(exit)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        write_end(&file, self.lock().end)
    }
}

fn write_end(exit: &File, end: u64) -> io::Result<()> {
    exit.set_modified(UNIX_EPOCH + Duration::from_millis(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(exit: &Path) -> u64 {
        let modified = exit.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        u64::try_from(modified.duration_since(UNIX_EPOCH).expect("after 1970").as_millis()).expect("a number")
    }

    #[test]
    fn a_lease_reaches_the_copies_that_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let (fence, id) = (Fence::default(), AllocationId::parse("shop.v1.worker-1").expect("an id"));
        let exit = folder.path().join("exit");
        assert!(!fence.is_needed() && !fence.allows(Generation(9)), "without a lease nothing may start");
        fence.enter(&id, exit.clone());
        assert!(fence.is_needed());
        let now = reading().booted;
        fence.renew(now, 60_000, Generation(3));
        assert!(fence.allows(Generation(3)));
        assert!(!fence.allows(Generation(2)), "the plan that came with the lease is not in force yet");
        fence.open(&exit).expect("made");
        assert_eq!(end_of(&exit), now + 60_000);
        fence.renew(now + 5_000, 60_000, Generation(3));
        assert_eq!(end_of(&exit), now + 65_000);
        fence.renew(now, 60_000, Generation(3));
        assert_eq!(end_of(&exit), now + 65_000, "an older answer shortens no lease");
        fence.leave(&id);
        fence.renew(now + 9_000, 60_000, Generation(3));
        assert_eq!(end_of(&exit), now + 65_000);
    }

    #[test]
    fn an_expired_lease_allows_no_run() {
        let fence = Fence::default();
        fence.renew(reading().booted.saturating_sub(10), 5, Generation(1));
        assert!(!fence.allows(Generation(1)));
    }
}
