//! Error code of a failed deploy.

use gantry_error_codes::ErrorCode;
use gantry_model::{FailureKind, Reason};

/// Returns the stable code of the reason for which a deploy failed.
#[must_use]
pub fn deploy_failure_code(reason: &Reason) -> ErrorCode {
    failure_code(reason.failure())
}

/// Returns the stable code of a kind of failure.
#[must_use]
pub fn failure_code(kind: FailureKind) -> ErrorCode {
    match kind {
        FailureKind::Compile => ErrorCode::CompileFailed,
        FailureKind::Roles => ErrorCode::InvalidRoles,
        FailureKind::Configuration => ErrorCode::RequiredValueMissing,
        FailureKind::Build => ErrorCode::BuildFailed,
        FailureKind::ReleaseStep => ErrorCode::ReleaseStepFailed,
        FailureKind::OverLimit => ErrorCode::InstanceOverLimit,
        FailureKind::Exited => ErrorCode::InstanceExited,
        FailureKind::NotStarted => ErrorCode::InstanceNotStarted,
        FailureKind::TimedOut => ErrorCode::DeployTimeout,
        FailureKind::Aborted => ErrorCode::DeployAborted,
        FailureKind::Superseded => ErrorCode::DeploySuperseded,
        FailureKind::AppDestroyed => ErrorCode::AppBeingDestroyed,
        FailureKind::NoMachine => ErrorCode::NoMachine,
        FailureKind::Other => ErrorCode::DeployFailed,
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
            (failed("configuration"), "E_REQUIRED_VALUE_MISSING"),
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
