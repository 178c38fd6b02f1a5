//! GC pins. An in-progress build or upload pins all blobs written after it started, until a record references them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// All GC pins.
#[derive(Default, Clone)]
pub(crate) struct Holds(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    next: u64,
    since: BTreeMap<u64, SystemTime>,
}

/// A GC pin on every blob written since the pin was taken. Dropping the pin ends the protection.
pub(crate) struct Hold {
    holds: Holds,
    number: u64,
}

impl Holds {
    /// Takes a pin. Callers take the pin before they write the first blob, and drop it once a record references the
    /// result.
    pub(crate) fn take(&self) -> Hold {
        let mut taken = self.lock();
        let number = taken.next;
        taken.next += 1;
        taken.since.insert(number, SystemTime::now());
        Hold { holds: self.clone(), number }
    }

    /// Returns when the oldest pin was taken. Garbage collection spares younger blobs.
    pub(crate) fn oldest(&self) -> Option<SystemTime> {
        self.lock().since.values().min().copied()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.lock().since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_counts_until_it_is_dropped() {
        let holds = Holds::default();
        let (first, second) = (holds.take(), holds.take());
        let oldest = holds.oldest().expect("two");
        drop(first);
        assert!(holds.oldest().expect("one") >= oldest);
        drop(second);
        assert_eq!(holds.oldest(), None);
    }
}
