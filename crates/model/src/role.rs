//! How one role of an app runs. What a release carries: complete, with every default filled in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Bytes, MilliCpu, Seconds};

/// The port that an app is asked to listen on when its role names none; it is told in `PORT`.
pub const DEFAULT_PORT: u16 = 8080;

/// The longest that an application may take to begin an answer when its role says nothing (nginx's `proxy_read_timeout`).
pub const REQUEST_TIMEOUT: Seconds = Seconds(60);

/// The most of a request's body that is collected before an instance is chosen, when its role says nothing.
pub const REQUEST_BUFFER: Bytes = Bytes(64 << 10);

/// The most that a role may ask to be collected of a request's body.
pub const REQUEST_BUFFER_MAX: Bytes = Bytes::mebi(1);

/// A role as a release runs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// What is run.
    pub command: Command,
    /// The one port the role serves on; none for a role that serves nothing.
    pub port: Option<u16>,
    /// What is spoken on the port.
    #[serde(default)]
    pub protocol: Protocol,
    /// How many copies a release starts with; `gantry scale` overrides it for the app.
    pub instances: u32,
    /// What one copy may use.
    pub limits: Limits,
    /// How readiness and liveness are found out.
    pub health: Health,
    /// Asks for orderly shutdown.
    pub stop_signal: Signal,
    /// From the stop signal to SIGKILL.
    pub stop_timeout: Seconds,
    /// The longest that a request may wait for the first byte of its answer, once it was sent whole.
    #[serde(default = "request_timeout")]
    pub request_timeout: Seconds,
    /// How long a retired copy may finish its requests; as long as the machine's settings say if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Seconds>,
    /// The most of a request's body that is collected before an instance is chosen; the protocol's default if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_buffer: Option<Bytes>,
    /// Environment of this role alone; the app's configuration wins over it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Folder name to the absolute path it is mounted at. A role with volumes has one copy, replaced stop-first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
}

impl Role {
    /// A role that runs `command` with the defaults of the design.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self {
            command,
            port: None,
            protocol: Protocol::default(),
            instances: 1,
            limits: Limits::default(),
            health: Health::default(),
            stop_signal: Signal::Term,
            stop_timeout: Seconds(30),
            request_timeout: REQUEST_TIMEOUT,
            drain: None,
            request_buffer: None,
            env: BTreeMap::new(),
            volumes: BTreeMap::new(),
        }
    }

    /// The most of a request's body that is collected before an instance is chosen. HTTP/2 carries streams that go both ways, so
    /// nothing is collected there unless the role says so.
    #[must_use]
    pub fn request_buffer(&self) -> Bytes {
        self.request_buffer.unwrap_or(match self.protocol {
            Protocol::Http1 => REQUEST_BUFFER,
            Protocol::H2c => Bytes(0),
        })
    }

    /// Two copies must never run at once: a volume has a single writer.
    #[must_use]
    pub fn stop_first(&self) -> bool {
        !self.volumes.is_empty()
    }
}

fn request_timeout() -> Seconds {
    REQUEST_TIMEOUT
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A command line for `/bin/sh -c`; variables expand when it starts.
    Shell(String),
    /// A program and its arguments, as an OCI image's entry point gives them.
    Argv(Vec<String>),
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shell(line) => f.write_str(line),
            Self::Argv(words) => f.write_str(&words.join(" ")),
        }
    }
}

/// What an application speaks on its port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, known beforehand (RFC 9113, section 3.3): gRPC, mostly.
    H2c,
}

/// What one instance may use. Memory, processor and processes are enforced by its control group, the disk by the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, swap included.
    pub memory: Bytes,
    /// Processor time.
    pub cpu: MilliCpu,
    /// Processes and threads.
    pub pids: u32,
    /// What it writes outside its volumes.
    #[serde(default = "disk")]
    pub disk: Bytes,
}

fn disk() -> Bytes {
    Limits::default().disk
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: Bytes::mebi(512), cpu: MilliCpu(1000), pids: 1024, disk: Bytes::mebi(2048) }
    }
}

/// How an instance is found to be ready, and to be alive later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `GET` here must answer 200 to 399. Without path and command: the port accepts and the process lives `settle`.
    pub path: Option<String>,
    /// A command line for `/bin/sh -c` in the container, as the role's user. It must exit with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The host name that the check sends; the app's own, `<app>.<domain>`, if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// More header fields of the check.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A text that the body of the answer must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// How long a copy may take to become ready. A deploy waits so long, even if its deadline is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Seconds>,
    /// The first check comes after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<Seconds>,
    /// Between two probes while starting.
    pub interval: Seconds,
    /// For one probe.
    pub timeout: Seconds,
    /// Failures in a row that take a ready instance out of rotation.
    pub attempts: u32,
    /// How long a process must live when no path is declared.
    pub settle: Seconds,
    /// Between two probes once ready.
    pub watch: Seconds,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: None,
            command: None,
            host: None,
            headers: BTreeMap::new(),
            content: None,
            start: None,
            initial_delay: None,
            interval: Seconds(1),
            timeout: Seconds(5),
            attempts: 3,
            settle: Seconds(5),
            watch: Seconds(10),
        }
    }
}

/// A signal that asks for shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Signal {
    Term,
    Quit,
    Int,
    Hup,
    Usr1,
    Usr2,
    Winch,
}

impl Signal {
    /// Every signal that may be asked for.
    pub const ALL: [Self; 7] = [Self::Term, Self::Quit, Self::Int, Self::Hup, Self::Usr1, Self::Usr2, Self::Winch];

    /// `TERM`, `QUIT`, …
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Quit => "QUIT",
            Self::Int => "INT",
            Self::Hup => "HUP",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Winch => "WINCH",
        }
    }

    /// Reads `SIGQUIT`, `QUIT` or `quit`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        Self::ALL.into_iter().find(|signal| signal.name() == bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_by_either_name() {
        assert_eq!(Signal::parse("SIGQUIT"), Some(Signal::Quit));
        assert_eq!(Signal::parse("usr2"), Some(Signal::Usr2));
        assert_eq!(Signal::parse("KILL"), None);
    }
}
