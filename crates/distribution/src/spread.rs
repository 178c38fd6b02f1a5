//! The spread of one layer over the machines.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::MachineName;

use crate::limits::SEEDS;
use crate::member::LayerSource;

/// State of one layer.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    /// Machines that have the layer.
    pub(crate) holders: BTreeSet<MachineName>,
    /// Transfers under way, by receiver.
    pub(crate) transfers: BTreeMap<MachineName, LayerSource>,
    /// Further sources of the transfers, by receiver.
    pub(crate) further_sources: BTreeMap<MachineName, BTreeSet<MachineName>>,
    /// Machines that wait for a source, by ticket.
    pub(crate) queue: BTreeMap<u64, MachineName>,
    /// Copies that the servers began to send since the layer is known.
    pub(crate) seeds: u32,
}

impl Spread {
    /// Returns whether nothing is known about the layer.
    pub(crate) fn is_over(&self) -> bool {
        self.holders.is_empty() && self.transfers.is_empty() && self.queue.is_empty()
    }

    /// Returns the number of transfers from the servers.
    pub(crate) fn server_transfers(&self) -> usize {
        self.transfers.values().filter(|source| **source == LayerSource::Server).count()
    }

    /// Returns whether the servers may send a further copy although a receiver may have the layer soon.
    pub(crate) fn needs_seed(&self) -> bool {
        self.seeds < SEEDS
    }

    /// Returns whether another machine, which did not fail before, is about to have the layer.
    pub(crate) fn is_coming(&self, receiver: &MachineName, failed: &BTreeSet<MachineName>) -> bool {
        self.transfers.keys().any(|other| other != receiver && !failed.contains(other))
    }

    /// Removes a machine from the queue. Returns whether it waited.
    pub(crate) fn leave_queue(&mut self, machine: &MachineName) -> bool {
        let before = self.queue.len();
        self.queue.retain(|_, waiting| waiting != machine);
        self.queue.len() < before
    }
}
