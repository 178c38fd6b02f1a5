//! The settings of a run.

/// Everything that a run depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulationSettings {
    /// Seed of all random decisions.
    pub seed: u64,
    /// Number of machines, each with an agent and a router.
    pub machines: usize,
    /// Length of the part with users and faults, in virtual seconds.
    pub seconds: u64,
    /// Print each transaction.
    pub prints: bool,
}

impl SimulationSettings {
    /// The settings of the test suite for a seed.
    #[must_use]
    pub fn new(seed: u64, machines: usize) -> Self {
        Self { seed, machines, seconds: 40, prints: false }
    }

    /// Number of apps: the copies of five apps cover some twenty machines.
    pub(crate) fn apps(&self) -> usize {
        self.machines.div_ceil(5)
    }

    /// Number of commands after the first deploys.
    pub(crate) fn commands(&self) -> u64 {
        self.machines as u64
    }

    /// Number of the operators' commands.
    pub(crate) fn operations(&self) -> u64 {
        self.machines as u64 / 3
    }

    /// Number of faults of processes and machines.
    pub(crate) fn faults(&self) -> u64 {
        self.machines as u64 / 2 + 10
    }
}
