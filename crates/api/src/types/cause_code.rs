//! Codes of causes. The table is the only place where the codes are written down: `gantry explain` prints it, and
//! `docs/deploys.md` has the same rows (a test compares the two).

use gantry_model::{ExitStatus, Reason, RequestFailure, StopReason};
use serde::{Deserialize, Serialize};

/// The table's row for a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CauseDescription {
    /// The code.
    pub code: CauseCode,
    /// The code's name in JSON and in a terminal.
    pub name: &'static str,
    /// Meaning of the code, in one sentence.
    pub meaning: &'static str,
    /// The remedy.
    pub remedy: &'static str,
}

/// Declares the codes: name of the variant, name in JSON, meaning, remedy.
macro_rules! codes {
    ($($variant:ident $name:literal $meaning:literal $remedy:literal)+) => {
        /// Stable code of a cause.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum CauseCode {
            $(#[doc = $meaning] $variant,)+
            /// A code that a newer server knows.
            #[serde(other)]
            Unknown,
        }

        impl CauseCode {
            /// The rows of all codes but [`Self::Unknown`].
            pub const ALL: &[CauseDescription] = &[$(CauseDescription {
                code: Self::$variant,
                name: $name,
                meaning: $meaning,
                remedy: $remedy,
            }),+];

            /// Returns the code's name; `None` for a code that only a newer server knows.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$variant => Some($name),)+
                    Self::Unknown => None,
                }
            }
        }
    };
}

