//! Failures of sent requests.

use crate::request::request_body::RequestBody;

/// Reason why there is no response.
pub(crate) enum SendFailure {
    /// No part of the request was sent; contains the body.
    Unsent(RequestBody),
    /// Another machine's router did not pass the request on; contains the body.
    Refused(RequestBody),
    /// The instance may have received the request.
    Sent(String),
    /// The client did not send the whole request.
    Client(String),
}
