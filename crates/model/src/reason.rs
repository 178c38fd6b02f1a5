//! Typed reasons. Every wait, refusal and failure is a [`Reason`]; its text names the object, the cause and the remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::output::{telling_line, within_a_line};
use crate::remedy;
use crate::{
    AllocationId, AppName, Bytes, DeployNumber, ExitStatus, FailedProbe, Generation, MachineName, PlacementRefusal,
    ReleaseNumber, RoleLimit, RoleName, RouterId, Seconds, Slot, StopReason,
};

/// Reason why an operation was done, failed, or waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Reason {
    /// The preceding deploy of the app is not finished.
    WaitsForDeploy {
        /// The preceding deploy.
        deploy: DeployNumber,
    },
    /// A newer deploy was requested before this deploy began.
    SupersededBy {
        /// The newer deploy.
        deploy: DeployNumber,
    },
    /// The build is running.
    BuildRuns,
    /// The build failed.
    BuildFailed {
        /// The phase that failed, as in `BuildPhase`: `source`, `roles`, `base`, `compile`, `image`.
        phase: String,
        /// Cause of the failure.
        message: String,
        /// The last lines of the build's output.
        tail: Vec<String>,
    },
    /// No machine has reported.
    NoMachine,
    /// No machine takes a copy.
    NoRoom {
        /// The slot of the copy.
        instance: Slot,
        /// The reasons of the machines.
        refusal: PlacementRefusal,
    },
    /// A copy is to leave its machine, and no other machine takes it. The copy goes on.
    CannotLeave {
        /// The copy.
        instance: AllocationId,
        /// Machine of the copy.
        machine: MachineName,
        /// The reasons of the machines.
        refusal: PlacementRefusal,
    },
    /// A copy fails again and again on its machine, and no other machine takes it. The copy goes on where it is.
    CannotMove {
        /// The copy.
        instance: AllocationId,
        /// Machine of the copy.
        machine: MachineName,
        /// The reasons of the machines.
        refusal: PlacementRefusal,
    },
    /// A copy is to leave its machine and stays with the data of its volume.
    DataStays {
        /// The copy.
        instance: AllocationId,
        /// Machine of the copy.
        machine: MachineName,
    },
    /// The release step is running.
    ReleaseStepRuns {
        /// The release step.
        instance: Slot,
    },
    /// The release step failed.
    ReleaseStepFailed {
        /// The release step. Older records do not name the release step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<Slot>,
        /// The exit of the release step.
        exit: ExitStatus,
    },
    /// A stop-first role waits until the old copy is gone.
    StopFirst {
        /// The role, which has a volume or is single.
        role: RoleName,
        /// The old copy.
        instance: AllocationId,
    },
    /// An instance is not ready yet.
    NotReady {
        /// The slot of the instance, which may not be placed yet.
        instance: Slot,
        /// The last failed check.
        probe: Option<Box<FailedProbe>>,
    },
    /// The machine fetches and unpacks the image of an instance.
    PreparesImage {
        /// The instance.
        instance: Slot,
    },
    /// An instance's process ended.
    Exited {
        /// The instance.
        instance: AllocationId,
        /// The exit of its process.
        exit: ExitStatus,
    },
    /// An instance could not be started.
    CannotStart {
        /// The instance.
        instance: AllocationId,
        /// Cause of the failure.
        message: String,
    },
    /// The deploy made no progress for too long.
    NoProgress {
        /// The time without progress.
        waited: Seconds,
        /// The reason for the wait.
        on: Option<Box<Reason>>,
    },
    /// The deploy waits for `gantry promote`.
    HeldForPromotion,
    /// No router has reported since the server began.
    NoRouter,
    /// The router of a machine has not reported since the server began.
    RouterAwaited {
        /// The machine.
        machine: MachineName,
    },
    /// A router has not yet acknowledged the routing table.
    RouterBehind {
        /// The router.
        router: RouterId,
        /// The generation that the router has acknowledged.
        has: Generation,
        /// The generation that the router must acknowledge.
        needs: Generation,
    },
    /// An old instance still finishes requests.
    RequestsUnderWay {
        /// The old instance.
        instance: AllocationId,
        /// The number of unfinished requests.
        count: u64,
    },
    /// The new release is in its bake time: the old release stands by before it is stopped.
    Watching {
        /// The whole bake time.
        watch: Seconds,
        /// The old release, if an instance of it still runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        standing_by: Option<ReleaseNumber>,
    },
    /// An old instance is stopping.
    Stopping {
        /// The instance.
        instance: AllocationId,
    },
    /// A user ran `gantry abort`.
    Aborted,
    /// The app was destroyed.
    AppDestroyed,
}

