//! Reports of machines and routers. The server keeps reports in memory only, because a heartbeat must not cost a
//! store write. After a restart of the server, agents and routers report again.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::output::first_words;
use crate::{
    AllocationId, AppName, FailureRun, Generation, MachineName, Moment, NetworkFault, RequestCounts, RequestFailure,
    RouterId, Seconds,
};

/// A machine or router that is silent for longer counts as lost: a little more than three missed heartbeats.
pub const SILENCE_MILLIS: u64 = 10_000;

/// All reports of the cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObservedCluster {
    /// Machines by name, each from its agent's first report since the server started.
    pub machines: BTreeMap<MachineName, Arc<ObservedMachine>>,
    /// All routers, including a router that is being replaced.
    pub routers: BTreeMap<RouterId, ObservedRouter>,
    /// When the server started to receive reports, by its clock.
    pub began: Moment,
}

impl ObservedCluster {
    /// Shifts the stamps of the server's own clock, which jumped by `by` milliseconds.
    pub fn move_stamps(&mut self, by: i64) {
        self.began = self.began.moved(by);
        for machine in self.machines.values_mut().map(Arc::make_mut) {
            machine.seen = machine.seen.moved(by);
        }
        self.routers.values_mut().for_each(|router| router.seen = router.seen.moved(by));
    }

    /// Reports whether the server started too recently for routers to have reported, so that their routes are
    /// unknown.
    #[must_use]
    pub fn awaits_routers(&self, now: Moment) -> bool {
        self.routers.is_empty() && now.since(self.began) <= SILENCE_MILLIS
    }

    /// A machine whose router is not known yet: the server started too recently for every router to have reported. The
    /// router may have routes that no other router has.
    pub fn awaited_router<'a>(
        &self,
        machines: impl IntoIterator<Item = &'a MachineName>,
        now: Moment,
    ) -> Option<&'a MachineName> {
        if now.since(self.began) > SILENCE_MILLIS {
            return None;
        }
        let has_router = |machine: &MachineName| {
            let first = RouterId { machine: machine.clone(), number: 0 };
            self.routers.range(first..).next().is_some_and(|(id, _)| id.machine == *machine)
        };
        machines.into_iter().find(|machine| !has_router(machine))
    }

    /// The routers that reported within [`SILENCE_MILLIS`].
    pub fn live_routers(&self, now: Moment) -> impl Iterator<Item = (&RouterId, &ObservedRouter)> {
        self.routers.iter().filter(move |(_, router)| now.since(router.seen) <= SILENCE_MILLIS)
    }
}

/// Report of a machine's agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservedMachine {
    /// The plan that the agent has accepted.
    pub generation: Generation,
    /// All instances on the machine.
    pub instances: BTreeMap<AllocationId, ObservedInstance>,
    /// Faults of the machine's network.
    #[serde(default)]
    pub network: Vec<NetworkFault>,
    /// When the agent last reported, by the server's clock.
    pub seen: Moment,
}

/// An instance that differs between two reports of a machine: the instance before and after, if present.
pub type InstanceChange<'a> = (&'a AllocationId, Option<&'a ObservedInstance>, Option<&'a ObservedInstance>);

impl ObservedMachine {
    /// The instances that differ between this report and the instances of the next.
    #[must_use]
    pub fn changes<'a>(&'a self, next: &'a BTreeMap<AllocationId, ObservedInstance>) -> Vec<InstanceChange<'a>> {
        let mut found = Vec::new();
        differences(&self.instances, next, |id, before, after| found.push((id, before, after)));
        found
    }
}

/// Calls `found` for each key whose values differ between two maps, in the order of the keys. The cost is linear.
pub fn differences<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
    mut found: impl FnMut(&'a K, Option<&'a V>, Option<&'a V>),
) {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let old = if order.is_le() { old.next() } else { None };
        let new = if order.is_ge() { new.next() } else { None };
        if let Some((key, _)) = old.or(new)
            && old.map(|(_, value)| value) != new.map(|(_, value)| value)
        {
            found(key, old.map(|(_, value)| value), new.map(|(_, value)| value));
        }
    }
}

/// Phase of an instance's life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstancePhase {
    /// The agent fetches and unpacks the image.
    Preparing,
    /// The process runs and is not ready yet.
    Starting,
    /// The instance passes its checks.
    Ready,
    /// The instance was ready, and now fails its checks.
    Unhealthy,
    /// The process ended. The agent restarts the process after a pause, unless the instance runs only once.
    Exited,
    /// The agent could not start the instance, and tries again after a pause.
    Failed,
    /// The agent has told the instance to stop.
    Stopping,
}

impl InstancePhase {
    /// The phase's name for people.
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

