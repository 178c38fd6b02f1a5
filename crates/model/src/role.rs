//! Settings of one role of an app. A release carries its roles complete, with every default filled in.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Bytes, MilliCpu, PlacementRules, Seconds};

/// The port for a role that names none; the app reads the port from `PORT`.
pub const DEFAULT_PORT: u16 = 8080;

/// Default response timeout: the longest wait for the start of a response (nginx's `proxy_read_timeout`).
pub const REQUEST_TIMEOUT: Seconds = Seconds(60);

/// Default request buffer: how much of a request body the router buffers before it chooses an instance.
pub const REQUEST_BUFFER: Bytes = Bytes(64 << 10);

/// Largest request buffer that a role may ask for.
pub const REQUEST_BUFFER_MAX: Bytes = Bytes::mebi(1);

/// The first version of the control protocol whose agents certainly fence copies of roles with `single: true`.
pub const FENCE_PROTOCOL: u32 = 3;

/// A role as a release runs it.
///
/// Messages, records and files of a machine have this form; see the crate's page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// Life cycle of the role's copies.
    #[serde(default)]
    pub kind: Kind,
    /// Exposure of the role to others.
    #[serde(default)]
    pub exposure: Exposure,
    /// The command to run.
    pub command: RoleCommand,
    /// The single port that the role serves on; `None` for a role that serves nothing.
    pub port: Option<u16>,
    /// The protocol on the port.
    #[serde(default)]
    pub protocol: AppProtocol,
    /// Number of copies that a release starts with; `gantry scale` overrides the number for the app.
    pub instances: u32,
    /// Resource limits of one copy.
    pub limits: ResourceLimits,
    /// Checks of readiness and liveness.
    pub health: HealthSettings,
    /// The signal that asks for an orderly shutdown.
    pub stop_signal: ShutdownSignal,
    /// Time between the stop signal and SIGKILL.
    pub stop_timeout: Seconds,
    /// Response timeout: the longest wait for the first byte of a response, counted from the end of the request.
    #[serde(default = "request_timeout")]
    pub request_timeout: Seconds,
    /// Time that a retired copy has to finish its requests; `None` takes the rule `drain` of the cluster policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Seconds>,
    /// Part of a request body that the router buffers before it chooses an instance; `None` takes the protocol's
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_buffer: Option<Bytes>,
    /// Environment of this role alone; the app's configuration overrides these variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Folder name to absolute mount path. A role with volumes has one copy, which is replaced stop-first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
    /// True for a role of which two copies never run at once, not even on a machine that is cut off. A lease fences the
    /// copy: its machine kills the copy before another machine starts one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub single: bool,
    /// Times at which the role runs as a job. A role with a schedule has no copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<RoleSchedule>,
    /// Demands on the machines that run copies of the role.
    #[serde(default, skip_serializing_if = "PlacementRules::is_default")]
    pub placement: PlacementRules,
}

/// Times at which a role runs as a job. The texts were checked when the files were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSchedule {
    /// The cron expression.
    pub cron: String,
    /// The time zone; UTC by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Policy for times at which the server was away.
    #[serde(default)]
    pub missed: MissedPolicy,
    /// Policy for a time at which the last job of the schedule still waits or runs.
    #[serde(default)]
    pub overlap: OverlapPolicy,
}

/// Policy for times of a schedule at which the server was away for more than a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedPolicy {
    /// No run.
    Skip,
    /// One run for all missed times.
    #[default]
    Once,
    /// One run for each missed time.
    All,
}

/// Policy for a time at which the last job of a schedule still waits or runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapPolicy {
    /// Both jobs run.
    #[default]
    Allow,
    /// The new job is not queued.
    Forbid,
    /// The last job is cancelled.
    Replace,
}

/// A word is no policy of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not a policy for {about}; known are {known}")]
pub struct UnknownSchedulePolicy {
    word: String,
    about: &'static str,
    known: &'static str,
}

impl FromStr for MissedPolicy {
    type Err = UnknownSchedulePolicy;

    fn from_str(word: &str) -> Result<Self, UnknownSchedulePolicy> {
        match word {
            "skip" => Ok(Self::Skip),
            "once" => Ok(Self::Once),
            "all" => Ok(Self::All),
            _ => Err(UnknownSchedulePolicy { word: word.to_owned(), about: "missed times", known: "skip, once, all" }),
        }
    }
}

impl FromStr for OverlapPolicy {
    type Err = UnknownSchedulePolicy;

    fn from_str(word: &str) -> Result<Self, UnknownSchedulePolicy> {
        let (about, known) = ("runs that overlap", "allow, forbid, replace");
        match word {
            "allow" => Ok(Self::Allow),
            "forbid" => Ok(Self::Forbid),
            "replace" => Ok(Self::Replace),
            _ => Err(UnknownSchedulePolicy { word: word.to_owned(), about, known }),
        }
    }
}

impl std::fmt::Display for MissedPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        })
    }
}

impl std::fmt::Display for OverlapPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Forbid => "forbid",
            Self::Replace => "replace",
        })
    }
}

impl Role {
    /// Creates a service that runs `command` with the defaults of the design.
    #[must_use]
    pub fn new(command: RoleCommand) -> Self {
        Self {
            kind: Kind::Service,
            exposure: Exposure::None,
            command,
            port: None,
            protocol: AppProtocol::default(),
            instances: 1,
            limits: ResourceLimits::default(),
            health: HealthSettings::default(),
            stop_signal: ShutdownSignal::Term,
            stop_timeout: Seconds(30),
            request_timeout: REQUEST_TIMEOUT,
            drain: None,
            request_buffer: None,
            env: BTreeMap::new(),
            volumes: BTreeMap::new(),
            single: false,
            schedule: None,
            placement: PlacementRules::default(),
        }
    }

