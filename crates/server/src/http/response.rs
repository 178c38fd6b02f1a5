//! Responses of the handlers.

use axum::response::{IntoResponse, Response};
use gantry_admission::Refusal;
use gantry_api::{ErrorCode, Problem};
use http::{StatusCode, header};
use serde::Serialize;

use crate::ChangeError;

/// Response header that turns off buffering in nginx and compatible proxies in front of the API. Clients read
/// followed responses line by line.
pub(crate) const UNBUFFERED: (http::HeaderName, http::HeaderValue) =
    (http::HeaderName::from_static("x-accel-buffering"), http::HeaderValue::from_static("no"));

/// Result of a handler: the response, or the error response.
pub(crate) type HttpResult<T = Response> = Result<T, ErrorResponse>;

/// Error response made from a [`Problem`].
#[derive(Debug)]
pub(crate) struct ErrorResponse(pub(crate) Problem);

impl From<Problem> for ErrorResponse {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<ChangeError> for ErrorResponse {
    fn from(error: ChangeError) -> Self {
        Self(error.into())
    }
}

impl From<Refusal> for ErrorResponse {
    fn from(refusal: Refusal) -> Self {
        ChangeError::from(refusal).into()
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let text = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], text).into_response();
        if let Some(seconds) = self.0.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(self.0);
        if status == StatusCode::UNAUTHORIZED {
            let ask = http::HeaderValue::from_static("Basic realm=\"gantry\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        }
        response
    }
}

/// Serializes a value into a JSON response.
pub(crate) fn json(value: &impl Serialize) -> HttpResult {
    let text = serde_json::to_vec(value).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// Gives each error response a code: axum itself refuses methods, bodies and paths without one.
pub(super) async fn with_code(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.extensions().get::<Problem>().is_some() {
        return response;
    }
    let code = match status {
        StatusCode::METHOD_NOT_ALLOWED => ErrorCode::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::RequestTooLarge,
        status if status.is_client_error() => ErrorCode::InvalidRequest,
        _ => ErrorCode::Internal,
    };
    let allow = response.headers().get(header::ALLOW).cloned();
    let mut coded = ErrorResponse(Problem::new(code, code.description().meaning)).into_response();
    coded.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    coded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_that_passes_says_when_to_try_again() {
        let problem = Problem::new(ErrorCode::JoinRateLimited, "too many").retry_after(3);
        let response = ErrorResponse(problem).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
        let response = ErrorResponse(Problem::new(ErrorCode::AppNotFound, "no app")).into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }
}
