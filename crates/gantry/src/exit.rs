//! Error messages and exit codes. A message says what failed, why, and the remedy.

use std::process::ExitCode;

use gantry_api::{ClientError, ErrorCode};

use crate::args::Remote;
use crate::coded::code_of;
use crate::printer::status;
use crate::remote;

/// An exit code: 0 success, 1 failure, 2 usage error, 70 timeout (a deploy without progress, a server that does not
/// answer). `gantry exec`, `gantry run` and `gantry job run --follow` return the exit code of their process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

/// Success.
pub(crate) const DONE: Exit = Exit(0);
/// Failure; the cause was already printed.
pub(crate) const FAILED: Exit = Exit(1);
/// Usage error: the request is invalid.
pub(crate) const USAGE: u8 = 2;
/// Timeout.
pub(crate) const TIMED_OUT: Exit = Exit(70);

/// Converts the outcome of a command into an exit code, and prints an error with its hints.
pub(crate) fn code(outcome: anyhow::Result<Exit>, remote: &Remote) -> ExitCode {
    match outcome {
        Ok(exit) => ExitCode::from(exit.0),
        Err(error) => {
            match code_of(&error) {
                Some(code) => status!("gantry: {error:#} [{code}]"),
                None => status!("gantry: {error:#}"),
            }
            if let Some(hint) = error.downcast_ref::<ClientError>().and_then(hint) {
                status!("{hint}");
            }
            if is_refused_token(&error) {
                status!("{}", remote::refused_token(remote));
            }
            ExitCode::from(kind(&error))
        }
    }
}

/// The remedy of a failed call.
pub(crate) fn hint(error: &ClientError) -> Option<String> {
    match error {
        ClientError::Problem(problem) => problem.hint.clone(),
        ClientError::Unreachable { .. } => {
            Some("is `gantry up` running? another server is named with --url or GANTRY_URL".to_owned())
        }
        ClientError::Answer { .. } => Some(
            "does --url or GANTRY_URL name a Gantry server? if so, give the server and this command the same version"
                .to_owned(),
        ),
    }
}

/// Returns whether the server refused the token.
fn is_refused_token(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<ClientError>(), Some(ClientError::Problem(problem)) if problem.status == 401)
}

fn kind(error: &anyhow::Error) -> u8 {
    if let Some(ClientError::Problem(problem)) = error.downcast_ref() {
        return if problem.status == 400 { USAGE } else { FAILED.0 };
    }
    match code_of(error) {
        Some(ErrorCode::InvalidArguments | ErrorCode::InvalidSettings | ErrorCode::UrlUnsupported) => USAGE,
        Some(
            ErrorCode::ServerTimeout
            | ErrorCode::StopTimeout
            | ErrorCode::RenameUnfinished
            | ErrorCode::DeployUnfollowed
            | ErrorCode::MachineTokenMissing,
        ) => TIMED_OUT.0,
        _ => FAILED.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coded::coded;

    #[test]
    fn usage_errors_exit_with_2_and_timeouts_with_70() {
        for (code, expected) in [
            (ErrorCode::InvalidArguments, 2),
            (ErrorCode::InvalidSettings, 2),
            (ErrorCode::StopTimeout, 70),
            (ErrorCode::DeployUnfollowed, 70),
            (ErrorCode::FileUnreadable, 1),
            (ErrorCode::Internal, 1),
        ] {
            assert_eq!(kind(&coded(code, "no")), expected, "{code}");
        }
    }
}
