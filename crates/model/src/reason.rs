//! Why. Every wait, refusal and failure is one of these; the text names the thing, the reason and the remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Bytes, DeployNumber, Exit, Generation, InstanceId, Probe, RoleName, RouterId, Seconds};

/// Why a thing was done, failed, or waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Reason {
    /// The deploy before it is not over.
    WaitsForDeploy {
        /// That deploy.
        deploy: DeployNumber,
    },
    /// A newer deploy came before this one began.
    SupersededBy {
        /// The newer one.
        deploy: DeployNumber,
    },
    /// The build runs.
    BuildRuns,
    /// The build failed.
    BuildFailed {
        /// Which part of it: `source`, `roles`, `base`, `compile`, `image`.
        phase: String,
        /// What went wrong.
        message: String,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// No machine has reported.
    NoMachine,
    /// The release step runs.
    ReleaseStepRuns {
        /// Its instance.
        instance: InstanceId,
    },
    /// The release step failed.
    ReleaseStepFailed {
        /// How it ended.
        exit: Exit,
    },
    /// A stop-first role waits until the old copy is gone.
    StopFirst {
        /// The role with a volume.
        role: RoleName,
        /// The old copy.
        instance: InstanceId,
    },
    /// An instance is not ready yet.
    NotReady {
        /// Which.
        instance: InstanceId,
        /// Its last failed check.
        probe: Option<Probe>,
    },
    /// An instance's process ended.
    Exited {
        /// Which.
        instance: InstanceId,
        /// How.
        exit: Exit,
    },
    /// An instance could not be started.
    CannotStart {
        /// Which.
        instance: InstanceId,
        /// Why.
        message: String,
    },
    /// No step was made for too long.
    NoProgress {
        /// For how long.
        waited: Seconds,
        /// What it waited for.
        on: Option<Box<Reason>>,
    },
    /// Waits for `gantry promote`.
    HeldForPromotion,
    /// No router has reported since the server began.
    NoRouter,
    /// A router has not yet acknowledged the table.
    RouterBehind {
        /// Which.
        router: RouterId,
        /// What it has.
        has: Generation,
        /// What it needs.
        needs: Generation,
    },
    /// Requests to an old instance are being finished.
    RequestsUnderWay {
        /// The old instance.
        instance: InstanceId,
        /// How many.
        count: u64,
    },
    /// The new release is watched before the old one goes.
    Watching {
        /// For how long altogether.
        watch: Seconds,
    },
    /// An old instance is being stopped.
    Stopping {
        /// Which.
        instance: InstanceId,
    },
    /// `gantry abort`.
    Aborted,
    /// The app was destroyed.
    AppDestroyed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitsForDeploy { deploy } => write!(f, "waits until deploy {deploy} is over"),
            Self::SupersededBy { deploy } => {
                write!(f, "superseded by deploy {deploy}")
            }
            Self::BuildRuns => f.write_str("the image is being built"),
            Self::BuildFailed { phase, message, .. } => write!(f, "build failed in {phase}: {message}"),
            Self::NoMachine => {
                f.write_str("no machine has reported; what `gantry up` prints says what keeps its agent")
            }
            Self::ReleaseStepRuns { instance } => write!(f, "the release step runs ({instance})"),
            Self::ReleaseStepFailed { exit } => write!(f, "the release step failed: {}", ExitText(exit)),
            Self::StopFirst { role, instance } => {
                write!(f, "{role} has a volume, so its old copy {instance} must be gone before the new one starts")
            }
            Self::NotReady { instance, probe: Some(probe) } => {
                write!(f, "{instance} is not ready: {}: {}", probe.target, probe.outcome)
            }
            Self::NotReady { instance, probe: None } => write!(f, "{instance} is not ready yet"),
            Self::Exited { instance, exit } => {
                write!(f, "{instance} {}", ExitText(exit))?;
                exit.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
            }
            Self::CannotStart { instance, message } => write!(f, "{instance} could not be started: {message}"),
            Self::NoProgress { waited, on: Some(on) } => write!(f, "no progress for {waited}: {on}"),
            Self::NoProgress { waited, on: None } => write!(f, "no progress for {waited}"),
            Self::HeldForPromotion => {
                f.write_str("held: `gantry promote` moves the traffic, `gantry abort` takes it back")
            }
            Self::NoRouter => f.write_str("no router has reported; is `gantry router` running?"),
            Self::RouterBehind { router, has, needs } => {
                write!(f, "the router on {} has acknowledged table {has}, needed is {needs}", router.machine)
            }
            Self::RequestsUnderWay { instance, count } => write!(f, "{instance} is finishing {count} requests"),
            Self::Watching { watch } => write!(f, "the old release stands by for {watch} while the new one is watched"),
            Self::Stopping { instance } => write!(f, "{instance} is being stopped"),
            Self::Aborted => f.write_str("aborted by `gantry abort`"),
            Self::AppDestroyed => f.write_str("the app was destroyed"),
        }
    }
}

