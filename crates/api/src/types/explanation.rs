//! Explanations: the cause of a state.

use gantry_model::{Reason, RequestFailure};
use serde::{Deserialize, Serialize};

/// Response of `GET /v1/…/why`: the cause of a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Stable code of the cause.
    pub code: CauseCode,
    /// The object that the cause is about, which may be a part of the object of the question.
    pub object: CauseObject,
    /// The cause, for people.
    pub cause: String,
    /// The remedy, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The object of the question, for people.
    pub subject: String,
    /// Cause, remedy and circumstances in one sentence, for people.
    pub headline: String,
    /// The facts behind the headline, for people.
    pub evidence: Vec<String>,
}

/// The object that a cause is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseObject {
    /// Kind of the object.
    pub kind: ObjectKind,
    /// Name of the object; the number of a deploy.
    pub name: String,
}

impl CauseObject {
    /// Names an object.
    pub fn new(kind: ObjectKind, name: impl ToString) -> Self {
        Self { kind, name: name.to_string() }
    }
}

/// Kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// An app.
    App,
    /// A deploy of the app in question.
    Deploy,
    /// An instance.
    Instance,
    /// A machine.
    Machine,
    /// A role of the app in question.
    Role,
    /// The cluster.
    Cluster,
    /// A kind that a newer server knows.
    #[serde(other)]
    Unknown,
}

/// Declares the codes with their meanings.
macro_rules! codes {
    ($($variant:ident $name:literal $meaning:literal;)+) => {
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
            /// All codes with their names and meanings.
            pub const ALL: &[(Self, &str, &str)] = &[$((Self::$variant, $name, $meaning)),+];
        }
    };
}

codes! {
    AppDestroyed "app_destroyed" "The app was destroyed, or is being destroyed.";
    InMaintenance "in_maintenance" "The owners put the app into maintenance.";
    Paused "paused" "The owners paused the requests of the app.";
    ScaledToZero "scaled_to_zero" "The role that serves requests has no copies.";
    NeverDeployed "never_deployed" "The app was never deployed.";
    NoRouter "no_router" "No router reports.";
    NoMachine "no_machine" "No machine has reported.";
    MachineSilent "machine_silent" "The agent of a machine does not report.";
    NetworkFault "network_fault" "The network of a machine blocks traffic that Gantry needs.";
    DiskFull "disk_full" "The disk of the machine has less free space than the disk reserve.";
    InstanceExited "instance_exited" "The process of an instance ended.";
    InstanceOverLimit "instance_over_limit" "An instance reached one of its limits.";
    InstanceNotStarted "instance_not_started" "An instance could not be started.";
    InstanceUnhealthy "instance_unhealthy" "An instance failed too many checks in a row and is being stopped.";
    ChecksFail "checks_fail" "An instance serves, and its last checks failed.";
    InstanceStarting "instance_starting" "An instance is not ready yet.";
    InstanceStopping "instance_stopping" "An instance is being stopped.";
    InstanceUnreported "instance_unreported" "The machine of an instance has not reported the instance yet.";
    InstanceWarning "instance_warning" "An instance that serves has a minor problem.";
    InstanceRuns "instance_runs" "The instance is as it should be.";
    StepSucceeded "step_succeeded" "The process of a job or of a release step exited with 0.";
    ConnectionBroken "connection_broken" "An instance closed connections before it responded.";
    ResponseCut "response_cut" "Responses of an instance broke off.";
    ResponseSlow "response_slow" "An instance sent no response in time.";
    ClientsGaveUp "clients_gave_up" "Clients disconnected before an instance responded.";
    ServerErrors "server_errors" "The application returns statuses of 500 or more.";
    NoInstance "no_instance" "No instance accepted requests in time.";
    RequestsLimited "requests_limited" "Requests exceed a limit of the app.";
    DeployDone "deploy_done" "The last deploy ended, and its release serves or runs.";
    DeployRuns "deploy_runs" "A deploy is under way and waits for nothing in particular.";
    DeployFailed "deploy_failed" "The last deploy failed for a reason without a code of its own.";
    WaitsForDeploy "waits_for_deploy" "A deploy waits for the preceding deploy of the app.";
    Superseded "superseded" "A newer deploy took the place of a deploy.";
    BuildRuns "build_runs" "The image of a deploy is being built.";
    BuildFailed "build_failed" "The build of a deploy failed.";
    NoRoom "no_room" "No machine takes a copy.";
    CannotLeave "cannot_leave" "A copy cannot leave a machine that is being drained, because no other machine takes it.";
    DataStays "data_stays" "A copy stays on a machine that is being drained, with the data of its volume.";
    ReleaseStepRuns "release_step_runs" "The release step of a deploy runs.";
    ReleaseStepFailed "release_step_failed" "The release step of a deploy failed.";
    StopFirst "stop_first" "A new copy waits until the old copy of a role that runs one copy at a time is gone.";
    PreparesImage "prepares_image" "A machine fetches and unpacks the image of an instance.";
    NoProgress "no_progress" "A deploy made no progress for too long.";
    HeldForPromotion "held_for_promotion" "A deploy waits for `gantry promote`.";
    RouterAwaited "router_awaited" "The router of a machine has not reported since the server began.";
    RouterBehind "router_behind" "A router has not acknowledged the newest routes.";
    RequestsUnderWay "requests_under_way" "An old instance finishes its requests.";
    Bakes "bakes" "The new release is in its bake time.";
    Aborted "aborted" "A user aborted the deploy.";
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
            Reason::DataStays { .. } => Self::DataStays,
            Reason::ReleaseStepRuns { .. } => Self::ReleaseStepRuns,
            Reason::ReleaseStepFailed { .. } => Self::ReleaseStepFailed,
            Reason::StopFirst { .. } => Self::StopFirst,
            Reason::NotReady { .. } => Self::InstanceStarting,
            Reason::PreparesImage { .. } => Self::PreparesImage,
            Reason::Exited { exit, .. } if exit.has_reached_limit() => Self::InstanceOverLimit,
            Reason::Exited { .. } => Self::InstanceExited,
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
    use super::*;

    #[test]
    fn every_code_has_its_name_in_json_and_in_the_manual() {
        let manual = include_str!("../../../../docs/deploys.md");
        for (code, name, meaning) in CauseCode::ALL {
            assert_eq!(serde_json::to_value(code).expect("JSON"), *name);
            assert!(
                manual.contains(&format!("| `{name}` | {} |", meaning.trim_end_matches('.'))),
                "docs/deploys.md: {name}"
            );
        }
        assert_eq!(serde_json::from_str::<CauseCode>("\"moon_rose\"").expect("read"), CauseCode::Unknown);
    }

    #[test]
    fn a_client_reads_the_explanation_of_a_newer_server() {
        let text = r#"{"code":"moon_rose","object":{"kind":"sky","name":"x"},"cause":"the moon rose","phase":"full",
            "subject":"app shop","headline":"the moon rose","evidence":[]}"#;
        let read: Explanation = serde_json::from_str(text).expect("read");
        assert_eq!((read.code, read.object.kind), (CauseCode::Unknown, ObjectKind::Unknown));
        assert_eq!((read.remedy, read.headline.as_str()), (None, "the moon rose"));
    }
}
