//! Serves declared endpoints: authorizes the caller, reads the request, runs the handler, and writes the response, all as
//! the declaration says.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use gantry_api::endpoint::{
    AccessScope, Download, Endpoint, Json, JsonOrBytes, JsonOrEmpty, LargeJson, Lines, NoBody, ParameterError,
    QueryParameters, RawBytes, RequestBody, ResponseBody, SessionStart, Upload, is_declared,
};
use gantry_api::{ErrorCode, Problem};
use http::{HeaderMap, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::{ErrorResponse, HttpResult, Params, json, parse_body, stream};
use crate::Server;

/// Maximum number of bytes that are read of a body which the endpoint does not take.
const IGNORED_MAX: usize = 1 << 20;

/// Size limit of a large JSON body in bytes.
const LARGE_MAX: usize = 16 << 20;

/// The caller of a family of endpoints.
pub(crate) trait EndpointCaller:
    FromRequestParts<Arc<Server>, Rejection = ErrorResponse> + Send + 'static
{
    /// Requires the scope that an endpoint declares, for the app and the machine that the call names.
    fn permit<E: Endpoint>(&self, at: &E, query: &E::Query) -> HttpResult<()>;
}

impl EndpointCaller for Caller {
    fn permit<E: Endpoint>(&self, at: &E, query: &E::Query) -> HttpResult<()> {
        self.check(E::SCOPE, at.app().or(query.app()), at.machine())
    }
}

/// An authorized call of an endpoint.
pub(crate) struct Call<E: Endpoint<Request: ServedRequest>, C = Caller> {
    pub(crate) server: Arc<Server>,
    pub(crate) caller: C,
    /// Parameters of the path.
    pub(crate) at: E,
    pub(crate) query: E::Query,
    pub(crate) body: <E::Request as ServedRequest>::Value,
    pub(crate) headers: HeaderMap,
    upgrade: Option<OnUpgrade>,
}

impl<E: Endpoint<Request: ServedRequest>, C> Call<E, C> {
    /// Takes the pending upgrade of the connection.
    pub(crate) fn take_upgrade(&mut self) -> HttpResult<OnUpgrade> {
        Ok(self.upgrade.take().ok_or_else(super::sessions::no_session)?)
    }
}

/// Reading of a request's body by the server.
pub(crate) trait ServedRequest: RequestBody {
    /// The body in the handler's hands.
    type Value: Send + 'static;

    /// Reads the body.
    fn read(request: Request) -> impl Future<Output = HttpResult<Self::Value>> + Send;
}

/// Writing of a response by the server.
pub(crate) trait ServedResponse: ResponseBody {
    /// The result of the handler.
    type Value: Send + 'static;

    /// Writes the response to a request with these headers.
    fn write(value: Self::Value, headers: &HeaderMap) -> HttpResult;
}

impl ServedRequest for NoBody {
    type Value = ();

    /// Reads to the end: a connection that becomes a session must not begin with the rest of a body.
    async fn read(request: Request) -> HttpResult<()> {
        let _ = axum::body::to_bytes(request.into_body(), IGNORED_MAX).await;
        Ok(())
    }
}

impl<T: gantry_api::samples::Sample + DeserializeOwned + Send + 'static> ServedRequest for Json<T> {
    type Value = T;

    async fn read(request: Request) -> HttpResult<T> {
        parse_body(&RawBytes::read(request).await?)
    }
}

impl<T: gantry_api::samples::Sample + DeserializeOwned + Send + 'static> ServedRequest for LargeJson<T> {
    type Value = T;

    async fn read(request: Request) -> HttpResult<T> {
        let read = axum::body::to_bytes(request.into_body(), LARGE_MAX).await;
        let refused = |error: axum::Error| Problem::new(ErrorCode::RequestTooLarge, error.to_string());
        parse_body(&read.map_err(refused)?)
    }
}

impl<T: gantry_api::samples::Sample + DeserializeOwned + Send + 'static> ServedRequest for JsonOrEmpty<T> {
    type Value = T;

    async fn read(request: Request) -> HttpResult<T> {
        let body = RawBytes::read(request).await?;
        parse_body(&if body.is_empty() { Bytes::from_static(b"{}") } else { body })
    }
}

impl ServedRequest for RawBytes {
    type Value = Bytes;

    async fn read(request: Request) -> HttpResult<Bytes> {
        let read = Bytes::from_request(request, &()).await;
        Ok(read.map_err(|rejection| {
            let too_large = rejection.status() == StatusCode::PAYLOAD_TOO_LARGE;
            let code = if too_large { ErrorCode::RequestTooLarge } else { ErrorCode::RequestBroken };
            Problem::new(code, rejection.body_text())
        })?)
    }
}

impl ServedRequest for Upload {
    type Value = axum::body::Body;

    async fn read(request: Request) -> HttpResult<axum::body::Body> {
        Ok(request.into_body())
    }
}

impl ServedResponse for NoBody {
    type Value = ();

    fn write(value: (), _: &HeaderMap) -> HttpResult {
        json(&value)
    }
}

impl<T: gantry_api::samples::Sample + Send + 'static> ServedResponse for Json<T> {
    type Value = T;

    fn write(value: T, _: &HeaderMap) -> HttpResult {
        json(&value)
    }
}