codes! {
    AppDestroyed "app_destroyed"
        "The app was destroyed, or is being destroyed."
        "`gantry app create APP` makes a new app of this name once the removal is over."
    InMaintenance "in_maintenance"
        "The owners put the app into maintenance."
        "`gantry maintenance off APP` ends the maintenance."
    Paused "paused"
        "The owners paused the requests of the app."
        "`gantry resume APP` lets the waiting requests continue."
    ScaledToZero "scaled_to_zero"
        "The role that serves requests has no copies."
        "`gantry scale APP ROLE=1` starts a copy."
    NeverDeployed "never_deployed"
        "The app was never deployed."
        "Push a commit, or run `gantry deploy APP --image REF`."
    NoRouter "no_router"
        "No router reports."
        "Check that `gantry up` or `gantry router` runs, and read its output."
    NoMachine "no_machine"
        "No machine has reported."
        "Check that `gantry up` or `gantry agent` runs, and read its output."
    MachineSilent "machine_silent"
        "The agent of a machine does not report."
        "Check the machine, its link, and the output of its `gantry up`. Its containers run on meanwhile."
    NetworkFault "network_fault"
        "The network of a machine blocks traffic that Gantry needs."
        "Change the rule or the setting that the cause names."
    DiskFull "disk_full"
        "The disk of the machine has less free space than the disk reserve."
        "`gantry status` lists what uses the space. Builds, pulls and uploads are refused until space is free."
    InstanceExited "instance_exited"
        "The process of an instance ended."
        "`gantry logs APP` shows the output before the exit. Correct the program, or run `gantry rollback APP`."
    InstanceOverLimit "instance_over_limit"
        "An instance reached one of its limits."
        "Raise `memory`, `disk` or `pids` of the role, or let the program use less."
    InstanceNotStarted "instance_not_started"
        "An instance could not be started."
        "Correct the named cause. Gantry tries again by itself."
    InstanceUnhealthy "instance_unhealthy"
        "An instance failed too many checks in a row, and Gantry stops it."
        "`gantry logs APP` shows the output of the instance. Gantry restarts the instance."
    ChecksFail "checks_fail"
        "An instance serves, and its last checks failed."
        "Correct the cause that the response to the check names. After `health.attempts` failures in a row Gantry restarts the instance."
    InstanceStarting "instance_starting"
        "An instance is not ready yet."
        "Wait, or correct the failed check that the cause names. `health.start` gives a role more time."
    InstanceStopping "instance_stopping"
        "Gantry stops an instance, or has stopped the instance."
        "Wait. `stop_timeout` of the role limits the time."
    InstanceUnreported "instance_unreported"
        "The machine of an instance has not reported the instance yet."
        "Wait. If the state stays, read the output of `gantry up` on the machine."
    InstanceWarning "instance_warning"
        "An instance that serves has a minor problem."
        "Follow the remedy in the cause. The instance serves meanwhile."
    InstanceRuns "instance_runs"
        "The instance is as it should be."
        "There is nothing to do."
    StepSucceeded "step_succeeded"
        "The process of a job or of a release step exited with 0."
        "There is nothing to do."
    ConnectionBroken "connection_broken"
        "An instance closed connections before it responded."
        "`gantry logs APP` shows the output of the instance at that time."
    ResponseCut "response_cut"
        "Responses of an instance broke off."
        "`gantry logs APP` shows the output of the instance at that time."
    ResponseSlow "response_slow"
        "An instance sent no response in time."
        "Raise `request_timeout` of the role, or set `health.path`, with which Gantry restarts a copy that hangs."
    ClientsGaveUp "clients_gave_up"
        "Clients disconnected before an instance responded."
        "Set `health.path` of the role, with which Gantry restarts a copy that hangs."
    ServerErrors "server_errors"
        "The application returns statuses of 500 or more."
        "`gantry logs APP` shows the output of the application. `gantry rollback APP` goes back to the last good release."
    NoInstance "no_instance"
        "No instance accepted requests in time."
        "`gantry ps APP` shows the instances. `gantry scale APP ROLE=COUNT` adds copies."
    RequestsLimited "requests_limited"
        "Requests exceed a limit of the app."
        "`gantry limit APP --rate COUNT --concurrent COUNT` changes the limits."
    DeployDone "deploy_done"
        "The last deploy ended, and its release serves or runs."
        "There is nothing to do."
    DeployRuns "deploy_runs"
        "A deploy is under way and waits for nothing in particular."
        "Wait. A deploy without progress fails at its deadline."
    DeployFailed "deploy_failed"
        "The last deploy failed for a reason without a code of its own."
        "Correct the named cause, and deploy again."
    WaitsForDeploy "waits_for_deploy"
        "A deploy waits for the preceding deploy of the app."
        "Wait, or end the preceding deploy with `gantry abort APP`."
    Superseded "superseded"
        "A newer deploy took the place of a deploy."
        "Follow the newer deploy."
    BuildRuns "build_runs"
        "The image of a deploy is being built."
        "Wait, or end the deploy with `gantry abort APP`."
    BuildFailed "build_failed"
        "The build of a deploy failed."
        "Correct the named part, and push again."
    NoRoom "no_room"
        "No machine takes a copy."
        "Add a machine with `gantry machine add root@HOST`, or change what the role demands."
    CannotLeave "cannot_leave"
        "A copy cannot leave a machine that is being drained, because no other machine takes it."
        "Make room on another machine, or end the drain with `gantry machine uncordon MACHINE`."
    CannotMove "cannot_move"
        "A copy that fails again and again stays, because no other machine takes it."
        "Correct the failure of the copy. Room on another machine makes Gantry try the copy there."
    DataStays "data_stays"
        "A copy stays on a machine that is being drained, with the data of its volume."
        "`gantry docs howto-volumes` describes how to move the data."
    ReleaseStepRuns "release_step_runs"
        "The release step of a deploy runs."
        "Wait, or end the deploy with `gantry abort APP`."
    ReleaseStepFailed "release_step_failed"
        "The release step of a deploy failed."
        "Correct the command of the role `release`, and push again."
    StopFirst "stop_first"
        "A new copy waits until the old copy of a role that runs one copy at a time is gone."
        "Wait. `drain` and `stop_timeout` of the role limit the time."
    PreparesImage "prepares_image"
        "A machine fetches and unpacks the image of an instance."
        "Wait. A machine fetches each layer once."
    NoProgress "no_progress"
        "A deploy made no progress for too long."
        "Correct the condition that the cause names, and deploy again."
    HeldForPromotion "held_for_promotion"
        "A deploy waits for `gantry promote`."
        "`gantry promote APP` moves the traffic, `gantry abort APP` takes the deploy back."
    RouterAwaited "router_awaited"
        "The router of a machine has not reported since the server began."
        "Wait. If the state stays, read the output of `gantry up` on the machine."
    RouterBehind "router_behind"
        "A router has not acknowledged the newest routes."
        "Wait. If the state stays, read the output of `gantry up` on the router's machine."
    RequestsUnderWay "requests_under_way"
        "An old instance finishes its requests."
        "Wait. `drain` of the role limits the time."
    Bakes "bakes"
        "The new release is in its bake time."
        "Wait, or take the release back with `gantry abort APP`."
    Aborted "aborted"
        "A user aborted the deploy."
        "Deploy again when the release may serve."
}

impl CauseCode {
    /// Finds the row of a name, in any case: `checks_fail`, `CHECKS-FAIL`.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static CauseDescription> {
        let name = name.trim().to_ascii_lowercase().replace('-', "_");
        Self::ALL.iter().find(|row| row.name == name)
    }
}

impl From<&ExitStatus> for CauseCode {
    fn from(exit: &ExitStatus) -> Self {
        match &exit.stopped {
            _ if exit.has_reached_limit() => Self::InstanceOverLimit,
            Some(StopReason::FailedChecks { .. }) => Self::InstanceUnhealthy,
            Some(StopReason::Planned | StopReason::NetworkChanged) => Self::InstanceStopping,
            None => Self::InstanceExited,
        }
    }
}

