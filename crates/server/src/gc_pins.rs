//! GC pins. An in-progress build or upload pins all blobs written after it started, until a record references them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use gantry_linux::clock::file_time;

/// All GC pins.
#[derive(Default, Clone)]
pub(crate) struct GcPins(Arc<Mutex<PinTable>>);

#[derive(Default)]
struct PinTable {
    next: u64,
    since: BTreeMap<u64, SystemTime>,
}

/// A GC pin on every blob written since the pin was taken. Dropping the pin ends the protection.
pub(crate) struct GcPin {
    pins: GcPins,
    number: u64,
}

impl GcPins {
    /// Takes a pin. Callers take the pin before they write the first blob, and drop it once a record references the
    /// result.
    pub(crate) fn take(&self) -> GcPin {
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table.since.insert(number, file_time());
        GcPin { pins: self.clone(), number }
    }

    /// Returns when the oldest pin was taken. Garbage collection spares younger blobs.
    pub(crate) fn oldest(&self) -> Option<SystemTime> {
        self.lock().since.values().min().copied()
    }

    fn lock(&self) -> MutexGuard<'_, PinTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GcPin {
    fn drop(&mut self) {
        self.pins.lock().since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_pin_counts_until_it_is_dropped() {
        let pins = GcPins::default();
        let (first, second) = (pins.take(), pins.take());
        let oldest = pins.oldest().expect("two pins");
        drop(first);
        assert!(pins.oldest().expect("one pin") >= oldest);
        drop(second);
        assert_eq!(pins.oldest(), None);
    }
}
