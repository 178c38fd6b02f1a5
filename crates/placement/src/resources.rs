//! Amounts of a machine's resources.

/// Memory and processor time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: u64,
    /// Thousandths of a processor.
    pub cpu: u64,
}

impl Resources {
    /// The amounts in a fixed order.
    pub(crate) fn amounts(self) -> [u64; 2] {
        [self.memory, self.cpu]
    }

    /// Reports whether a demand fits into these amounts.
    pub(crate) fn fits(self, demand: Self) -> bool {
        self.memory >= demand.memory && self.cpu >= demand.cpu
    }

    /// The sum.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { memory: self.memory.saturating_add(other.memory), cpu: self.cpu.saturating_add(other.cpu) }
    }

    /// The rest, zero at least.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self { memory: self.memory.saturating_sub(other.memory), cpu: self.cpu.saturating_sub(other.cpu) }
    }
}
