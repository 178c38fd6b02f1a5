//! The APIs of IronWorker, version 2, and of IronMQ, version 3, for clients that were written for them.
//!
//! - `/2/projects/{project}/…`: the project is an app, and its codes are the roles of the current release and the
//!   uploaded codes.
//! - `/3/projects/{project}/queues/…`: queues of messages; see `messages` and `push`.
//! - A token is sent as `Authorization: OAuth TOKEN` or as `?oauth=TOKEN`; the scopes are Gantry's.
//! - Errors are `{"msg": …}`, with the code of Gantry's API beside it. Each response has a content type, because the clients require it.
//! - An absent field is left out and never null: a client takes a task with a field of schedules for a schedule.

mod codes;
mod messages;
mod push;
mod schedules;
mod tasks;
mod upload;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use gantry_api::{ErrorCode, Problem};
use gantry_model::AppName;
use gantry_queue::{CodeName, QueueName};
use http::request::Parts;
use http::{Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{AcquireError, Semaphore};

pub(super) use messages::messages;

use super::auth::Caller;
use super::{ErrorResponse, HttpResult, parse_body, parse_name};
use crate::Server;

/// Size limit of a request's body, in bytes.
const BODY_MAX: usize = 16 << 20;

/// Size limit of an upload, in bytes. The printed form of an archive is up to four times as large as the archive.
const UPLOAD_MAX: usize = 64 << 20;

/// Uploads whose bodies are in memory at the same time.
static UPLOADS: Semaphore = Semaphore::const_new(2);

/// A call of the API.
struct IronCall {
    server: Arc<Server>,
    caller: Caller,
    project: AppName,
    parts: Parts,
    body: Bytes,
}

/// Serves every path of the API.
pub(super) async fn worker(
    State(server): State<Arc<Server>>,
    Path((project, path)): Path<(String, String)>,
    request: Request,
) -> Response {
    respond(serve(server, &project, &path, request).await)
}

/// The response, or the error as these clients read it.
fn respond(served: HttpResult) -> Response {
    match served {
        Ok(response) => response,
        Err(ErrorResponse(problem)) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let hint = problem.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let message = format!("{}{hint}", problem.message);
            (status, axum::Json(json!({ "msg": message, "code": problem.code }))).into_response()
        }
    }
}

async fn serve(server: Arc<Server>, project: &str, path: &str, request: Request) -> HttpResult {
    let segments: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let method = request.method().clone();
    let uploads = method == Method::POST && segments == ["codes"];
    let closed = |error: AcquireError| Problem::internal(error.to_string());
    let _turn = if uploads { Some(UPLOADS.acquire().await.map_err(closed)?) } else { None };
    let most = if uploads { UPLOAD_MAX } else { BODY_MAX };
    let call = IronCall::read_up_to(most, server, project, request).await?;
    match (&method, &segments[..]) {
        (&Method::POST, ["tasks"]) => tasks::submit(&call).await,
        (&Method::POST, ["tasks", "webhook"]) => tasks::webhook(&call).await,
        (&Method::GET, ["tasks"]) => tasks::list(&call).await,
        (&Method::GET, ["tasks", id]) => tasks::show(&call, id).await,
        (&Method::GET, ["tasks", id, "log"]) => tasks::log(&call, id, false).await,
        (&Method::GET, ["tasks", id, "outlog"]) => tasks::log(&call, id, true).await,
        (&Method::POST, ["tasks", id, "cancel"]) => tasks::cancel(&call, id).await,
        (&Method::POST, ["tasks", id, "retry"]) => tasks::retry(&call, id).await,
        (&Method::POST, ["tasks", id, "progress"]) => tasks::progress(&call, id).await,
        (&Method::POST, ["schedules"]) => schedules::create(&call).await,
        (&Method::GET, ["schedules"]) => schedules::list(&call).await,
        (&Method::GET, ["schedules", id]) => schedules::show(&call, id).await,
        (&Method::POST, ["schedules", id, "cancel"]) => schedules::cancel(&call, id).await,
        (&Method::GET, ["codes"]) => codes::list(&call),
        (&Method::GET, ["codes", id]) => codes::show(&call, id),
        (&Method::POST, ["codes", id, "pause_task_queue"]) => codes::pause(&call, id, true).await,
        (&Method::POST, ["codes", id, "resume_task_queue"]) => codes::pause(&call, id, false).await,
        (&Method::GET, ["codes", id, "revisions"]) => codes::revisions(&call, id),
        (&Method::DELETE, ["codes", id]) => codes::remove(&call, id).await,
        (&Method::POST, ["codes"]) => upload::upload(&call).await,
        _ => {
            let path: String = call.parts.uri.path().chars().take(200).collect();
            Err(Problem::new(
                ErrorCode::EndpointNotFound,
                format!("Gantry does not have the IronWorker endpoint {method} {path}"),
            )
            .into())
        }
    }
}

