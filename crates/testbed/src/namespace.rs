//! A machine made of a network namespace, for tests that change the machine's firewall rules or addresses.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::command;
use crate::run;

/// A separate network. This thread, and every program started by this thread, is inside until the value is dropped. A
/// second namespace stands for the outside world. A veth cable joins the two namespaces and carries the default
/// route.
pub struct Namespace {
    name: String,
    home: File,
}

/// Address of the outside's end of the cable.
pub const OUTSIDE: &str = "198.18.77.2";

/// Address of the machine's end of the cable.
pub const MACHINE: &str = "198.18.77.1";

impl Namespace {
    /// Creates the two namespaces and enters the machine's namespace.
    ///
    /// # Panics
    /// If a namespace cannot be created.
    #[must_use]
    pub fn enter(purpose: &str) -> Self {
        let name = format!("gt-{purpose}-{}", std::process::id());
        let home = File::open("/proc/thread-self/ns/net").expect("a namespace");
        let namespace = Self { name, home };
        let (here, outside) = (namespace.name.clone(), namespace.outside());
        ip(&["netns", "add", &here]);
        ip(&["netns", "add", &outside]);
        for (netns, device, address) in [(&here, "cable", MACHINE), (&outside, "e0", OUTSIDE)] {
            if device == "cable" {
                ip(&["-n", netns, "link", "add", device, "type", "veth", "peer", "name", "e0", "netns", &outside]);
            }
            ip(&["-n", netns, "link", "set", "lo", "up"]);
            ip(&["-n", netns, "address", "add", &format!("{address}/30"), "dev", device]);
            ip(&["-n", netns, "link", "set", device, "up"]);
        }
        ip(&["-n", &here, "route", "add", "default", "via", OUTSIDE]);
        move_into(&here);
        namespace
    }

    fn outside(&self) -> String {
        format!("{}-o", self.name)
    }

    /// Adds an address to the outside.
    ///
    /// # Panics
    /// If the address cannot be added.
    pub fn outside_has(&self, address: &str) {
        ip(&["-n", &self.outside(), "address", "add", address, "dev", "e0"]);
    }

    /// Serves on a port of the outside, over TCP and UDP, until the process ends.
    ///
    /// # Panics
    /// If the port cannot be bound.
    pub fn serve_outside(&self, port: u16) {
        let outside = self.outside();
        std::thread::scope(|scope| {
            let started = scope.spawn(move || {
                move_into(&outside);
                serve(port);
            });
            started.join().expect("it serves");
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = move_into_link_name_space(std::os::fd::AsFd::as_fd(&self.home), Some(LinkNameSpaceType::Network));
        for name in [self.name.clone(), self.outside()] {
            let _ = run(command("ip", &["netns", "delete", &name]));
        }
    }
}

/// Serves on a port of every address of this thread's namespace, over TCP and UDP, until the process ends.
///
/// # Panics
/// If the port cannot be bound.
pub fn serve(port: u16) {
    // A socket on the unspecified IPv6 address also accepts IPv4 connections.
    let address = SocketAddr::new(IpAddr::from([0_u16; 8]), port);
    let (tcp, udp) = (TcpListener::bind(address).expect("a port"), UdpSocket::bind(address).expect("a port"));
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(1)));
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello\n");
        }
    });
    std::thread::spawn(move || {
        while let Ok((length, peer)) = udp.recv_from(&mut [0; 64]) {
            let _ = udp.send_to(&b"hello"[..length.min(5)], peer);
        }
    });
}

fn move_into(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).expect("a namespace");
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).expect("entered");
}

fn ip(words: &[&str]) {
    let _ = run(command("ip", words)).good();
}