/// Text of a reason, without the remedy.
pub struct ReasonCause<'a>(&'a Reason);

impl fmt::Display for ReasonCause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_cause(f)
    }
}

/// The cause and, behind a semicolon, the remedy.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_cause(f)?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl Reason {
    /// The text without the remedy.
    #[must_use]
    pub fn cause(&self) -> ReasonCause<'_> {
        ReasonCause(self)
    }

    /// The remedy, if there is a known one.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NoMachine => Some("check the output of `gantry up` for agent errors".to_owned()),
            Self::NoRouter => Some("check that `gantry router` runs".to_owned()),
            Self::ReleaseStepFailed { instance, exit } => {
                let app = instance.as_ref().map(|slot| &slot.app);
                exit.limit_remedy().or_else(|| exit.failure_remedy(app).filter(|_| !exit.names_remedy()))
            }
            Self::NotReady { probe: Some(probe), .. } => probe.remedy.clone(),
            Self::Exited { instance, exit } => exit.limit_remedy().or_else(|| exit.remedy(&instance.slot.app)),
            Self::NoProgress { on: Some(on), .. } => on.remedy(),
            _ => None,
        }
    }

    /// Kind of the failure of a deploy that ended for this reason.
    #[must_use]
    pub fn failure(&self) -> FailureKind {
        match self {
            Self::BuildFailed { phase, .. } => match phase.as_str() {
                "compile" => FailureKind::Compile,
                "roles" => FailureKind::Roles,
                "configuration" => FailureKind::Configuration,
                _ => FailureKind::Build,
            },
            Self::ReleaseStepFailed { .. } => FailureKind::ReleaseStep,
            Self::Exited { exit, .. } if exit.has_reached_limit() => FailureKind::OverLimit,
            Self::Exited { .. } => FailureKind::Exited,
            Self::CannotStart { .. } => FailureKind::NotStarted,
            Self::NoProgress { .. } => FailureKind::TimedOut,
            Self::Aborted => FailureKind::Aborted,
            Self::SupersededBy { .. } => FailureKind::Superseded,
            Self::AppDestroyed => FailureKind::AppDestroyed,
            Self::NoMachine => FailureKind::NoMachine,
            // Reasons for a wait. A wait that lasts too long ends the deploy as `NoProgress`.
            Self::WaitsForDeploy { .. }
            | Self::BuildRuns
            | Self::ReleaseStepRuns { .. }
            | Self::NoRoom { .. }
            | Self::CannotLeave { .. }
            | Self::CannotMove { .. }
            | Self::DataStays { .. }
            | Self::StopFirst { .. }
            | Self::NotReady { .. }
            | Self::PreparesImage { .. }
            | Self::HeldForPromotion
            | Self::NoRouter
            | Self::RouterAwaited { .. }
            | Self::RouterBehind { .. }
            | Self::RequestsUnderWay { .. }
            | Self::Watching { .. }
            | Self::Stopping { .. } => FailureKind::Other,
        }
    }

    fn write_cause(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitsForDeploy { deploy } => write!(f, "waits until deploy {deploy} is over"),
            Self::SupersededBy { deploy } => {
                write!(f, "superseded by deploy {deploy}")
            }
            Self::BuildRuns => f.write_str("the image is being built"),
            Self::BuildFailed { phase, message, .. } => write!(f, "build failed{}: {message}", part_of(phase)),
            Self::NoMachine => f.write_str("no machine has reported yet"),
            Self::NoRoom { instance, refusal } => write!(f, "no machine takes {instance}: {refusal}"),
            Self::CannotLeave { instance, machine, refusal } => {
                write!(f, "{instance} stays on {machine}, which is being drained: no other machine takes it: {refusal}")
            }
            Self::CannotMove { instance, machine, refusal } => {
                write!(f, "{instance} fails again and again on {machine}, and no other machine takes it: {refusal}")
            }
            Self::DataStays { instance, machine } => {
                write!(f, "{instance} stays on {machine}, which is being drained: the data of its volume is there")
            }
            Self::ReleaseStepRuns { instance } => write!(f, "the release step runs ({instance})"),
            Self::ReleaseStepFailed { exit, .. } => write!(f, "the release step failed: {}", ExitCause(exit)),
            Self::StopFirst { role, instance } => {
                write!(
                    f,
                    "{role} runs one copy at a time, so its old copy {instance} must be gone before the new one starts"
                )
            }
            Self::NotReady { instance, probe: Some(probe) } => {
                write!(f, "{instance} is not ready: {}: {}", probe.target, probe.outcome)
            }
            Self::NotReady { instance, probe: None } => write!(f, "{instance} is not ready yet"),
            Self::PreparesImage { instance } => {
                write!(f, "{instance} is being prepared: its machine fetches and unpacks the image")
            }
            Self::Exited { instance, exit } => write!(f, "{instance} {}", ExitCause(exit)),
            Self::CannotStart { instance, message } => write!(f, "{instance} could not be started: {message}"),
            Self::NoProgress { waited, on: Some(on) } => write!(f, "no progress for {waited}: {}", on.cause()),
            Self::NoProgress { waited, on: None } => write!(f, "no progress for {waited}"),
            Self::HeldForPromotion => {
                f.write_str("held: `gantry promote APP` moves the traffic, `gantry abort APP` reverts the deploy")
            }
            Self::NoRouter => f.write_str("no router has reported yet"),
            Self::RouterAwaited { machine } => {
                write!(f, "the router of {machine} has not reported since the server started")
            }
            Self::RouterBehind { router, has, needs } => {
                write!(
                    f,
                    "the router on {} has acknowledged routing table {has} and must acknowledge {needs}",
                    router.machine
                )
            }
            Self::RequestsUnderWay { instance, count } => {
                write!(f, "{instance} is finishing {count} {}", if *count == 1 { "request" } else { "requests" })
            }
            Self::Watching { watch, standing_by: Some(release) } => {
                write!(f, "{release} stands by for {watch} (bake time)")
            }
            Self::Watching { watch, standing_by: None } => write!(f, "the new release is in its bake time of {watch}"),
            Self::Stopping { instance } => write!(f, "{instance} is being stopped"),
            Self::Aborted => f.write_str("aborted by `gantry abort`"),
            Self::AppDestroyed => f.write_str("the app was destroyed"),
        }
    }
}