    /// Number of steps towards readiness that the instance has completed. A deploy measures its progress in these
    /// steps.
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

/// Report of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedInstance {
    /// The instance's phase.
    pub phase: InstancePhase,
    /// When the instance entered its phase.
    pub since: Moment,
    /// The instance's address, which restarts do not change.
    pub address: Option<Ipv4Addr>,
    /// Number of times that the agent restarted the instance.
    pub restarts: u32,
    /// The last exit of the instance's process.
    pub exit: Option<ExitStatus>,
    /// The last failed check.
    pub probe: Option<FailedProbe>,
    /// Reason why the agent could not start the instance.
    pub failure: Option<String>,
    /// A fault of an instance that serves nevertheless, with its remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// When the container last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Moment>,
    /// Consecutive failed checks since the instance was ready; `probe` is the last of them.
    #[serde(default)]
    pub failed_checks: u32,
    /// Limits that the instance reached recently without ending, at most one of each kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limit_hits: Vec<LimitHit>,
    /// Compressed bytes of images that the machine has unpacked since the instance began to prepare.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unpacked: u64,
    /// The last line of the program's output. Agents report this line for instances that run once, such as a release
    /// step.
    #[serde(default, rename = "said", skip_serializing_if = "Option::is_none")]
    pub last_output: Option<OutputLine>,
}

impl ObservedInstance {
    /// Creates the report of an instance that entered a phase and about which nothing else is known.
    #[must_use]
    pub fn new(phase: InstancePhase, since: Moment) -> Self {
        Self {
            phase,
            since,
            address: None,
            restarts: 0,
            exit: None,
            probe: None,
            failure: None,
            warning: None,
            started: None,
            failed_checks: 0,
            limit_hits: Vec::new(),
            unpacked: 0,
            last_output: None,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference.
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A line that a program printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLine {
    /// When the program printed the line.
    pub at: Moment,
    /// The line, of bounded length.
    pub line: String,
}

/// A limit of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleLimit {
    /// Processes and threads: the kernel refused to start another one.
    Processes(u32),
    /// Bytes of memory: the kernel killed a process of the container.
    Memory(u64),
}

/// A limit that an instance reached without ending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitHit {
    /// The limit.
    pub limit: RoleLimit,
    /// Number of times that the instance reached the limit, counted from `since`.
    pub count: u64,
    /// When the agent first noticed the limit.
    pub since: Moment,
    /// When the agent last noticed the limit.
    pub last: Moment,
}

/// Time that a reached limit stays in reports, in milliseconds.
pub const LIMIT_SHOWN_MILLIS: u64 = 600_000;

/// End of a process.
///
/// Messages, the records of deploys and the file of an instance have this form; see the crate's page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit status, if the process exited by itself.
    pub code: Option<i32>,
    /// The signal that killed the process.
    pub signal: Option<i32>,
    /// The memory limit in bytes, if the process reached it.
    pub out_of_memory: Option<u64>,
    /// The limit of processes, if the kernel refused another process because of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_processes: Option<u32>,
    /// The disk limit in bytes, if the instance wrote more than the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_disk: Option<u64>,
    /// When the process ended.
    pub at: Moment,
    /// The last lines of the process's output, without Gantry's own lines.
    pub tail: Vec<String>,
    /// Reason why Gantry stopped the process; `None` for a process that ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<StopReason>,
    /// The stop timeout, if the process outlived the timeout and was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_after: Option<Seconds>,
    /// True if the command ended and left processes running; these processes ended with the container.
    #[serde(default)]
    pub left_processes: bool,
}

/// Reason why Gantry stopped an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum StopReason {
    /// The instance failed too many checks in a row.
    FailedChecks {
        /// The number of failed checks.
        times: u32,
        /// The last failed check.
        probe: Box<FailedProbe>,
    },
    /// The plan no longer contains the instance: after a deploy, a smaller scale, or the app's destruction.
    Planned,
    /// The instance had an address of the machine's former network.
    NetworkChanged,
}

impl ExitStatus {
    /// Reports whether the process exited with 0 and without reaching its memory limit.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0) && self.out_of_memory.is_none()
    }
}

/// A failed check.
///
/// Messages and the records of deploys have this form; see the crate's page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedProbe {
    /// The tested target: `GET http://10.83.0.5:8080/up`, or `connect to 10.83.0.5:8080`.
    pub target: String,
    /// Outcome of the check: `connection refused`, `status 500`, `no answer in 5 s`.
    pub outcome: String,
    /// The start of the response body, if the response had a body.
    pub body: String,
    /// When the check failed.
    pub at: Moment,
    /// The check in short form, without addresses: `GET /up`.
    #[serde(default)]
    pub check: String,
    /// The status of the response, if one arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl FailedProbe {
    /// The check, its outcome, and the first words of the response: `GET /up: 503: database is gone`.
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

/// Report of a router.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservedRouter {
    /// The routing table that the router uses and has on disk.
    pub generation: Generation,
    /// Requests in progress per instance; an instance without requests is absent.
    pub active: BTreeMap<AllocationId, u64>,
    /// Outcomes of requests that had to wait or were refused, per app.
    #[serde(default)]
    pub counts: BTreeMap<AppName, RequestCounts>,
    /// The newest run of failed requests of each kind, per app.
    #[serde(default)]
    pub failures: BTreeMap<AppName, BTreeMap<RequestFailure, FailureRun>>,
    /// When the router last reported, by the server's clock.
    pub seen: Moment,
}
