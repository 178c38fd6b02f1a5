//! How the program says that it failed: what, why, the remedy; and its exit code.

use std::process::ExitCode;

use crate::printer::told;
use gantry_api::ClientError;

/// 0 done, 1 failed, 2 usage, 70 timed out (a deploy without progress, a server that does not answer); a process that was run gives its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

/// Ended as asked.
pub(crate) const DONE: Exit = Exit(0);
/// Did not do what was asked; why was said already.
pub(crate) const FAILED: Exit = Exit(1);
/// The request made no sense.
pub(crate) const USAGE: u8 = 2;
/// Out of time.
pub(crate) const TIMED_OUT: Exit = Exit(70);

/// The outcome as an exit code; an error is printed.
pub(crate) fn code(outcome: anyhow::Result<Exit>) -> ExitCode {
    match outcome {
        Ok(exit) => ExitCode::from(exit.0),
        Err(error) => {
            told!("gantry: {error:#}");
            if let Some(hint) = hint(&error) {
                told!("{hint}");
            }
            ExitCode::from(kind(&error))
        }
    }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref::<ClientError>()? {
        ClientError::Problem(problem) => problem.hint.clone(),
        ClientError::Unreachable { .. } => {
            Some("is `gantry up` running? another server is named with --url or GANTRY_URL".to_owned())
        }
        ClientError::Answer { .. } => None,
    }
}

fn kind(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Problem(problem)) if problem.status == 400 => USAGE,
        Some(ClientError::Unreachable { source, .. }) if source.is::<tokio::time::error::Elapsed>() => TIMED_OUT.0,
        _ => FAILED.0,
    }
}