/// The part of a build that failed. An error about the declared roles names its file, and an error about the
/// environment its variable or role.
fn part_of(phase: &str) -> &str {
    match phase {
        "source" => " in the source",
        "base" => " in the base image",
        "compile" => " in the compile step",
        "image" => " in the image",
        _ => "",
    }
}

impl Reason {
    /// Lines to show below the reason: the end of the failed process's output, or the response to a failed check.
    #[must_use]
    pub fn evidence(&self) -> Vec<String> {
        match self {
            Self::BuildFailed { tail, .. } => tail.clone(),
            Self::ReleaseStepFailed { exit, .. } | Self::Exited { exit, .. } => exit.tail.clone(),
            Self::NotReady { probe: Some(probe), .. } => probe.body.lines().map(str::to_owned).collect(),
            Self::NoProgress { on: Some(on), .. } => on.evidence(),
            _ => Vec::new(),
        }
    }
}

/// Kind of a deploy's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program `container/compile` failed.
    Compile,
    /// The roles are invalid.
    Roles,
    /// A configuration value that the app requires is not set.
    Configuration,
    /// Another part of the build failed.
    Build,
    /// The release step failed.
    ReleaseStep,
    /// An instance reached one of its limits and ended.
    OverLimit,
    /// An instance ended.
    Exited,
    /// An instance could not be started.
    NotStarted,
    /// The deploy made no progress for too long.
    TimedOut,
    /// A user aborted the deploy.
    Aborted,
    /// A newer deploy took the deploy's place.
    Superseded,
    /// The app was destroyed.
    AppDestroyed,
    /// No machine has reported.
    NoMachine,
    /// Another failure.
    #[serde(other)]
    Other,
}

impl ExitStatus {
    /// Remedy that the last output of a failed process of an app suggests.
    fn failure_remedy(&self, app: Option<&AppName>) -> Option<String> {
        remedy::of_output(remedy::Program::Process(app), self.code, &self.tail)
    }

    /// The limit of the role that the process reached.
    fn role_limit(&self) -> Option<RoleLimit> {
        let processes = || self.out_of_processes.map(RoleLimit::Processes);
        self.out_of_memory.map(RoleLimit::Memory).or_else(processes)
    }

    /// Reports whether the process reached one of its limits.
    #[must_use]
    pub fn has_reached_limit(&self) -> bool {
        self.role_limit().is_some() || self.out_of_disk.is_some()
    }

