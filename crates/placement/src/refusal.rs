//! Why no machine takes a copy: a reason for each machine, counted.

use std::collections::BTreeMap;
use std::fmt;

/// Why a machine does not take a copy. The first reason that applies counts, in the order of the variants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineRefusal {
    /// The machine has not reported yet.
    Joining,
    /// The machine no longer reports.
    Lost,
    /// All copies leave the machine.
    Draining,
    /// The machine takes no new copies.
    Cordoned,
    /// The image runs on another architecture.
    OtherArchitecture,
    /// A label lacks the required value.
    WrongLabel {
        /// Key of the label.
        key: String,
    },
    /// The copy is pinned to another machine.
    PinnedElsewhere,
    /// Nothing on the machine matches the roles that the copy must be with.
    LacksNeighbour {
        /// The pattern.
        pattern: String,
    },
    /// A role that must be apart from the copy runs on the machine.
    Conflict {
        /// The role.
        role: String,
    },
    /// The machine has a copy of the role already.
    HasCopy,
    /// A port is taken.
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The machine is short of memory.
    ShortOfMemory,
    /// The machine is short of processor time.
    ShortOfCpu,
    /// The machine is short of disk space.
    ShortOfDisk,
}

/// Why no machine takes a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacementRefusal {
    /// For each reason, the number of machines and the smallest amount that one of them is short of: bytes, or thousandths
    /// of a processor.
    pub reasons: BTreeMap<MachineRefusal, RefusedMachines>,
}

/// The machines with the same reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RefusedMachines {
    /// Number of machines.
    pub count: usize,
    /// The smallest amount that one of them is short of; 0 if the reason has no amount.
    pub short: u64,
}

impl PlacementRefusal {
    /// Adds the reason of one machine.
    pub(crate) fn add(&mut self, reason: MachineRefusal, short: u64) {
        let machines = self.reasons.entry(reason).or_default();
        machines.short = if machines.count == 0 { short } else { machines.short.min(short) };
        machines.count += 1;
    }

    /// Number of machines that refused.
    #[must_use]
    pub fn machines(&self) -> usize {
        self.reasons.values().map(|machines| machines.count).sum()
    }
}

/// `3: 128 MiB short of memory; 2: cordoned`, the most frequent reason first.
impl fmt::Display for PlacementRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reasons.is_empty() {
            return f.write_str("there is no machine");
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, machines)| std::cmp::Reverse(machines.count));
        for (place, (reason, machines)) in reasons.into_iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", machines.count, ReasonText(reason, machines.short))?;
        }
        Ok(())
    }
}

struct ReasonText<'a>(&'a MachineRefusal, u64);

impl fmt::Display for ReasonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(reason, short) = self;
        match reason {
            MachineRefusal::Joining => f.write_str("not reported yet"),
            MachineRefusal::Lost => f.write_str("lost"),
            MachineRefusal::Draining => f.write_str("draining"),
            MachineRefusal::Cordoned => f.write_str("cordoned"),
            MachineRefusal::PinnedElsewhere => f.write_str("not the machine that has the data"),
            MachineRefusal::OtherArchitecture => f.write_str("another architecture"),
            MachineRefusal::WrongLabel { key } => write!(f, "label {key} has no required value"),
            MachineRefusal::LacksNeighbour { pattern } => write!(f, "no copy of {pattern}"),
            MachineRefusal::Conflict { role } => write!(f, "conflict with {role}"),
            MachineRefusal::HasCopy => f.write_str("has a copy already"),
            MachineRefusal::PortTaken { port } => write!(f, "port {port} is taken"),
            MachineRefusal::ShortOfMemory => write!(f, "{} MiB short of memory", short.div_ceil(1 << 20)),
            MachineRefusal::ShortOfCpu => write!(f, "{} processors short", *short as f64 / 1000.0),
            MachineRefusal::ShortOfDisk => write!(f, "{} MiB short of disk space", short.div_ceil(1 << 20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_orders_reasons() {
        let mut refusal = PlacementRefusal::default();
        assert_eq!(refusal.to_string(), "there is no machine");
        for short in [300 << 20, 128 << 20, 200 << 20] {
            refusal.add(MachineRefusal::ShortOfMemory, short);
        }
        refusal.add(MachineRefusal::Cordoned, 0);
        refusal.add(MachineRefusal::Cordoned, 0);
        refusal.add(MachineRefusal::ShortOfCpu, 1500);
        assert_eq!(refusal.to_string(), "3: 128 MiB short of memory; 2: cordoned; 1: 1.5 processors short");
        assert_eq!(refusal.machines(), 6);
    }
}
