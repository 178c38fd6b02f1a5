//! Parts of HTTP messages that the modules hand to each other: frames of a body, and interim responses. Pure.

use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::Frame;

/// Reason why a body broke off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Result of polling a body.
pub(crate) type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// Returns whether the connection to the instance was lost, in contrast to a response that the instance itself reset.
pub(crate) fn is_lost_connection(error: &BodyError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(&**error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            // Another machine's router tells of a lost connection by this code.
            return !error.is_reset() || error.reason() == Some(h2::Reason::CONNECT_ERROR);
        }
        cause = error.source();
    }
    true
}

/// Receiver of interim responses.
pub(crate) trait InterimSink: Send + Sync {
    /// Adds an interim response.
    fn add(&self, status: StatusCode, headers: &HeaderMap);
}