    /// The setting that raises the limit that the process reached.
    #[must_use]
    pub fn limit_remedy(&self) -> Option<String> {
        let disk = || self.out_of_disk.map(|_| "raise `disk` of the role, or use a volume");
        self.role_limit().map(RoleLimit::remedy).or_else(disk).map(str::to_owned)
    }

    /// Line for the log of an instance that ended because it reached one of its limits; `None` for any other end.
    #[must_use]
    pub fn limit_line(&self, instance: &str) -> Option<String> {
        let limit = ExitCause(self).limit().filter(|_| self.stopped.is_none())?;
        let remedy = self.limit_remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        Some(format!("{instance} ended: it {limit}{remedy}"))
    }

    /// True if the exit text itself names the remedy, or the exit needs none.
    fn names_remedy(&self) -> bool {
        self.stopped.is_some() || self.has_reached_limit()
    }

    /// Remedy for the exit of a process of an app that should have kept running; `None` if the exit text already names
    /// the remedy.
    #[must_use]
    pub fn remedy(&self, app: &AppName) -> Option<String> {
        if self.names_remedy() {
            return None;
        }
        if let Some(remedy) = self.failure_remedy(Some(app)) {
            return Some(remedy);
        }
        let logs = format!("`gantry logs {app}` shows its output");
        let text = match (self.code, self.signal.or_else(|| self.code.and_then(signal_in))) {
            (Some(126), _) => "check `command` of the role",
            (Some(127), _) => {
                "check `command` of the role; a script may also name an interpreter that the image lacks, or have carriage returns"
            }
            (Some(0), _) if self.left_processes => {
                "it started a background process, which ended with it; keep that process in the foreground"
            }
            (_, Some(4 | 5 | 6 | 7 | 8 | 11)) => return Some(format!("the program crashed; {logs}")),
            (_, Some(31)) => "it made a system call that containers must not make",
            (_, Some(9)) => {
                "Gantry did not send the signal: a process in the container or on the machine did, or the kernel for lack of memory"
            }
            (_, Some(1 | 2 | 3 | 15)) => {
                "Gantry did not send the signal: a process in the container or on the machine did"
            }
            _ => return Some(format!("it must run until Gantry stops it; {logs}")),
        };
        Some(text.to_owned())
    }
}

/// Names of signals (signal(7)), by number from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// A signal with its number and, if known, its name.
fn named(signal: i32) -> String {
    let name = usize::try_from(signal).ok().and_then(|number| SIGNALS.get(number.checked_sub(1)?));
    name.map_or_else(|| format!("signal {signal}"), |name| format!("signal {signal} (SIG{name})"))
}

/// The signal behind a shell's exit status: shells exit with 128 plus the signal's number.
fn signal_in(code: i32) -> Option<i32> {
    Some(code - 128).filter(|signal| (1..=31).contains(signal))
}

/// Text of an exit.
pub struct ExitText<'a>(pub &'a ExitStatus);

impl fmt::Display for ExitText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ExitCause(self.0))?;
        self.0.limit_remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// Text of an exit, without the setting that raises a reached limit.
pub struct ExitCause<'a>(pub &'a ExitStatus);

impl fmt::Display for ExitCause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stop) = &self.0.stopped {
            write!(f, "{}", StopText(stop))?;
            if let Some(timeout) = self.0.killed_after {
                write!(f, "; it did not end within {timeout} and was killed")?;
            }
            return match self.limit() {
                Some(limit) => write!(f, "; before that it {limit}"),
                None => Ok(()),
            };
        }
        if let Some(limit) = self.limit() {
            return f.write_str(&limit);
        }
        self.status(f)?;
        // The program's last words mostly name the cause.
        let said = telling_line(&self.0.tail).filter(|_| self.0.code != Some(0));
        said.map_or(Ok(()), |line| write!(f, " (last output: {})", within_a_line(&line)))
    }
}

impl ExitCause<'_> {
    /// The limit that the process reached.
    fn limit(&self) -> Option<String> {
        if let Some(limit) = self.0.role_limit() {
            return Some(LimitCause(limit).to_string());
        }
        let limit = Bytes(self.0.out_of_disk?);
        Some(format!("wrote more than its limit of {limit} to its disk"))
    }

    fn status(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code, self.0.signal) {
            (Some(127), _) => f.write_str("exited with 127: its command, or the interpreter in the command's first line, was not found in the image"),
            (Some(126), _) => f.write_str("exited with 126: its command could not be executed"),
            (Some(code), _) => match signal_in(code) {
                Some(signal) => write!(f, "exited with {code}, as a shell does after {}", named(signal)),
                None => write!(f, "exited with {code}"),
            },
            (None, Some(signal)) => write!(f, "was killed by {}", named(signal)),
            (None, None) => f.write_str("ended without an exit record; its container was probably killed"),
        }
    }
}