impl<T: gantry_api::samples::Sample + Send + 'static> ServedResponse for JsonOrBytes<T> {
    type Value = Response;

    fn write(value: Response, _: &HeaderMap) -> HttpResult {
        Ok(value)
    }
}

impl<T: gantry_api::samples::Sample + Serialize + Send + 'static> ServedResponse for Lines<T> {
    type Value = mpsc::Receiver<T>;

    fn write(value: mpsc::Receiver<T>, headers: &HeaderMap) -> HttpResult {
        stream::stream(headers, value)
    }
}

impl ServedResponse for Download {
    type Value = axum::body::Body;

    fn write(value: axum::body::Body, _: &HeaderMap) -> HttpResult {
        Ok(value.into_response())
    }
}

impl ServedResponse for SessionStart {
    type Value = Response;

    fn write(value: Response, _: &HeaderMap) -> HttpResult {
        Ok(value)
    }
}

/// The routes of a family of declared endpoints.
pub(crate) struct Routes<C = Caller> {
    router: Router<Arc<Server>>,
    served: Vec<(Method, &'static str)>,
    caller: PhantomData<fn() -> C>,
}

impl<C> Default for Routes<C> {
    fn default() -> Self {
        Self { router: Router::new(), served: Vec::new(), caller: PhantomData }
    }
}

impl<C: EndpointCaller> Routes<C> {
    /// Adds an endpoint with its handler.
    pub(crate) fn endpoint<E, A>(mut self, handler: impl Fn(Call<E, C>) -> A + Clone + Send + Sync + 'static) -> Self
    where
        E: Endpoint<Request: ServedRequest, Response: ServedResponse>,
        A: Future<Output = HttpResult<<E::Response as ServedResponse>::Value>> + Send + 'static,
    {
        let serve = move |State(server): State<Arc<Server>>, request: Request| {
            let handler = handler.clone();
            async move { answer(server, handler, request).await.unwrap_or_else(|error| refuse::<E>(error)) }
        };
        let method = MethodFilter::try_from(E::METHOD).unwrap_or(MethodFilter::GET);
        self.router = self.router.route(E::PATH, on(method, serve));
        self.served.push((E::METHOD, E::PATH));
        self
    }

    /// Adds an endpoint that needs no token and no parameters.
    pub(crate) fn open<E>(mut self, value: fn() -> <E::Response as ServedResponse>::Value) -> Self
    where
        E: Endpoint<Response: ServedResponse>,
    {
        debug_assert_eq!(E::SCOPE, AccessScope::Open);
        let serve = move |headers: HeaderMap| async move { E::Response::write(value(), &headers) };
        self.router = self.router.route(E::PATH, axum::routing::get(serve));
        self.served.push((E::METHOD, E::PATH));
        self
    }

    /// The router, and the methods and paths that it serves.
    pub(crate) fn build(self) -> (Router<Arc<Server>>, Vec<(Method, &'static str)>) {
        (self.router, self.served)
    }
}

async fn answer<E, A, C>(server: Arc<Server>, handler: impl Fn(Call<E, C>) -> A, request: Request) -> HttpResult
where
    C: EndpointCaller,
    E: Endpoint<Request: ServedRequest, Response: ServedResponse>,
    A: Future<Output = HttpResult<<E::Response as ServedResponse>::Value>>,
{
    let (mut parts, body) = request.into_parts();
    let caller = C::from_request_parts(&mut parts, &server).await?;
    let parameters = RawPathParams::from_request_parts(&mut parts, &()).await;
    let parameters = parameters.map_err(|rejection| super::parse::invalid_request(rejection.body_text()))?;
    let at = E::from_path(|name| parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| value));
    let at = at.map_err(invalid_path)?;
    let Params(query) = Params::<E::Query>::from_request_parts(&mut parts, &()).await?;
    caller.permit(&at, &query)?;
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    if E::Response::STATUS == 101 && upgrade.is_none() {
        return Err(super::sessions::no_session().into());
    }
    let headers = parts.headers.clone();
    let body = E::Request::read(Request::from_parts(parts, body)).await?;
    let call = Call { server, caller, at, query, body, headers: headers.clone(), upgrade };
    E::Response::write(handler(call).await?, &headers)
}

fn invalid_path(error: ParameterError) -> Problem {
    let code = match &error {
        ParameterError::Name(_) | ParameterError::Code(_) => ErrorCode::InvalidName,
        ParameterError::Digest(_) => ErrorCode::InvalidDigest,
        ParameterError::Deploy(_) => ErrorCode::InvalidRequest,
        ParameterError::Missing(_) => ErrorCode::Internal,
    };
    Problem::new(code, error.to_string())
}

/// Makes an error response. A debug build reports a code that the endpoint does not declare; the tests look for that.
fn refuse<E: Endpoint>(error: ErrorResponse) -> Response {
    if cfg!(debug_assertions)
        && let Some(code) = error.0.code.known()
        && !is_declared::<E>(code)
    {
        tracing::error!(method = %E::METHOD, path = E::PATH, code = code.name(), "undeclared error code");
    }
    error.into_response()
}
