//! Wakes the feeders of the agents' connections, each for its own machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_model::MachineName;
use tokio::sync::Notify;

/// The feeder of each machine's newest connection.
#[derive(Default)]
pub(super) struct Feeders(Mutex<BTreeMap<MachineName, Arc<Notify>>>);

impl Feeders {
    /// Enters the feeder of a new connection, in the place of the one before. Returns what wakes the feeder.
    pub(super) fn enter(&self, machine: &MachineName) -> Arc<Notify> {
        let wake = Arc::new(Notify::new());
        self.lock().insert(machine.clone(), Arc::clone(&wake));
        wake
    }

    /// Removes a feeder, unless a newer one has taken its place.
    pub(super) fn leave(&self, machine: &MachineName, wake: &Arc<Notify>) {
        let mut feeders = self.lock();
        if feeders.get(machine).is_some_and(|newest| Arc::ptr_eq(newest, wake)) {
            feeders.remove(machine);
        }
    }

    /// Wakes the feeder of a machine. A feeder that is busy looks once more.
    pub(super) fn wake(&self, machine: &MachineName) {
        if let Some(feeder) = self.lock().get(machine) {
            feeder.notify_one();
        }
    }

    /// Wakes all feeders.
    pub(super) fn wake_all(&self) {
        self.lock().values().for_each(|feeder| feeder.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MachineName, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn machine(name: &str) -> MachineName {
        MachineName::parse(name).expect("a name")
    }

    /// Reports whether a feeder was woken since the last call.
    fn is_woken(wake: &Notify) -> bool {
        pin!(wake.notified()).enable()
    }

    #[test]
    fn a_machine_wakes_its_own_feeder_alone() {
        let feeders = Feeders::default();
        let wakes: Vec<Arc<Notify>> = (0..100).map(|n| feeders.enter(&machine(&format!("m{n}")))).collect();
        let woken = || wakes.iter().filter(|wake| is_woken(wake)).count();
        feeders.wake(&machine("m7"));
        feeders.wake(&machine("m7"));
        feeders.wake(&machine("unknown"));
        assert_eq!((is_woken(&wakes[7]), woken()), (true, 0));
        feeders.wake_all();
        assert_eq!((woken(), woken()), (100, 0));
    }

    #[test]
    fn the_newest_connection_of_a_machine_is_woken() {
        let (feeders, m) = (Feeders::default(), machine("m"));
        let [old, new] = [feeders.enter(&m), feeders.enter(&m)];
        feeders.leave(&m, &old);
        feeders.wake(&m);
        assert_eq!((is_woken(&old), is_woken(&new)), (false, true));
        feeders.leave(&m, &new);
        feeders.wake(&m);
        assert!(!is_woken(&new) && feeders.lock().is_empty());
    }
}
