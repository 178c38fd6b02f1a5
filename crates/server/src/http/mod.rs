//! HTTP routes. Each handler authorizes the caller, runs the operation, and returns JSON.

mod apps;
pub(crate) mod auth;
mod bases;
mod builds;
mod call;
mod codes;
mod coordination;
mod deploys;
mod git;
mod images;
mod iron;
mod job_info;
mod job_output;
mod jobs;
mod logs;
mod machines;
mod members;
mod policy;
mod pulls;
mod queues;
pub(crate) mod range;
mod referrers;
pub(crate) mod registry;
mod schedules;
pub(crate) mod sessions;
mod stacks;
mod stream;
pub(crate) mod system;
pub(crate) mod uploads;
mod volume_machines;
mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Query, Request};
use axum::middleware::{map_response, map_response_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use gantry_admission::Refusal;
use gantry_api::{ErrorCode, Problem};
use http::request::Parts;
use http::{StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use call::Routes;
pub(crate) use job_info::job_result;
pub(crate) use jobs::resolve as resolve_job;

use crate::ChangeError;
use crate::Server;

/// Response header that turns off buffering in nginx and compatible proxies in front of the API. Clients read
/// followed responses line by line.
pub(crate) const UNBUFFERED: (http::HeaderName, http::HeaderValue) =
    (http::HeaderName::from_static("x-accel-buffering"), http::HeaderValue::from_static("no"));

/// Size limit of other JSON bodies in bytes.
const BODY_MAX: usize = 1 << 20;

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

/// Error response for a request that cannot be understood.
fn invalid_request(message: String) -> Problem {
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

/// The endpoints of the public API, each as it is declared.
fn public_routes() -> Routes {
    let families: [fn(Routes) -> Routes; 16] = [
        policy::routes,
        system::routes,
        machines::routes,
        members::routes,
        bases::routes,
        stacks::routes,
        apps::routes,
        deploys::routes,
        sessions::routes,
        images::routes,
        codes::routes,
        jobs::routes,
        queues::routes,
        schedules::routes,
        volumes::routes,
        coordination::locks::public_routes,
    ];
    let document = Routes::default().open::<gantry_api::endpoints::cluster::OpenApi>(gantry_api::openapi::document);
    families.into_iter().fold(document, |routes, family| family(routes))
}

/// Builds the router with all routes of the server.
pub(crate) fn router(server: Arc<Server>) -> Router {
    let (public, _) = public_routes().build();
    let internal = Router::new()
        .route("/machines/{machine}/control", post(machines::agent))
        .route("/routers/{machine}/control", post(machines::router))
        .route("/machines/{machine}/apps", get(machines::apps))
        .route("/machines/{machine}/servers", get(members::server_addresses))
        .route("/join", post(members::join))
        .route("/renew", post(members::renew))
        .route("/servers/tokens", post(crate::servers::introduced))
        .route("/sessions/{id}", post(sessions::call_back))
        .route("/builds/{id}/blobs/{digest}", get(builds::blob).post(builds::put).layer(DefaultBodyLimit::disable()))
        .route("/builds/{id}/blobs/{digest}/intact", get(builds::is_intact))
        .route("/builds/{id}/room", post(builds::check_room));
    let plain_text = map_response(git::in_plain_text);
    let versioned = map_response_with_state(Arc::clone(&server), registry::versioned);
    Router::new()
        .merge(public.layer(DefaultBodyLimit::max(BODY_MAX)).layer(map_response(with_code)))
        .nest("/internal/v1", internal.layer(map_response(with_code)))
        .nest("/internal/v1/machines/{machine}/as/{app}", coordination::routes())
        .route("/git/{app}/info/refs", get(git::advertise).layer(plain_text.clone()))
        .route("/git/{app}/{service}", post(git::serve).layer(plain_text))
        .route("/git/{app}/info/lfs/{*path}", any(git::lfs))
        .route("/v2", get(registry::version).layer(versioned.clone()))
        .route("/v2/", get(registry::version).layer(versioned.clone()))
        .route("/v2/{*path}", any(registry::route).layer(DefaultBodyLimit::disable()).layer(versioned))
        .route("/2/projects/{project}/{*path}", any(iron::worker).layer(DefaultBodyLimit::disable()))
        .route("/3/projects/{project}/{*path}", any(iron::messages).layer(DefaultBodyLimit::disable()))
        .fallback(endpoint_not_found)
        .with_state(server)
}

/// Gives each error response a code: axum itself refuses methods, bodies and paths without one.
async fn with_code(response: Response) -> Response {
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

async fn endpoint_not_found(request: Request) -> ErrorResponse {
    let path = request.uri().path().chars().take(200).collect::<String>();
    Problem::new(ErrorCode::EndpointNotFound, format!("there is nothing at {path}")).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_declared_endpoint_is_served_and_no_other() {
        let (_, served) = public_routes().build();
        let text = |method: &http::Method, path: &str| format!("{method} {path}");
        let declared: BTreeSet<String> =
            gantry_api::endpoints::all().iter().map(|endpoint| text(&endpoint.method, endpoint.path)).collect();
        assert_eq!(served.len(), declared.len());
        assert_eq!(served.iter().map(|(method, path)| text(method, path)).collect::<BTreeSet<_>>(), declared);
    }
}
