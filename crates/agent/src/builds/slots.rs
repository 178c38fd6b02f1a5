//! Numbered build slots: the number of concurrent builds on this machine. Each slot has host user ids of its own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// First host user id of slot 0. The ids of builds lie below the ranges of apps.
const FIRST_USER: u32 = 0x6fff_0000;

/// Number of user ids of a slot: the ids that an image may name.
const RANGE: u32 = 65_536;

/// The build slots of a machine.
pub(crate) struct BuildSlots {
    state: Mutex<SlotState>,
    changed: Notify,
    /// The build that waits first is served first.
    queue: tokio::sync::Mutex<()>,
}

struct SlotState {
    most: u16,
    used: BTreeSet<u16>,
}

/// A build slot in use. Dropping the slot frees its number for the next build.
pub(crate) struct BuildSlot {
    number: u16,
    slots: Arc<BuildSlots>,
}

impl BuildSlots {
    /// `most` slots; at least one.
    pub(crate) fn new(most: u16) -> Self {
        let state = Mutex::new(SlotState { most: most.max(1), used: BTreeSet::new() });
        Self { state, changed: Notify::new(), queue: tokio::sync::Mutex::default() }
    }

    /// Changes the number of slots. Builds that run go on, even if there are more than slots.
    pub(crate) fn resize(&self, most: u16) {
        self.lock().most = most.max(1);
        self.changed.notify_one();
    }

    /// Waits for a free slot.
    pub(crate) async fn take(self: Arc<Self>) -> BuildSlot {
        let _first = self.queue.lock().await;
        loop {
            if let Some(number) = self.claim() {
                let slots = Arc::clone(&self);
                return BuildSlot { number, slots };
            }
            self.changed.notified().await;
        }
    }

    /// Takes the lowest free number, unless as many builds run as there are slots.
    fn claim(&self) -> Option<u16> {
        let mut state = self.lock();
        if state.used.len() >= usize::from(state.most) {
            return None;
        }
        let free = (0..state.most).find(|number| !state.used.contains(number))?;
        state.used.insert(free);
        Some(free)
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BuildSlot {
    /// First host id of the users of this slot's containers.
    pub(crate) fn first_user(&self) -> u32 {
        FIRST_USER - u32::from(self.number) * RANGE
    }
}

impl Drop for BuildSlot {
    fn drop(&mut self) {
        self.slots.lock().used.remove(&self.number);
        self.slots.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_build_waits_until_another_frees_its_slot() {
        let slots = Arc::new(BuildSlots::new(2));
        let first = Arc::clone(&slots).take().await;
        let second = Arc::clone(&slots).take().await;
        assert_eq!(first.first_user() - second.first_user(), RANGE);
        let mut third = Box::pin(Arc::clone(&slots).take());
        assert!(futures_util::poll!(&mut third).is_pending());
        let user = first.first_user();
        drop(first);
        assert_eq!(third.await.first_user(), user);
    }

    #[tokio::test]
    async fn more_slots_start_a_build_that_waits() {
        let slots = Arc::new(BuildSlots::new(1));
        let first = Arc::clone(&slots).take().await;
        let mut second = Box::pin(Arc::clone(&slots).take());
        assert!(futures_util::poll!(&mut second).is_pending());
        slots.resize(2);
        let second = second.await;
        slots.resize(1);
        let mut third = Box::pin(Arc::clone(&slots).take());
        drop(first);
        assert!(futures_util::poll!(&mut third).is_pending(), "one build runs, in the slot that is no more");
        drop(second);
        third.await;
    }

    #[tokio::test]
    async fn a_machine_has_at_least_one_slot() {
        let _slot = Arc::new(BuildSlots::new(0)).take().await;
    }
}