/// Text of a reached limit, with the setting that raises this limit.
pub struct LimitText(pub RoleLimit);

impl fmt::Display for LimitText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", LimitCause(self.0), self.0.remedy())
    }
}

/// Text of a reached limit, without the remedy.
pub struct LimitCause(pub RoleLimit);

impl fmt::Display for LimitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RoleLimit::Memory(limit) => write!(f, "ran out of memory: its limit is {}", Bytes(limit)),
            RoleLimit::Processes(limit) => write!(f, "reached its limit of {limit} processes and threads"),
        }
    }
}

impl RoleLimit {
    /// The setting that raises the limit.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Memory(_) => "raise `memory` of the role",
            Self::Processes(_) => "raise `pids` of the role",
        }
    }
}

/// Text of the reason for which Gantry stopped an instance.
struct StopText<'a>(&'a StopReason);

impl fmt::Display for StopText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            StopReason::FailedChecks { times, probe } => {
                write!(
                    f,
                    "failed its check {} in a row and was stopped: {}",
                    TimesText(u64::from(*times)),
                    probe.brief()
                )
            }
            StopReason::Planned => f.write_str("was stopped by Gantry"),
            StopReason::NetworkChanged => f.write_str("was stopped: the machine has another network now"),
        }
    }
}

/// A count of times: `1 time`, `2 times`.
pub struct TimesText(pub u64);

