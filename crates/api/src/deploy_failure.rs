//! Error code of a failed deploy.

use gantry_error_codes::ErrorCode;
use gantry_model::Reason;

/// Returns the stable code of the reason for which a deploy failed.
#[must_use]
pub fn deploy_failure_code(reason: &Reason) -> ErrorCode {
    match reason {
        Reason::BuildFailed { phase, .. } => match phase.as_str() {
            "compile" => ErrorCode::CompileFailed,
            "roles" => ErrorCode::InvalidRoles,
            _ => ErrorCode::BuildFailed,
        },
        Reason::ReleaseStepFailed { .. } => ErrorCode::ReleaseStepFailed,
        Reason::Exited { exit, .. }
            if exit.out_of_memory.is_some() || exit.out_of_processes.is_some() || exit.out_of_disk.is_some() =>
        {
            ErrorCode::InstanceOverLimit
        }
        Reason::Exited { .. } => ErrorCode::InstanceExited,
        Reason::CannotStart { .. } => ErrorCode::InstanceNotStarted,
        Reason::NoProgress { .. } => ErrorCode::DeployTimeout,
        Reason::Aborted => ErrorCode::DeployAborted,
        Reason::SupersededBy { .. } => ErrorCode::DeploySuperseded,
        Reason::AppDestroyed => ErrorCode::AppBeingDestroyed,
        Reason::NoMachine => ErrorCode::NoMachine,
        // Reasons for a wait. A wait that lasts too long ends the deploy as `NoProgress`.
        Reason::WaitsForDeploy { .. }
        | Reason::BuildRuns
        | Reason::ReleaseStepRuns { .. }
        | Reason::NoRoom { .. }
        | Reason::CannotLeave { .. }
        | Reason::DataStays { .. }
        | Reason::StopFirst { .. }
        | Reason::NotReady { .. }
        | Reason::PreparesImage { .. }
        | Reason::HeldForPromotion
        | Reason::NoRouter
        | Reason::RouterAwaited { .. }
        | Reason::RouterBehind { .. }
        | Reason::RequestsUnderWay { .. }
        | Reason::Watching { .. }
        | Reason::Stopping { .. } => ErrorCode::DeployFailed,
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::{AllocationId, ExitStatus, Seconds};

    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let failed =
            |phase: &str| Reason::BuildFailed { phase: phase.to_owned(), message: "no".to_owned(), tail: Vec::new() };
        let instance: AllocationId = serde_json::from_str("\"shop.v1.web-1\"").expect("an instance");
        let exited = |exit| Reason::Exited { instance: instance.clone(), exit };
        let full = ExitStatus { out_of_memory: Some(1), ..ExitStatus::default() };
        let waits = Reason::NoProgress { waited: Seconds(120), on: Some(Box::new(Reason::NoRouter)) };
        for (reason, code) in [
            (failed("compile"), "E_COMPILE_FAILED"),
            (failed("roles"), "E_INVALID_ROLES"),
            (failed("base"), "E_BUILD_FAILED"),
            (exited(ExitStatus::default()), "E_INSTANCE_EXITED"),
            (exited(full), "E_INSTANCE_OVER_LIMIT"),
            (waits, "E_DEPLOY_TIMEOUT"),
            (Reason::Aborted, "E_DEPLOY_ABORTED"),
        ] {
            assert_eq!(deploy_failure_code(&reason).to_string(), code, "{reason}");
        }
    }
}
