//! What machines and routers said of themselves. Kept in memory by the controller and sent again by them after its
//! restart: a heartbeat is no store write.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::output::first_words;
use crate::{
    AppName, FailureRun, Generation, InstanceId, MachineName, Moment, NetworkFault, RequestCounts, RequestFailure,
    RouterId, Seconds,
};

/// A machine or router that was silent for longer is not live: three missed heartbeats and some.
pub const SILENCE_MILLIS: u64 = 10_000;

/// Everything that was seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// By machine; present once its agent has reported since the controller began.
    pub machines: BTreeMap<MachineName, ObservedMachine>,
    /// Every router, the one that is being replaced too.
    pub routers: BTreeMap<RouterId, ObservedRouter>,
    /// When the controller began to look, by its clock.
    #[serde(default)]
    pub began: Moment,
}

impl Observed {
    /// Moves every stamp of the controller's own clock, which jumped by so many milliseconds.
    pub fn move_stamps(&mut self, by: i64) {
        self.began = self.began.moved(by);
        self.machines.values_mut().for_each(|machine| machine.seen = machine.seen.moved(by));
        self.routers.values_mut().for_each(|router| router.seen = router.seen.moved(by));
    }

    /// No router has had the time to report: nothing is known of what they route.
    #[must_use]
    pub fn routers_unheard(&self, now: Moment) -> bool {
        self.routers.is_empty() && now.since(self.began) <= SILENCE_MILLIS
    }

    /// Every router that reported lately.
    pub fn live_routers(&self, now: Moment) -> impl Iterator<Item = (&RouterId, &ObservedRouter)> {
        self.routers.iter().filter(move |(_, router)| now.since(router.seen) <= SILENCE_MILLIS)
    }
}

/// What an agent said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservedMachine {
    /// The plan it has taken on.
    pub generation: Generation,
    /// Every instance that exists on it.
    pub instances: BTreeMap<InstanceId, ObservedInstance>,
    /// What is wrong with its network.
    #[serde(default)]
    pub network: Vec<NetworkFault>,
    /// When it last spoke, by the controller's clock.
    pub seen: Moment,
}

/// Where an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its image is being fetched and unpacked.
    Preparing,
    /// Its process runs and is not ready yet.
    Starting,
    /// It passes its checks.
    Ready,
    /// It was ready, and fails its checks now.
    Unhealthy,
    /// Its process ended; it is started again after a pause unless it runs only once.
    Exited,
    /// It could not be started; tried again after a pause.
    Failed,
    /// It was told to stop.
    Stopping,
}

impl Phase {
    /// The word for it, as people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
        }
    }

    /// How far it has come: what a deploy's progress is counted in.
    #[must_use]
    pub fn steps(self) -> u64 {
        match self {
            Self::Preparing => 1,
            Self::Starting => 2,
            Self::Ready => 3,
            Self::Unhealthy | Self::Exited | Self::Failed | Self::Stopping => 0,
        }
    }
}

/// What an agent says of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedInstance {
    /// Where it is.
    pub phase: Phase,
    /// When it came there.
    pub since: Moment,
    /// Its address; kept across restarts.
    pub address: Option<Ipv4Addr>,
    /// How often it was started again.
    pub restarts: u32,
    /// How it last ended.
    pub exit: Option<Exit>,
    /// Its last failed check.
    pub probe: Option<Probe>,
    /// Why it could not be started.
    pub failure: Option<String>,
    /// What is wrong with it though it serves, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// When its container was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Moment>,
    /// Checks that failed in a row since it was ready; `probe` is the last of them.
    #[serde(default)]
    pub failed_checks: u32,
    /// The limits that it ran into lately while it ran on, at most one of each kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limit_hits: Vec<LimitHit>,
    /// The last line that it printed; told of what runs once, such as a release step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
}

/// A line that a program printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// When.
    pub at: Moment,
    /// The line, of bounded length.
    pub line: String,
}

/// A limit of a role's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Processes and threads: the kernel refused to start another one.
    Processes(u32),
    /// Bytes of memory: the kernel ended a process of the container.
    Memory(u64),
}

/// A limit that an instance ran into while it ran on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitHit {
    /// Which.
    pub limit: Limit,
    /// How often, since `since`.
    pub count: u64,
    /// The first time that it was noticed.
    pub since: Moment,
    /// The last time that it was noticed.
    pub last: Moment,
}

/// A limit that was reached longer ago than this, in milliseconds, is told no more.
pub const LIMIT_TOLD_MILLIS: u64 = 600_000;

/// How a process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit status, if it exited by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It reached its memory limit: the limit in bytes.
    pub out_of_memory: Option<u64>,
    /// It was refused a process because it had as many as it may: the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_processes: Option<u32>,
    /// It wrote more than it may: the limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_disk: Option<u64>,
    /// When.
    pub at: Moment,
    /// The last lines it printed, without Gantry's own.
    pub tail: Vec<String>,
    /// Why Gantry stopped it; none for one that ended of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stop>,
    /// Its stop timeout, if it did not end within it and was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_after: Option<Seconds>,
    /// Its command ended and left processes running, which ended with it.
    #[serde(default)]
    pub left_processes: bool,
}

/// Why Gantry stopped an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Stop {
    /// It failed its checks so often in a row.
    FailedChecks {
        /// How often.
        times: u32,
        /// The last of them.
        probe: Box<Probe>,
    },
    /// The plan has it no more: a deploy, a smaller scale, the app's end.
    Planned,
    /// It had an address of the network that the machine had before.
    NetworkChanged,
}

impl Exit {
    /// Ended as asked.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0) && self.out_of_memory.is_none()
    }
}

/// One check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What was asked: `GET http://10.83.0.5:8080/up`, or `connect to 10.83.0.5:8080`.
    pub target: String,
    /// What came of it: `connection refused`, `status 500`, `no answer in 5 s`.
    pub outcome: String,
    /// The start of the body, if there was one.
    pub body: String,
    /// When.
    pub at: Moment,
    /// The check in short, without addresses: `GET /up`.
    #[serde(default)]
    pub check: String,
    /// The status of the answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Probe {
    /// The check, what came of it, and the first words of the answer: `GET /up: 503: database is gone`.
    #[must_use]
    pub fn brief(&self) -> String {
        let check = if self.check.is_empty() { &self.target } else { &self.check };
        let outcome = self.status.map_or_else(|| self.outcome.clone(), |status| status.to_string());
        match first_words(&self.body) {
            words if words.is_empty() => format!("{check}: {outcome}"),
            words => format!("{check}: {outcome}: {words}"),
        }
    }
}

/// What a router said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservedRouter {
    /// The table that it routes by, and has on disk.
    pub generation: Generation,
    /// Requests under way per instance; absent means none.
    pub active: BTreeMap<InstanceId, u64>,
    /// What became of requests that could not go on at once.
    #[serde(default)]
    pub counts: BTreeMap<AppName, RequestCounts>,
    /// The newest run of failed requests of each kind.
    #[serde(default)]
    pub failures: BTreeMap<AppName, BTreeMap<RequestFailure, FailureRun>>,
    /// When it last spoke, by the controller's clock.
    pub seen: Moment,
}
