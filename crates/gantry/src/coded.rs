//! Errors of the command line with a stable code.

use gantry_agent::AgentError;
use gantry_api::ClientError;
use gantry_error_codes::ErrorCode;
use gantry_server::ServerError;
use gantry_store::StoreError;

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

impl<T, E: Into<anyhow::Error>> WithCode<T> for Result<T, E> {
    fn with_code(self, code: ErrorCode) -> anyhow::Result<T> {
        self.map_err(|error| CodedError { code, error: error.into() }.into())
    }
}

/// Returns an error with a code from the enclosing function: `fail!(PageNotFound, "there is no page {topic}")`.
macro_rules! fail {
    ($code:ident, $($message:tt)*) => {
        return Err($crate::coded::coded(gantry_error_codes::ErrorCode::$code, format!($($message)*)))
    };
}

/// Returns an error with a code from the enclosing function, unless the condition holds.
macro_rules! require {
    ($condition:expr, $code:ident, $($message:tt)*) => {
        if !$condition {
            $crate::coded::fail!($code, $($message)*);
        }
    };
}

pub(crate) use {fail, require};

/// Returns the code to print after an error. A problem from the server has its code in its text already.
pub(crate) fn code_of(error: &anyhow::Error) -> Option<ErrorCode> {
    if let Some(coded) = error.downcast_ref::<CodedError>() {
        return Some(coded.code);
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Problem(_)) => return None,
        Some(ClientError::Unreachable { source, .. }) if source.is::<tokio::time::error::Elapsed>() => {
            return Some(ErrorCode::ServerTimeout);
        }
        Some(ClientError::Unreachable { .. }) => return Some(ErrorCode::ServerUnreachable),
        Some(ClientError::Answer { .. }) => return Some(ErrorCode::UnexpectedResponse),
        None => {}
    }
    Some(error.chain().find_map(of_cause).unwrap_or(ErrorCode::Internal))
}

/// Returns the code of one error in a chain of causes.
fn of_cause(error: &(dyn std::error::Error + 'static)) -> Option<ErrorCode> {
    use std::io::ErrorKind;
    if let Some(error) = error.downcast_ref() {
        return of_store_error(error);
    }
    if let Some(error) = error.downcast_ref::<ServerError>() {
        return match error {
            ServerError::Store(error) => of_store_error(error),
            ServerError::Listen { .. } => Some(ErrorCode::AddressUnavailable),
            ServerError::OtherMachine(_) => Some(ErrorCode::WrongDataFolder),
            ServerError::Interrupted | ServerError::NotLeading(_) => Some(ErrorCode::StoreUnavailable),
            error => error.code(),
        };
    }
    if let Some(AgentError::Newer { .. }) = error.downcast_ref() {
        return Some(ErrorCode::FileNewer);
    }
    match error.downcast_ref::<std::io::Error>()?.kind() {
        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => Some(ErrorCode::AddressUnavailable),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(ErrorCode::DiskFull),
        ErrorKind::ReadOnlyFilesystem => Some(ErrorCode::DiskReadOnly),
        _ => None,
    }
}

fn of_store_error(error: &StoreError) -> Option<ErrorCode> {
    match error {
        StoreError::Damaged { .. } => Some(ErrorCode::StoreDamaged),
        StoreError::Locked { .. } => Some(ErrorCode::AlreadyRunning),
        StoreError::Full { .. } => Some(ErrorCode::DiskFull),
        StoreError::ReadOnly { .. } => Some(ErrorCode::DiskReadOnly),
        StoreError::Newer { .. } => Some(ErrorCode::StoreNewer),
        StoreError::Unavailable { .. } | StoreError::Quota { .. } => Some(ErrorCode::StoreUnavailable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use anyhow::Context;

    use super::*;

    #[test]
    fn every_error_has_a_code() {
        let missing = || Error::from(ErrorKind::NotFound);
        let named = Err::<(), _>(missing()).with_context(|| "cannot read x").with_code(ErrorCode::FileUnreadable);
        let wrapped = Err::<(), _>(named.expect_err("coded")).context("the recipe");
        for (error, code) in [
            (wrapped.expect_err("an error"), ErrorCode::FileUnreadable),
            (coded(ErrorCode::PageNotFound, "no page"), ErrorCode::PageNotFound),
            (Error::from(ErrorKind::AddrInUse).into(), ErrorCode::AddressUnavailable),
            (anyhow::Error::from(Error::from(ErrorKind::StorageFull)).context("a write"), ErrorCode::DiskFull),
            (missing().into(), ErrorCode::Internal),
            (anyhow::anyhow!("anything else"), ErrorCode::Internal),
        ] {
            assert_eq!(code_of(&error), Some(code), "{error:#}");
        }
    }
}
