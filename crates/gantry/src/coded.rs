//! Errors of the command line with a stable code.

use gantry_api::ClientError;
use gantry_error_codes::ErrorCode;

/// An error with its code. The text has all causes.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
struct CodedError {
    code: ErrorCode,
    error: anyhow::Error,
}

/// Creates an error with a code.
pub(crate) fn coded(code: ErrorCode, message: impl Into<String>) -> anyhow::Error {
    CodedError { code, error: anyhow::Error::msg(message.into()) }.into()
}

/// Adds a code to a failed result.
pub(crate) trait WithCode<T> {
    /// Adds the code to the error.
    fn with_code(self, code: ErrorCode) -> anyhow::Result<T>;
}

impl<T> WithCode<T> for anyhow::Result<T> {
    fn with_code(self, code: ErrorCode) -> Self {
        self.map_err(|error| CodedError { code, error }.into())
    }
}

/// Returns the code to print after an error. A problem from the server has its code in its text already.
pub(crate) fn code_of(error: &anyhow::Error) -> Option<ErrorCode> {
    if let Some(coded) = error.downcast_ref::<CodedError>() {
        return Some(coded.code);
    }
    if let Some(server) = error.downcast_ref::<gantry_controller::ServerError>() {
        return server.code();
    }
    match error.downcast_ref::<ClientError>()? {
        ClientError::Problem(_) => None,
        ClientError::Unreachable { source, .. } if source.is::<tokio::time::error::Elapsed>() => {
            Some(ErrorCode::ServerTimeout)
        }
        ClientError::Unreachable { .. } => Some(ErrorCode::ServerUnreachable),
        ClientError::Answer { .. } => Some(ErrorCode::UnexpectedResponse),
    }
}
