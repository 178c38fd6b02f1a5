//! A machine and its report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_model::{Digest, MachineName};

use crate::limits::LAYERS_MAX;

/// Source of a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerSource {
    /// The servers.
    Server,
    /// A machine that has the layer.
    Machine(MachineName),
}

/// A layer that a machine wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedLayer {
    /// The machines that were sources and failed.
    pub failed: BTreeSet<MachineName>,
    /// The source of a transfer under way.
    pub from: Option<LayerSource>,
}

/// The layers of a machine. A machine reports after each change, and when it connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerReport {
    /// Layers that the machine has verified and can send.
    pub has: BTreeSet<Digest>,
    /// Layers that the machine wants.
    pub wants: BTreeMap<Digest, WantedLayer>,
}

impl LayerReport {
    /// Drops layers beyond [`LAYERS_MAX`], and failures that can make no difference any more.
    pub(crate) fn bounded(mut self) -> Self {
        self.has = self.has.into_iter().take(LAYERS_MAX).collect();
        self.wants = self.wants.into_iter().take(LAYERS_MAX).collect();
        for want in self.wants.values_mut().filter(|want| want.failed.len() > LAYERS_MAX) {
            want.failed = std::mem::take(&mut want.failed).into_iter().take(LAYERS_MAX).collect();
        }
        self
    }
}

/// State of a machine.
#[derive(Debug, Default)]
pub(crate) struct Member {
    pub(crate) report: LayerReport,
    pub(crate) seen: Duration,
    /// The machine fell silent: its report does not count.
    pub(crate) is_silent: bool,
    /// Transfers that began from this machine.
    pub(crate) sent: u64,
    /// Transfers from this machine that failed.
    pub(crate) faults: u64,
}
