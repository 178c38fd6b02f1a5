//! Typed reasons. Every wait, refusal and failure is a [`Reason`]; its text names the object, the cause and the remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exit_text::ExitCause;
use crate::{
    AllocationId, DeployNumber, ExitStatus, FailedProbe, Generation, MachineName, PlacementRefusal, ReleaseNumber,
    RoleName, RouterId, Seconds, Slot,
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
                let correct = || "correct what its output names, or the command of the role `release`".to_owned();
                let remedy = || exit.failure_remedy(app).unwrap_or_else(correct);
                exit.limit_remedy().or_else(|| (!exit.names_remedy()).then(remedy))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_release_step_has_a_remedy_beside_that_of_a_stop() {
        let failed = |exit| Reason::ReleaseStepFailed { instance: None, exit }.remedy();
        let exit = ExitStatus { code: Some(4), ..ExitStatus::default() };
        let remedy = "correct what its output names, or the command of the role `release`";
        assert_eq!(failed(exit.clone()).as_deref(), Some(remedy));
        assert_eq!(failed(ExitStatus { stopped: Some(crate::StopReason::Planned), ..exit }), None);
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
}