/// The caller, by the token of the header or of the query.
fn caller(server: &Server, parts: &Parts) -> HttpResult<Caller> {
    #[derive(serde::Deserialize)]
    struct Token {
        oauth: Option<String>,
    }
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let of_header = header.and_then(|text| text.split_once(' ')).map(|(_, secret)| secret.trim().to_owned());
    let of_query = || Query::<Token>::try_from_uri(&parts.uri).ok().and_then(|Query(token)| token.oauth);
    let secret = of_header.or_else(of_query);
    let missing = || Problem::new(ErrorCode::TokenRequired, "a token is needed, as `Authorization: OAuth TOKEN`");
    Caller::of_secret(server, &secret.ok_or_else(missing)?)
}

async fn read(body: Body, most: usize) -> HttpResult<Bytes> {
    let read = axum::body::to_bytes(body, most).await;
    Ok(read.map_err(|error| Problem::new(ErrorCode::RequestTooLarge, error.to_string()))?)
}

impl IronCall {
    /// Authenticates the caller, and reads the request.
    async fn read(server: Arc<Server>, project: &str, request: Request) -> HttpResult<Self> {
        Self::read_up_to(BODY_MAX, server, project, request).await
    }

    /// Authenticates the caller, and reads the request. `most` limits the size of its body in bytes.
    async fn read_up_to(most: usize, server: Arc<Server>, project: &str, request: Request) -> HttpResult<Self> {
        let (parts, body) = request.into_parts();
        let caller = caller(&server, &parts)?;
        let project: AppName = parse_name(project)?;
        Ok(Self { caller, project, body: read(body, most).await?, server, parts })
    }

    /// Parses the JSON body. An empty body is an empty object.
    fn parse<T: DeserializeOwned>(&self) -> HttpResult<T> {
        if self.body.is_empty() { parse_body(&Bytes::from_static(b"{}")) } else { parse_body(&self.body) }
    }

    fn query<T: DeserializeOwned>(&self) -> HttpResult<T> {
        let query = Query::try_from_uri(&self.parts.uri);
        let Query(query) =
            query.map_err(|error| super::parse::invalid_request(format!("the query: {}", error.body_text())))?;
        Ok(query)
    }

    /// Requires the right to read the project.
    fn may_read(&self) -> HttpResult<()> {
        self.caller.read_app(self.project.as_str()).map(drop)
    }

    /// Requires the right to change the project.
    fn may_change(&self) -> HttpResult<()> {
        self.caller.deploy(self.project.as_str()).map(drop)
    }

    /// The queue of a code. An unknown code is refused where the code is looked up.
    fn queue(&self, code: &str) -> HttpResult<QueueName> {
        let code: CodeName = code.parse().map_err(|_| unknown_code(code))?;
        Ok(QueueName { project: self.project.clone(), code })
    }
}

fn unknown_code(code: &str) -> Problem {
    let code: String = code.chars().take(80).collect();
    Problem::new(
        ErrorCode::RoleNotFound,
        format!("there is no code {code:?}; a code is a role of the app, or was uploaded"),
    )
}

/// A JSON response without the fields that are null.
fn answer(value: Value) -> Response {
    axum::Json(without_nulls(value)).into_response()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        value => value,
    }
}
