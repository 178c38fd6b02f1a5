//! One request of a container, on its way to the server and back.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use gantry_api::{ErrorCode, Problem};
use gantry_model::AppName;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyDataStream, BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};

use super::limits::CallerLimits;
use crate::AgentContext;

/// Largest body of a request.
const BODY_MAX: usize = 1 << 20;

/// Longest time in which a client sends the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// Timeout of a response of the API itself: longer than its long polls. A lock of etcd's API waits as long as its
/// client does.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest line of a stream.
const LINE_MAX: usize = 16 << 20;

/// Headers of responses that clients see.
const HEADERS: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::ALLOW,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    HeaderName::from_static("gantry-revision"),
];

type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// Sends a request to the server in the name of the container's app, and returns the response.
pub(super) async fn forward(
    agent: &AgentContext,
    app: Option<&AppName>,
    limits: &CallerLimits,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let is_etcd = is_etcd(request.uri().path());
    match answer(agent, app, limits, request).await {
        Ok(response) => response,
        Err(problem) => refuse(&problem, is_etcd),
    }
}

async fn answer(
    agent: &AgentContext,
    app: Option<&AppName>,
    limits: &CallerLimits,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Problem> {
    let app = app.ok_or_else(|| {
        let message = "the address of this connection belongs to no container of an app on this machine";
        Problem::new(ErrorCode::ContainerUnknown, message)
    })?;
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    if !is_served(parts.uri.path()) {
        let shown: String = path.chars().take(200).collect();
        return Err(Problem::new(ErrorCode::EndpointNotFound, format!("there is no endpoint at {shown}")));
    }
    let path = format!("/internal/v1/machines/{}/as/{app}{path}", agent.settings.machine);
    let has_body = body.size_hint().exact() != Some(0);
    let _memory = if has_body { Some(limits.body().await) } else { None };
    let body = if has_body { read(body).await? } else { Bytes::new() };
    let timeout = (!is_etcd(parts.uri.path())).then_some(RESPONSE_TIMEOUT);
    let response = agent.client.forward(parts.method, &path, body, timeout).await.map_err(|error| {
        tracing::debug!(%error, "cannot forward a request of a container");
        let message = "the server cannot be reached now; try again";
        Problem { status: 503, ..Problem::new(ErrorCode::ServerUnreachable, message) }
    })?;
    Ok(respond(response))
}

/// Reports whether a path is one of the API. The server's router would not follow `..`, but a proxy between may.
fn is_served(path: &str) -> bool {
    let climbs = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    (path.starts_with("/v1/") || is_etcd(path)) && !path.split('/').any(climbs)
}

/// Reports whether a path belongs to etcd's API.
fn is_etcd(path: &str) -> bool {
    path.starts_with("/v3/") || path.starts_with("/v3beta/") || path == "/version"
}

async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let slow = |_| Problem::new(ErrorCode::RequestBroken, "the body of the request did not arrive in time");
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await.map_err(slow)?;
    Ok(read.map_err(|error| Problem::new(ErrorCode::RequestTooLarge, error.to_string()))?.to_bytes())
}

/// Passes a response on. A stream of the API is a stream of lines, and each line is one chunk: clients of etcd's watch
/// parse chunk by chunk.
fn respond(response: Response<Incoming>) -> Response<ResponseBody> {
    let (head, body) = response.into_parts();
    let is_whole = body.size_hint().exact().is_some();
    let pieces = BodyDataStream::new(body).map(|piece| piece.map_err(io::Error::other));
    let body = match is_whole {
        true => StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync(),
        false => StreamBody::new(lines(pieces).map(|line| line.map(Frame::data))).boxed_unsync(),
    };
    let mut passed = Response::new(body);
    *passed.status_mut() = head.status;
    for name in HEADERS {
        if let Some(value) = head.headers.get(&name) {
            passed.headers_mut().insert(name, value.clone());
        }
    }
    passed
}

/// Cuts a stream of bytes into lines, with their ends.
fn lines(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let state = (Box::pin(pieces), BytesMut::new());
    stream::try_unfold(state, async |(mut pieces, mut pending)| {
        loop {
            if let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end + 1).freeze();
                return Ok(Some((line, (pieces, pending))));
            }
            match pieces.next().await {
                Some(piece) if pending.len() < LINE_MAX => pending.extend_from_slice(&piece?),
                Some(_) => return Err(io::Error::other("a line without end")),
                None if pending.is_empty() => return Ok(None),
                None => return Ok(Some((pending.split().freeze(), (pieces, pending)))),
            }
        }
    })
}

/// Makes an error response, in the form of the API that the client speaks.
fn refuse(problem: &Problem, is_etcd: bool) -> Response<ResponseBody> {
    let text = match is_etcd {
        false => serde_json::to_vec(problem),
        // 14 is the code of gRPC for "unavailable", 7 for "permission denied".
        true => serde_json::to_vec(&serde_json::json!({
            "error": problem.message, "message": problem.message, "code": if problem.status == 403 { 7 } else { 14 },
        })),
    };
    let body = Full::new(Bytes::from(text.unwrap_or_default())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_on_only_paths_of_the_api() {
        for path in ["/v1/kv/a", "/v1/kv/..a", "/v3/kv/range", "/v3beta/watch", "/version"] {
            assert!(is_served(path), "{path}");
        }
        for path in ["/", "/v2/keys", "/v1", "/internal/v1/x", "/v1/../x", "/v1/%2E%2e/x", "/v1/kv/.", "/version/x"] {
            assert!(!is_served(path), "{path}");
        }
    }

    #[tokio::test]
    async fn a_line_is_one_chunk_however_it_arrives() {
        let pieces = ["{\"a\"", ":1}\n{}", "\n{}\n", "{"].map(|piece| Ok(Bytes::from(piece)));
        let cut: Vec<Bytes> = lines(stream::iter(pieces)).map(|line| line.expect("a line")).collect().await;
        assert_eq!(cut, ["{\"a\":1}\n", "{}\n", "{}\n", "{"]);
    }
}