    /// The version of the control protocol that a machine's agent must speak to run copies of the role. An older agent
    /// would pass over a setting, and break a promise without a word.
    ///
    /// | setting | since | an older agent |
    /// |---|---|---|
    /// | `single` | [`FENCE_PROTOCOL`] | does not end the copy when its lease is over: two copies run |
    ///
    /// Other parts of a release need no entry. An item that an agent cannot read is reported as unreadable; container jobs
    /// go to agents that report room for jobs; layers come from the servers if the agent names no layers; placement,
    /// routes and schedules are the servers' and the routers' work.
    #[must_use]
    pub fn needed_protocol(&self) -> u32 {
        if self.single { FENCE_PROTOCOL } else { 0 }
    }

    /// Reports whether the role's copies run as long as their release.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.kind == Kind::Service
    }

    /// Reports whether the role receives the app's HTTP requests.
    #[must_use]
    pub fn serves_http(&self) -> bool {
        self.exposure == Exposure::Http
    }

    /// Part of a request body that the router buffers before it chooses an instance. HTTP/2 carries bidirectional
    /// streams, so the default there is no buffering.
    #[must_use]
    pub fn request_buffer(&self) -> Bytes {
        self.request_buffer.unwrap_or(match self.protocol {
            AppProtocol::Http1 => REQUEST_BUFFER,
            AppProtocol::H2c => Bytes(0),
        })
    }

    /// Reports whether the old copy must be gone before the new copy starts. A volume has a single writer, so a role
    /// with volumes never runs two copies at once.
    #[must_use]
    pub fn stop_first(&self) -> bool {
        self.single || !self.volumes.is_empty()
    }

    /// Reports whether the role's only copy may move to another machine: the copy is fenced, and has no data.
    #[must_use]
    pub fn moves_fenced(&self) -> bool {
        self.single && self.volumes.is_empty()
    }
}

/// The kind of a workload. Files name roles; the name decides the kind once, where the files are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Runs until the plan says otherwise, and is restarted after its end.
    #[default]
    Service,
    /// Runs once to its end. In a release, the job is the release step: it runs before the release serves.
    Job,
    /// Runs on a person's demand, as long as that person's session.
    OneOff,
    /// Builds an image.
    Build,
}

/// Exposure of a role to others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exposure {
    /// By HTTP, through the routers: the role receives the app's requests.
    Http,
    /// By TCP, at the addresses behind the role's name.
    Tcp,
    /// Not at all.
    #[default]
    None,
}

fn request_timeout() -> Seconds {
    REQUEST_TIMEOUT
}

/// The command of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleCommand {
    /// A command line for `/bin/sh -c`; variables expand when the command starts.
    Shell(String),
    /// A program and its arguments, as an OCI image's entry point gives them.
    Argv(Vec<String>),
}

impl std::fmt::Display for RoleCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shell(line) => f.write_str(line),
            Self::Argv(words) => f.write_str(&words.join(" ")),
        }
    }
}

/// The protocol that an application speaks on its port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113, section 3.3): mostly gRPC.
    H2c,
}

/// Resource limits of one instance. The control group enforces memory, processor time and processes; the agent enforces
/// disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Memory, including swap.
    pub memory: Bytes,
    /// Processor time.
    pub cpu: MilliCpu,
    /// Processes and threads.
    pub pids: u32,
    /// Disk space outside the role's volumes.
    #[serde(default = "disk")]
    pub disk: Bytes,
}

fn disk() -> Bytes {
    ResourceLimits::default().disk
}

impl Default for ResourceLimits {
    fn default() -> Self {
        Self { memory: Bytes::mebi(512), cpu: MilliCpu(1000), pids: 1024, disk: Bytes::mebi(2048) }
    }
}

/// Health checks: how an instance proves its readiness, and later its liveness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSettings {
    /// Path whose `GET` must return a status from 200 to 399. Without a path and a command, an instance is ready once
    /// its port accepts and its process has lived for `settle`.
    pub path: Option<String>,
    /// A command line for `/bin/sh -c` in the container, run as the role's user. The command must exit with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The host name that the check sends; `None` takes the app's own name, `<app>.<domain>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Further header fields of the check.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A text that the response body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Time that a copy may take to become ready. A deploy waits for this time, even if its own deadline is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Seconds>,
    /// Delay before the first check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<Seconds>,
    /// Time between two probes while the instance starts.
    pub interval: Seconds,
    /// Timeout of one probe.
    pub timeout: Seconds,
    /// Consecutive failures that take a ready instance out of rotation.
    pub attempts: u32,
    /// Time that a process must live if the role declares no path.
    pub settle: Seconds,
    /// Time between two probes once the instance is ready.
    pub watch: Seconds,
}

impl Default for HealthSettings {
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
pub enum ShutdownSignal {
    Term,
    Quit,
    Int,
    Hup,
    Usr1,
    Usr2,
    Winch,
}

impl ShutdownSignal {
    /// Every signal that a role may name.
    pub const ALL: [Self; 7] = [Self::Term, Self::Quit, Self::Int, Self::Hup, Self::Usr1, Self::Usr2, Self::Winch];

    /// The name without `SIG`: `TERM`, `QUIT`, …
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

    /// Parses `SIGQUIT`, `QUIT` or `quit`.
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
    fn parses_signals_with_and_without_prefix() {
        assert_eq!(ShutdownSignal::parse("SIGQUIT"), Some(ShutdownSignal::Quit));
        assert_eq!(ShutdownSignal::parse("usr2"), Some(ShutdownSignal::Usr2));
        assert_eq!(ShutdownSignal::parse("KILL"), None);
    }
}