impl fmt::Display for TimesText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "time" } else { "times" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Moment, output};

    fn shop() -> AppName {
        AppName::parse("shop").expect("a name")
    }

    fn exit(code: Option<i32>, signal: Option<i32>, tail: &[&str]) -> ExitStatus {
        ExitStatus { code, signal, tail: tail.iter().map(|line| (*line).to_owned()).collect(), ..ExitStatus::default() }
    }

    fn failed_check(status: Option<u16>, outcome: &str, body: &str) -> FailedProbe {
        FailedProbe {
            target: "GET http://10.83.0.5:8080/up".into(),
            outcome: outcome.into(),
            body: body.into(),
            at: Moment(0),
            check: "GET /up".into(),
            status,
            remedy: Some("mend it".into()),
        }
    }

    #[test]
    fn a_stop_by_gantry_is_not_reported_as_an_exit() {
        let probe = failed_check(Some(503), "status 503 Service Unavailable", "database is gone\n");
        let stopped = |stop| ExitStatus { stopped: Some(stop), ..exit(Some(0), None, &["FATAL: an old line"]) };
        let hung = failed_check(None, "no answer in 5 s", "");
        let killed = ExitStatus {
            killed_after: Some(Seconds(30)),
            ..stopped(StopReason::FailedChecks { times: 3, probe: hung.clone().into() })
        };
        let full = ExitStatus {
            out_of_processes: Some(64),
            ..stopped(StopReason::FailedChecks { times: 3, probe: hung.into() })
        };
        for (exit, wanted) in [
            (
                stopped(StopReason::FailedChecks { times: 2, probe: probe.clone().into() }),
                "failed its check 2 times in a row and was stopped: GET /up: 503: database is gone",
            ),
            (
                stopped(StopReason::FailedChecks { times: 1, probe: probe.into() }),
                "failed its check 1 time in a row and was stopped: GET /up: 503: database is gone",
            ),
            (
                killed,
                "failed its check 3 times in a row and was stopped: GET /up: no answer in 5 s; it did not end within 30 s and was killed",
            ),
            (
                full,
                "failed its check 3 times in a row and was stopped: GET /up: no answer in 5 s; before that it reached its limit of 64 processes and threads; raise `pids` of the role",
            ),
            (stopped(StopReason::Planned), "was stopped by Gantry"),
            (stopped(StopReason::NetworkChanged), "was stopped: the machine has another network now"),
        ] {
            assert_eq!(ExitText(&exit).to_string(), wanted);
            assert_eq!(exit.remedy(&shop()), None, "{wanted}");
        }
    }

    #[test]
    fn the_log_of_an_instance_says_which_limit_ended_the_instance() {
        let memory = ExitStatus { out_of_memory: Some(48 << 20), ..exit(None, Some(9), &["loading"]) };
        let disk = ExitStatus { out_of_disk: Some(20 << 20), ..exit(None, Some(9), &[]) };
        let pids = ExitStatus { out_of_processes: Some(64), ..exit(Some(1), None, &[]) };
        let stopped = ExitStatus { stopped: Some(StopReason::Planned), ..memory.clone() };
        for (exit, wanted) in [
            (memory, Some("web-1 ended: it ran out of memory: its limit is 48M; raise `memory` of the role")),
            (
                disk,
                Some(
                    "web-1 ended: it wrote more than its limit of 20M to its disk; raise `disk` of the role, or use a volume",
                ),
            ),
            (pids, Some("web-1 ended: it reached its limit of 64 processes and threads; raise `pids` of the role")),
            (stopped, None),
            (exit(Some(3), None, &["boom"]), None),
        ] {
            assert_eq!(exit.limit_line("web-1").as_deref(), wanted);
        }
    }

    #[test]
    fn a_failed_build_names_its_failed_part() {
        let failed = |phase: &str| {
            let (phase, message) = (phase.to_owned(), "container/base: no".to_owned());
            Reason::BuildFailed { phase, message, tail: Vec::new() }.to_string()
        };
        assert_eq!(failed("roles"), "build failed: container/base: no");
        assert_eq!(failed("environment"), "build failed: container/base: no");
        assert_eq!(failed("base"), "build failed in the base image: container/base: no");
        assert_eq!(failed("compile"), "build failed in the compile step: container/base: no");
    }

    #[test]
    fn an_exit_is_reported_with_its_last_output_and_a_remedy() {
        let crashed = "the program crashed; `gantry logs shop` shows its output";
        let sent = "Gantry did not send the signal: a process in the container or on the machine did";
        let on = "it must run until Gantry stops it; `gantry logs shop` shows its output";
        for (exit, text, remedy) in [
            (exit(Some(0), None, &["bye"]), "exited with 0", on),
            (exit(Some(3), None, &["boom", ""]), "exited with 3 (last output: boom)", on),
            (exit(None, Some(11), &[]), "was killed by signal 11 (SIGSEGV)", crashed),
            (exit(None, Some(15), &[]), "was killed by signal 15 (SIGTERM)", sent),
            (exit(None, Some(40), &[]), "was killed by signal 40", on),
            (exit(Some(139), None, &[]), "exited with 139, as a shell does after signal 11 (SIGSEGV)", crashed),
            (
                exit(Some(1), None, &["KeyError: 'DATABASE_URL'"]),
                "exited with 1 (last output: KeyError: 'DATABASE_URL')",
                "set DATABASE_URL with `gantry config set shop DATABASE_URL=VALUE`",
            ),
            (
                exit(Some(2), None, &["sh: 1: API_KEY: parameter not set"]),
                "exited with 2 (last output: sh: 1: API_KEY: parameter not set)",
                "set API_KEY with `gantry config set shop API_KEY=VALUE`",
            ),
            (
                exit(Some(126), None, &["sh: 1: exec: bin/server: Permission denied"]),
                "exited with 126: its command could not be executed (last output: sh: 1: exec: bin/server: Permission denied)",
                "make it executable: chmod +x bin/server, or git update-index --chmod=+x bin/server, and push again",
            ),
            (
                exit(Some(126), None, &["sh: 1: two words: Permission denied"]),
                "exited with 126: its command could not be executed (last output: sh: 1: two words: Permission denied)",
                "check `command` of the role",
            ),
            (
                exit(
                    Some(127),
                    None,
                    &["./s: error while loading shared libraries: libpq.so.5: cannot open shared object file"],
                ),
                "exited with 127: its command, or the interpreter in the command's first line, was not found in the image (last output: ./s: error while loading shared libraries: libpq.so.5: cannot open shared object file)",
                "add the package that has this library to the base",
            ),
        ] {
            assert_eq!(ExitText(&exit).to_string(), text);
            assert_eq!(exit.remedy(&shop()).as_deref(), Some(remedy), "{text}");
        }
        let left = ExitStatus { left_processes: true, ..exit(Some(0), None, &[]) };
        assert!(left.remedy(&shop()).is_some_and(|remedy| remedy.contains("foreground")));
        let long = exit(Some(1), None, &[&"x".repeat(1000)]);
        assert!(ExitText(&long).to_string().len() < output::LINE_SHOWN + 60);
    }
}
