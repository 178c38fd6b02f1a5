//! What is being made is named by no record until it is done: while somebody holds them, younger blobs are not collected.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// All holds.
#[derive(Default, Clone)]
pub(crate) struct Holds(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    next: u64,
    since: BTreeMap<u64, SystemTime>,
}

/// On every blob that is written from now on, until it is dropped.
pub(crate) struct Hold {
    holds: Holds,
    number: u64,
}

impl Holds {
    /// Taken before the first blob is written, dropped when a record names what came of it.
    pub(crate) fn take(&self) -> Hold {
        let mut taken = self.lock();
        let number = taken.next;
        taken.next += 1;
        taken.since.insert(number, SystemTime::now());
        Hold { holds: self.clone(), number }
    }

    /// When the oldest of them was taken.
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