impl From<&Reason> for CauseCode {
    fn from(reason: &Reason) -> Self {
        match reason {
            Reason::WaitsForDeploy { .. } => Self::WaitsForDeploy,
            Reason::SupersededBy { .. } => Self::Superseded,
            Reason::BuildRuns => Self::BuildRuns,
            Reason::BuildFailed { .. } => Self::BuildFailed,
            Reason::NoMachine => Self::NoMachine,
            Reason::NoRoom { .. } => Self::NoRoom,
            Reason::CannotLeave { .. } => Self::CannotLeave,
            Reason::CannotMove { .. } => Self::CannotMove,
            Reason::DataStays { .. } => Self::DataStays,
            Reason::ReleaseStepRuns { .. } => Self::ReleaseStepRuns,
            Reason::ReleaseStepFailed { .. } => Self::ReleaseStepFailed,
            Reason::StopFirst { .. } => Self::StopFirst,
            Reason::NotReady { .. } => Self::InstanceStarting,
            Reason::PreparesImage { .. } => Self::PreparesImage,
            Reason::Exited { exit, .. } => exit.into(),
            Reason::CannotStart { .. } => Self::InstanceNotStarted,
            Reason::NoProgress { .. } => Self::NoProgress,
            Reason::HeldForPromotion => Self::HeldForPromotion,
            Reason::NoRouter => Self::NoRouter,
            Reason::RouterAwaited { .. } => Self::RouterAwaited,
            Reason::RouterBehind { .. } => Self::RouterBehind,
            Reason::RequestsUnderWay { .. } => Self::RequestsUnderWay,
            Reason::Watching { .. } => Self::Bakes,
            Reason::Stopping { .. } => Self::InstanceStopping,
            Reason::Aborted => Self::Aborted,
            Reason::AppDestroyed => Self::AppDestroyed,
        }
    }
}

impl From<RequestFailure> for CauseCode {
    fn from(failure: RequestFailure) -> Self {
        match failure {
            RequestFailure::Broken => Self::ConnectionBroken,
            RequestFailure::Cut => Self::ResponseCut,
            RequestFailure::Slow => Self::ResponseSlow,
            RequestFailure::GivenUp => Self::ClientsGaveUp,
            RequestFailure::ServerError => Self::ServerErrors,
            RequestFailure::NoInstance => Self::NoInstance,
            RequestFailure::Limited => Self::RequestsLimited,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_one_row_and_its_name_in_json() {
        let names: BTreeSet<&str> = CauseCode::ALL.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), CauseCode::ALL.len(), "a name is there twice");
        for row in CauseCode::ALL {
            assert_eq!(serde_json::to_value(row.code).expect("JSON"), row.name);
            assert_eq!(row.code.name(), Some(row.name));
            assert_eq!(CauseCode::find(&row.name.to_uppercase().replace('_', "-")), Some(row));
            for text in [row.meaning, row.remedy] {
                assert!(text.ends_with('.') && !text.contains('\n') && text.len() < 200, "{}: {text}", row.name);
                assert!(text.starts_with(|c: char| c.is_uppercase() || c == '`'), "{}: {text}", row.name);
            }
        }
        assert_eq!(serde_json::from_str::<CauseCode>("\"moon_rose\"").expect("read"), CauseCode::Unknown);
        assert_eq!((CauseCode::Unknown.name(), CauseCode::find("moon_rose")), (None, None));
    }

    #[test]
    fn a_stop_by_gantry_has_no_code_of_an_exit() {
        for (stopped, wanted) in [
            (None, CauseCode::InstanceExited),
            (Some(StopReason::Planned), CauseCode::InstanceStopping),
            (Some(StopReason::NetworkChanged), CauseCode::InstanceStopping),
        ] {
            let exit = ExitStatus { stopped, ..ExitStatus::default() };
            assert_eq!(CauseCode::from(&exit), wanted, "{exit:?}");
        }
        let full = ExitStatus { out_of_memory: Some(1), ..ExitStatus::default() };
        assert_eq!(CauseCode::from(&full), CauseCode::InstanceOverLimit);
    }

    #[test]
    fn the_manual_has_exactly_the_rows_of_the_table() {
        let manual = include_str!("../../../../docs/deploys.md");
        let (_, section) = manual.split_once("\n### Codes of the causes\n").expect("the section");
        let section = section.split("\n#").next().unwrap_or_default();
        let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let without_stop = |text: &'static str| text.trim_end_matches('.');
        let wanted = CauseCode::ALL
            .iter()
            .map(|row| format!("| `{}` | {} | {} |", row.name, without_stop(row.meaning), without_stop(row.remedy)));
        let wanted: Vec<String> = wanted.collect();
        assert_eq!(rows, wanted, "docs/deploys.md, Codes of the causes:\n{}", wanted.join("\n"));
    }
}
