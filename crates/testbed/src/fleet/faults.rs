//! Faults of a fleet's machines: power, processes, cables, clocks.

use super::{Fleet, FleetMachine, FleetNetwork};
use crate::ShiftedClock;

impl Fleet {
    /// Switches a machine on that was off. Does not wait until the machine reports.
    ///
    /// # Panics
    /// If a process cannot be started.
    pub fn power_on(&mut self, name: &str) {
        let (machine, network) = self.parts(name);
        machine.plug_in(network);
        machine.start_member(network);
        machine.up(network);
    }

    /// Takes the power of a machine away. The data folder stays.
    ///
    /// # Panics
    /// If a process does not end.
    pub fn power_off(&mut self, name: &str) {
        let (machine, network) = self.parts(name);
        machine.power_off(network);
    }

    /// Stops every process of a machine, containers included, until [`Fleet::thaw`].
    ///
    /// # Panics
    /// If there is no such machine.
    pub fn freeze(&self, name: &str) {
        self.machine(name).signal(&self.network, "STOP");
    }

    /// Continues a frozen machine.
    ///
    /// # Panics
    /// If there is no such machine.
    pub fn thaw(&self, name: &str) {
        self.machine(name).signal(&self.network, "CONT");
    }

    /// Pulls the cable of a machine out.
    pub fn unplug(&self, name: &str) {
        self.network.connect(name, false);
    }

    /// Plugs the cable of a machine in.
    pub fn plug(&self, name: &str) {
        self.network.connect(name, true);
    }

    /// Drops all packets from some machines that arrive at a machine. Packets in the other direction arrive. Without any
    /// `from`, drops nothing.
    ///
    /// # Panics
    /// If there is no such machine.
    pub fn drop_packets_from(&self, name: &str, from: &[&str]) {
        let from: Vec<String> = from.iter().map(|other| self.address(other)).collect();
        self.network.drop_packets(name, &from);
    }

    /// Limits what a machine sends, in kilobits per second.
    ///
    /// # Panics
    /// If the limit cannot be set.
    pub fn limit(&self, name: &str, kilobits: Option<u32>) {
        self.network.limit(name, kilobits);
    }

    /// Gives a machine a clock of its own. Its programs that run already keep theirs.
    ///
    /// # Panics
    /// If there is no such machine.
    pub fn set_clock(&mut self, name: &str, clock: &ShiftedClock) {
        self.parts(name).0.set_clock(clock);
    }

    /// Process id of a service.
    ///
    /// # Panics
    /// If there is no such machine.
    #[must_use]
    pub fn service(&self, name: &str, service: &str) -> Option<u32> {
        self.machine(name).service(service)
    }

    /// Sends a signal (`KILL`, `STOP`) to a service.
    ///
    /// # Panics
    /// If the service does not run.
    pub fn signal(&self, name: &str, service: &str, signal: &str) {
        let pid = self.service(name, service).unwrap_or_else(|| panic!("{service} of {name} does not run"));
        let _ = crate::run(crate::command::command("kill", &["-s", signal, &pid.to_string()])).good();
    }

    pub(super) fn parts(&mut self, name: &str) -> (&mut FleetMachine, &FleetNetwork) {
        let machine = self.machines.iter_mut().find(|machine| machine.name == name);
        (machine.unwrap_or_else(|| panic!("there is no {name}")), &self.network)
    }
}
