//! Numbered build slots: the number of concurrent builds on this machine. Each slot has host user ids of its own.

use std::sync::Arc;

use tokio::sync::mpsc;

/// First host user id of slot 0. The ids of builds lie below the ranges of apps.
const FIRST_USER: u32 = 0x6fff_0000;

/// Number of user ids of a slot: the ids that an image may name.
const RANGE: u32 = 65_536;

/// The build slots of a machine.
pub(crate) struct BuildSlots {
    sender: mpsc::Sender<u16>,
    free: tokio::sync::Mutex<mpsc::Receiver<u16>>,
}

/// A build slot in use. Dropping the slot frees its number for the next build.
pub(crate) struct BuildSlot {
    number: u16,
    slots: Arc<BuildSlots>,
}

impl BuildSlots {
    /// `most` slots; at least one.
    pub(crate) fn new(most: u16) -> Self {
        let most = most.max(1);
        let (sender, free) = mpsc::channel(usize::from(most));
        for number in 0..most {
            let _ = sender.try_send(number);
        }
        Self { sender, free: tokio::sync::Mutex::new(free) }
    }

    /// Waits for a free slot.
    pub(crate) async fn take(self: Arc<Self>) -> BuildSlot {
        // This value owns the sender, so the channel stays open while a task waits here.
        let number = self.free.lock().await.recv().await.unwrap_or_default();
        BuildSlot { number, slots: self }
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
        let _ = self.slots.sender.try_send(self.number);
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
    async fn a_machine_has_at_least_one_slot() {
        let _slot = Arc::new(BuildSlots::new(0)).take().await;
    }
}
