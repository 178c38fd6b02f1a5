//! The network of a fleet: a namespace with a bridge, and one cable to the namespace of each machine.
//!
//! Nothing of the network is in the namespace of this computer, so every fleet has the same addresses. The addresses
//! are of a range that is reserved for tests (RFC 2544).

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::command;
use crate::run;

/// The bridge in the fleet's namespace.
const BRIDGE: &str = "bridge";

/// The machine's end of its cable.
const DEVICE: &str = "eth0";

/// The table with a machine's partitions.
const TABLE: &str = "partition";

/// Address of a machine, by its number.
pub(super) fn address(machine: u8) -> String {
    format!("198.18.0.{machine}")
}

/// A fleet's network. The thread that created it is inside until the value is dropped.
pub(super) struct FleetNetwork {
    /// First part of the names of all namespaces.
    name: String,
    home: File,
}

impl FleetNetwork {
    /// Creates the network without machines, and enters it.
    pub(super) fn enter(name: &str) -> Self {
        let home = File::open("/proc/thread-self/ns/net").expect("a namespace");
        let network = Self { name: name.to_owned(), home };
        let own = network.namespace("net");
        ip(&["netns", "add", &own]);
        ip(&["-n", &own, "link", "set", "lo", "up"]);
        ip(&["-n", &own, "link", "add", BRIDGE, "type", "bridge"]);
        ip(&["-n", &own, "address", "add", "198.18.0.254/24", "dev", BRIDGE]);
        ip(&["-n", &own, "link", "set", BRIDGE, "up"]);
        let file = File::open(path(&own)).expect("a namespace");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("entered");
        network
    }

    /// Name of the namespace of a machine.
    pub(super) fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.name)
    }

    /// Creates the namespace of a machine, and plugs its cable in.
    pub(super) fn add(&self, machine: &str, number: u8) {
        let (own, its) = (self.namespace("net"), self.namespace(machine));
        ip(&["netns", "add", &its]);
        ip(&["-n", &its, "link", "set", "lo", "up"]);
        ip(&["-n", &own, "link", "add", machine, "type", "veth", "peer", "name", DEVICE, "netns", &its]);
        ip(&["-n", &own, "link", "set", machine, "master", BRIDGE, "up"]);
        ip(&["-n", &its, "address", "add", &format!("{}/24", address(number)), "dev", DEVICE]);
        ip(&["-n", &its, "link", "set", DEVICE, "up"]);
        ip(&["-n", &its, "route", "add", "default", "via", "198.18.0.254"]);
    }

    /// Deletes the namespace of a machine, and with it the machine's bridge, links, rules and cable.
    pub(super) fn remove(&self, machine: &str) {
        // The kernel deletes a namespace some time after its last process. The cable of a machine that is switched on
        // again has the same name.
        let _ = run(command("ip", &["-n", &self.namespace("net"), "link", "delete", machine]));
        let _ = run(command("ip", &["netns", "delete", &self.namespace(machine)]));
    }

    /// Pulls a machine's cable out, or plugs it in.
    pub(super) fn connect(&self, machine: &str, connected: bool) {
        let state = if connected { "up" } else { "down" };
        ip(&["-n", &self.namespace("net"), "link", "set", machine, state]);
    }

    /// Drops all packets that arrive at a machine from the given addresses. Without any address, drops nothing.
    pub(super) fn drop_packets(&self, machine: &str, from: &[String]) {
        // The first two lines remove the table, also if there is none.
        let mut rules = format!("table inet {TABLE}\ndelete table inet {TABLE}\n");
        if !from.is_empty() {
            let from = from.join(", ");
            rules += &format!(
                "table inet {TABLE} {{\n chain arriving {{\n type filter hook prerouting priority raw\n ip saddr {{ {from} }} drop\n }}\n}}"
            );
        }
        let mut nft = self.program(machine, Path::new("nft"));
        nft.arg(rules);
        let _ = run(nft).good();
    }

    /// Limits what a machine sends, in kilobits per second. The kernel of the tests delays and loses no packets
    /// (`netem`), so a slow link is a narrow one.
    pub(super) fn limit(&self, machine: &str, kilobits: Option<u32>) {
        let its = self.namespace(machine);
        let change = |words: &[&str]| command("tc", &[&["-n", &its, "qdisc"], words].concat());
        let _ = run(change(&["delete", "dev", DEVICE, "root"]));
        if let Some(kilobits) = kilobits {
            let rate = format!("{kilobits}kbit");
            let words = ["add", "dev", DEVICE, "root", "tbf", "rate", &rate, "burst", "16kb", "latency", "400ms"];
            let _ = run(change(&words)).good();
        }
    }

    /// Builds a command that runs a program in the namespace of a machine. `ip netns exec` would hide the control groups.
    pub(super) fn program(&self, machine: &str, program: &Path) -> Command {
        let mut command = command("nsenter", &[&format!("--net={}", path(&self.namespace(machine)))]);
        command.arg(program);
        command
    }
}

impl Drop for FleetNetwork {
    fn drop(&mut self) {
        let _ = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network));
        for namespace in namespaces(&self.name) {
            let _ = run(command("ip", &["netns", "delete", &namespace]));
        }
    }
}

/// Names of the namespaces of a fleet.
pub(super) fn namespaces(fleet: &str) -> Vec<String> {
    let begin = format!("{fleet}-");
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&begin)).collect()
}

fn path(namespace: &str) -> String {
    format!("/run/netns/{namespace}")
}

fn ip(words: &[&str]) {
    let _ = run(command("ip", words)).good();
}
