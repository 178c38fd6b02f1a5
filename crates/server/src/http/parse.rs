//! Parsing of requests: bodies, queries and names in paths.

use axum::extract::{FromRequestParts, Query};
use bytes::Bytes;
use gantry_api::{ErrorCode, Problem};
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::http::response::{ErrorResponse, HttpResult};

/// Error response for a request that cannot be understood.
pub(super) fn invalid_request(message: String) -> Problem {
    Problem::new(ErrorCode::InvalidRequest, message)
}

/// Parses a JSON request body.
pub(crate) fn parse_body<T: DeserializeOwned>(bytes: &Bytes) -> HttpResult<T> {
    Ok(serde_json::from_slice(bytes).map_err(|error| invalid_request(format!("the request's body: {error}")))?)
}

/// Query parameters of a request. An invalid query is refused with the same error response as any other bad request.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> HttpResult<Self> {
        let params = Query::try_from_uri(&parts.uri);
        let Query(value) =
            params.map_err(|error| invalid_request(format!("the request's query: {}", error.body_text())))?;
        Ok(Self(value))
    }
}

/// Parses a name taken from the path.
pub(crate) fn parse_name<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> HttpResult<T> {
    text.parse().map_err(|error: T::Err| Problem::new(ErrorCode::InvalidName, error.to_string()).into())
}
