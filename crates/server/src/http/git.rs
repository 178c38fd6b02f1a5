//! Git endpoint: `/git/<app>.git/…`, with a token as the password.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use gantry_admission::find_app;
use gantry_api::{ErrorCode, Problem};
use gantry_git::{Conversation, Service};
use gantry_model::AppName;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::auth::Caller;
use super::{HttpResult, Params, UNBUFFERED};
use crate::disk_reserve::check_reserve;
use crate::{Server, repositories};

/// Size limit of a compressed request, also after unpacking. Such a request lists the commits that a clone has.
const REQUEST_MAX: usize = 16 << 20;

/// Query parameters of `info/refs`: `?service=`.
#[derive(Deserialize)]
pub(crate) struct RefsQuery {
    service: Option<String>,
}

/// An authorized request to an app's repository.
struct GitRequest {
    app: AppName,
    service: Service,
    protocol: Option<String>,
    branch: String,
}

/// Authorizes the caller, checks the service, and opens the app's repository.
async fn open(
    server: &Server,
    caller: &Caller,
    app: &str,
    service: Option<&str>,
    headers: &HeaderMap,
) -> HttpResult<GitRequest> {
    let app = app.strip_suffix(".git").unwrap_or(app);
    let unsupported = || Problem::new(ErrorCode::GitProtocolUnsupported, "only smart HTTP is served");
    let service = service.and_then(Service::parse).ok_or_else(unsupported)?;
    let app = match service {
        Service::ReceivePack => caller.deploy(app)?,
        Service::UploadPack => caller.read_app(app)?,
    };
    let branch = find_app(&server.core.view().records, &app)?.branch.clone();
    if service == Service::ReceivePack {
        // Without this check, git would only report that it cannot create a folder.
        check_reserve(server, "a push", 0)?;
    }
    repositories::open(server, &app).await?;
    let protocol = headers.get("git-protocol").and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok(GitRequest { app, service, protocol, branch })
}

fn typed(service: Service, what: &str, body: Body) -> Response {
    let kind = format!("application/x-{}-{what}", service.name());
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache".to_owned())];
    (headers, [UNBUFFERED], body).into_response()
}

pub(crate) async fn advertise(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    Params(query): Params<RefsQuery>,
    headers: HeaderMap,
) -> HttpResult {
    let git = open(&server, &caller, &app, query.service.as_deref(), &headers).await?;
    let refs = server
        .repositories
        .advertise(&git.app, git.service, git.protocol.as_deref())
        .await
        .map_err(|error| Problem::internal(error.to_string()))?;
    Ok(typed(git.service, "advertisement", refs.into()))
}

pub(crate) async fn serve(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((app, service)): Path<(String, String)>,
    request: Request,
) -> HttpResult {
    let (parts, body) = request.into_parts();
    let git = open(&server, &caller, &app, Some(&service), &parts.headers).await?;
    let pieces = match parts.headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()) {
        None | Some("identity") => body.into_data_stream().map(|piece| piece.map_err(std::io::Error::other)).boxed(),
        Some("gzip" | "x-gzip") => gunzip(body).await?,
        Some(other) => {
            let message = format!("requests in {other} are not taken");
            return Err(Problem::new(ErrorCode::EncodingUnsupported, message).into());
        }
    };
    let guard = PushGuard::begin(&server, &git, &caller.name);
    let push = guard.name.clone();
    let conversation =
        Conversation { service: git.service, protocol: git.protocol.as_deref(), push: &push, branch: &git.branch };
    let stream = server.repositories.serve(&git.app, conversation, pieces, guard);
    let mut stream = stream.map_err(|error| Problem::internal(error.to_string()))?.fuse();
    // The response begins when git says something. A response that begins during the upload would be silent until the
    // upload's end, and nginx cuts a response that is silent for a minute.
    let first = match stream.next().await {
        // Git said nothing that it could say to a client of git.
        Some(Err(error)) => {
            return Err(Problem::new(ErrorCode::InvalidRequest, format!("git refused the request: {error}")).into());
        }
        first => first,
    };
    let whole = futures_util::stream::iter(first).chain(stream);
    Ok(typed(git.service, "result", Body::from_stream(whole)))
}

/// Answers Git LFS requests, on any path, with an error. LFS clients show only a message in this JSON form.
///
/// The response says nothing about the app, so no token is required. With a token required, a client without one
/// would first ask for a password.
pub(crate) async fn lfs(method: http::Method) -> Response {
    let (status, message) = match method {
        http::Method::GET | http::Method::POST => (StatusCode::NOT_IMPLEMENTED, LFS),
        _ => (StatusCode::METHOD_NOT_ALLOWED, LFS),
    };
    let message = format!("{message} [{}]", ErrorCode::LfsUnsupported);
    let text = serde_json::json!({ "message": message }).to_string();
    (status, [(header::CONTENT_TYPE, "application/vnd.git-lfs+json")], text).into_response()
}

/// Message shown by Git LFS clients.
const LFS: &str = "Gantry does not serve Git LFS. Keep the files in git itself: git lfs migrate export --everything \
    --include='*'. Or keep them at another LFS server (git config -f .lfsconfig lfs.url URL), and fetch them in \
    container/compile.";

/// Rewrites an error response as plain text, the only kind of error body that git shows to its user.
pub(crate) async fn in_plain_text(mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let text: String =
        [Some(problem.to_string()), problem.hint].into_iter().flatten().map(|line| line + "\n").collect();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.map(|_| text.into())
}

/// Unpacks a compressed request body. Git compresses long negotiation requests; packs are already compressed, so git
/// sends them unchanged.
async fn gunzip(body: Body) -> HttpResult<BoxStream<'static, std::io::Result<Bytes>>> {
    use std::io::Read;
    let wrong = |error: &dyn std::fmt::Display| {
        Problem::new(ErrorCode::InvalidRequest, format!("cannot unpack the compressed request: {error}"))
    };
    let packed = axum::body::to_bytes(body, REQUEST_MAX).await.map_err(|error| wrong(&error))?;
    let mut plain = Vec::new();
    let limit = REQUEST_MAX as u64 + 1;
    flate2::read::GzDecoder::new(&packed[..]).take(limit).read_to_end(&mut plain).map_err(|error| wrong(&error))?;
    if plain.len() > REQUEST_MAX {
        return Err(Problem::new(ErrorCode::RequestTooLarge, "the compressed request is too large").into());
    }
    Ok(futures_util::stream::iter([Ok(Bytes::from(plain))]).boxed())
}

/// Registration of a push. The endpoint for the git hook knows the push until its git process ends.
struct PushGuard {
    server: Arc<Server>,
    name: String,
}

impl PushGuard {
    fn begin(server: &Arc<Server>, git: &GitRequest, by: &str) -> Self {
        let name = match git.service {
            Service::ReceivePack => server.pushes.begin(&git.app, by),
            Service::UploadPack => String::new(),
        };
        Self { server: Arc::clone(server), name }
    }
}

impl Drop for PushGuard {
    fn drop(&mut self) {
        self.server.pushes.end(&self.name);
    }
}