impl Reason {
    /// The lines to show below it: the end of what the failing process printed, or of the answer to a check.
    #[must_use]
    pub fn evidence(&self) -> Vec<String> {
        match self {
            Self::BuildFailed { tail, .. } => tail.clone(),
            Self::ReleaseStepFailed { exit } | Self::Exited { exit, .. } => exit.tail.clone(),
            Self::NotReady { probe: Some(probe), .. } => probe.body.lines().map(str::to_owned).collect(),
            Self::NoProgress { on: Some(on), .. } => on.evidence(),
            _ => Vec::new(),
        }
    }
}

/// What languages say when a module is missing, and what all say of an address that is taken.
const KNOWN: [(&str, &str); 5] = [
    ("ModuleNotFoundError", MISSING),
    ("Cannot find module", MISSING),
    ("cannot load such file", MISSING),
    ("ClassNotFoundException", MISSING),
    ("ddress already in use", "another process of its container has that port; listen on $PORT once"),
];

const MISSING: &str = "install it in container/compile, or in the base";

impl Exit {
    /// What to do about the end of a process that was to run on; none where the end itself says it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        if self.out_of_memory.or(self.out_of_disk).is_some() || self.out_of_processes.is_some() {
            return None;
        }
        let known = |line: &String| KNOWN.iter().find(|(text, _)| line.contains(text)).map(|(_, remedy)| *remedy);
        match (self.tail.iter().rev().find_map(known), self.code) {
            (Some(remedy), _) => Some(remedy),
            (None, Some(126 | 127)) => Some("see `command` of the role"),
            _ => Some("it has to run until it is told to end; `gantry logs` has all that it said"),
        }
    }
}

/// Characters of the last line in an exit's text.
const LAST_SHOWN: usize = 160;

/// An exit in words.
pub struct ExitText<'a>(pub &'a Exit);

impl fmt::Display for ExitText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(limit) = self.0.out_of_memory {
            return write!(f, "ran out of memory: its limit is {}; raise `memory` of the role", Bytes(limit));
        }
        if let Some(limit) = self.0.out_of_processes {
            return write!(f, "reached its limit of {limit} processes and threads; raise `pids` of the role");
        }
        if let Some(limit) = self.0.out_of_disk {
            let limit = Bytes(limit);
            return write!(
                f,
                "wrote more than its limit of {limit} to its disk; raise `disk` of the role, or use a volume"
            );
        }
        self.status(f)?;
        // What it said last is mostly why.
        match self.0.tail.last().map(|line| line.trim()).filter(|line| !line.is_empty() && self.0.code != Some(0)) {
            Some(line) => write!(f, " (last output: {})", line.chars().take(LAST_SHOWN).collect::<String>()),
            None => Ok(()),
        }
    }
}

impl ExitText<'_> {
    fn status(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code, self.0.signal) {
            (Some(127), _) => f.write_str("exited with 127: its command was not found in the image"),
            (Some(126), _) => f.write_str("exited with 126: its command could not be executed"),
            (Some(code), _) => write!(f, "exited with {code}"),
            (None, Some(signal)) => write!(f, "was ended by signal {signal}"),
            (None, None) => f.write_str("ended without a record, as after a kill of its container"),
        }
    }
}
