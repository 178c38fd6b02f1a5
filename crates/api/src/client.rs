//! Typed client of the HTTP API. Hand-written, because client generators support neither newline-delimited streams nor
//! connection upgrades.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyDataStream, BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::{Client as Pool, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use crate::problem::Problem;
use crate::transport::{Connector, Servers};

/// Timeout of a response. Long polls are shorter.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Largest response that the client reads into memory.
const ANSWER_MAX: usize = 64 << 20;

/// Cause of a failed call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server returned an error response.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The server is unreachable.
    #[error("cannot reach the server at {url}")]
    Unreachable {
        /// URL of the server.
        url: String,
        /// Cause of the failed connection.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server returned an unexpected response.
    #[error("the server at {url} sent an unexpected response: {what}")]
    Answer {
        /// URL of the server.
        url: String,
        /// Description of the response.
        what: String,
    },
}

type Body = BoxBody<Bytes, io::Error>;

/// Client of a server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pool: Pool<Connector, Body>,
    /// URL of the server, for people.
    url: String,
    /// Beginning of each request's URL.
    base: String,
    /// None for a machine that its certificate authenticates.
    token: Option<String>,
}

/// An upgraded connection that carries frames in both directions.
pub struct Session(TokioIo<hyper::upgrade::Upgraded>);

impl AsyncRead for Session {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Session {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Longest time that a connection to one of several servers waits for the next request. A request on a connection to a machine
/// that has lost its power gets no response, and no other server is tried.
const IDLE: Duration = Duration::from_secs(2);

/// Timeout of the next piece of a blob.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

impl Client {
    /// Creates a client of the server at `url` (`http://127.0.0.1:4680`).
    #[must_use]
    pub fn new(url: &str, token: &str) -> Self {
        let mut connector = HttpConnector::new();
        // Otherwise the kernel keeps the end of a streamed body for 40 ms, until the server acknowledges what came before.
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new()).build(Connector::Plain(connector));
        let url = url.trim_end_matches('/').to_owned();
        Self { pool, base: url.clone(), url, token: Some(token.to_owned()) }
    }

    /// Creates a client of a cluster's servers over TLS. Each new connection goes to the first server that can be
    /// reached. Without a token, the certificate of the TLS configuration authenticates the client.
    #[must_use]
    pub fn over_tls(servers: Servers, token: Option<String>) -> Self {
        let url = format!("https://{}", servers.addresses().join(","));
        // The connector adds TLS, and ignores the host.
        let base = "http://server.gantry.internal".to_owned();
        let mut pool = Pool::builder(TokioExecutor::new());
        let pool = pool.pool_idle_timeout(IDLE).build(Connector::Tls(servers));
        Self { pool, url, base, token }
    }

    /// URL of the server.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Unreachable { url: self.url.clone(), source: source.into() }
    }

    pub(crate) fn invalid_response(&self, what: impl ToString) -> ClientError {
        ClientError::Answer { url: self.url.clone(), what: what.to_string() }
    }

    fn authorized(&self, request: http::request::Builder) -> http::request::Builder {
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    async fn send(&self, request: http::request::Builder, body: Body) -> Result<Response<Incoming>, ClientError> {
        let request = self.authorized(request).body(body).map_err(|error| self.invalid_response(error))?;
        let response = tokio::time::timeout(TIMEOUT, self.pool.request(request))
            .await
            .map_err(|elapsed| self.unreachable(elapsed))?
            .map_err(|error| self.unreachable(error))?;
        self.check_response(response).await
    }

    /// Turns an error response into an error and passes any other response on.
    async fn check_response(&self, response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let status = response.status();
        let text = self.collect(response).await?;
        Err(match serde_json::from_slice::<Problem>(&text) {
            Ok(problem) => problem.into(),
            Err(_) => self.invalid_response(status),
        })
    }

    /// Sends a request as it is, and returns the response as it is, also an error response. Without a timeout, the
    /// caller waits as long as the server does.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn forward(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        timeout: Option<Duration>,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, "application/json");
        let request = self.authorized(request).body(full_body(body));
        let request = request.map_err(|error| self.invalid_response(error))?;
        let response = self.pool.request(request);
        let response = match timeout {
            Some(timeout) => tokio::time::timeout(timeout, response).await.map_err(|late| self.unreachable(late))?,
            None => response.await,
        };
        response.map_err(|error| self.unreachable(error))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
        let collected = tokio::time::timeout(TIMEOUT, body.collect()).await.map_err(|e| self.unreachable(e))?;
        Ok(collected.map_err(|error| self.unreachable(error))?.to_bytes())
    }

    /// Sends a request and parses the JSON response.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, "application/json");
        let response = self.send(request, full_body(body)).await?;
        let text = self.collect(response).await?;
        let text = if text.is_empty() { &b"null"[..] } else { &text[..] };
        serde_json::from_slice(text).map_err(|error| self.invalid_response(error))
    }

    /// Sends a `GET`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Sends a value as the JSON body of a `POST`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.invalid_response(error))?;
        self.call(Method::POST, path, body.into()).await
    }

    /// Sends a file as the body of a `POST` and streams the file. No timeout covers the upload, only the connection's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn upload<T: DeserializeOwned>(&self, path: &str, file: std::fs::File) -> Result<T, ClientError> {
        let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 256 << 10);
        self.upload_body(path, BodyExt::boxed(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))))).await
    }

    /// Sends pieces as the body of a `POST`, as they arrive. An error among them breaks the upload off. No timeout covers
    /// the upload, only the connection's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn upload_pieces<T: DeserializeOwned>(
        &self,
        path: &str,
        mut pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<T, ClientError> {
        let pieces = stream::poll_fn(move |cx| pieces.poll_recv(cx));
        self.upload_body(path, BodyExt::boxed(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))))).await
    }

    async fn upload_body<T: DeserializeOwned>(&self, path: &str, body: Body) -> Result<T, ClientError> {
        let request = Request::builder().method(Method::POST).uri(format!("{}{path}", self.base));
        let request = self.authorized(request).body(body).map_err(|error| self.invalid_response(error))?;
        let response = self.pool.request(request).await.map_err(|error| self.unreachable(error))?;
        let text = self.collect(self.check_response(response).await?).await?;
        serde_json::from_slice(&text).map_err(|error| self.invalid_response(error))
    }

    /// Sends bytes as the body of a `POST`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, ClientError> {
        let request = Request::builder().method(Method::POST).uri(format!("{}{path}", self.base));
        let text = self.collect(self.send(request, full_body(body)).await?).await?;
        serde_json::from_slice(&text).map_err(|error| self.invalid_response(error))
    }

    /// Streams a blob by `GET`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stream(&self, path: &str) -> Result<BoxStream<'static, io::Result<Bytes>>, ClientError> {
        self.stream_from(path, 0).await
    }

    /// Streams the rest of a blob by `GET`, from the byte at `offset` on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stream_from(
        &self,
        path: &str,
        offset: u64,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, ClientError> {
        let mut request = Request::builder().uri(format!("{}{path}", self.base));
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        self.stream_body(request, offset > 0).await
    }

    /// Streams a part of a blob by `GET`. The range is not empty.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stream_range(
        &self,
        path: &str,
        range: std::ops::Range<u64>,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, ClientError> {
        let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let request = Request::builder().uri(format!("{}{path}", self.base)).header(header::RANGE, range);
        self.stream_body(request, true).await
    }

    async fn stream_body(
        &self,
        request: http::request::Builder,
        is_part: bool,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, ClientError> {
        let response = self.send(request, full_body(Vec::new())).await?;
        if is_part && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.invalid_response("the whole blob instead of a part"));
        }
        Ok(until_silent(data(response.into_body())))
    }

    /// Gets bytes, with an `Accept` header.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn bytes(&self, path: &str, accept: &str) -> Result<Bytes, ClientError> {
        let request = Request::builder().uri(format!("{}{path}", self.base)).header(header::ACCEPT, accept);
        let response = self.send(request, full_body(Vec::new())).await?;
        self.collect(response).await
    }

    /// Streams newline-delimited JSON: each line becomes an item as soon as the line has arrived.
    pub(crate) async fn lines<T: DeserializeOwned + Send + 'static>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<BoxStream<'static, Result<T, ClientError>>, ClientError> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let response = self.send(request, full_body(body)).await?;
        let client = self.clone();
        let lines = split_lines(data(response.into_body())).map(move |line| {
            let line = line.map_err(|error| client.unreachable(error))?;
            serde_json::from_slice(&line).map_err(|error| client.invalid_response(error))
        });
        Ok(lines.boxed())
    }

    /// Opens a session: upgrades the connection to frames.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn session(&self, path: &str, body: Bytes) -> Result<Session, ClientError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "gantry-session");
        let response = self.send(request, full_body(body)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.invalid_response("no session"));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.unreachable(error))?;
        Ok(Session(TokioIo::new(upgraded)))
    }
}

fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn data(body: Incoming) -> BoxStream<'static, io::Result<Bytes>> {
    BodyDataStream::new(body).map(|piece| piece.map_err(io::Error::other)).boxed()
}

/// Ends a stream of pieces with its first error, also if no piece comes for [`STALL_TIMEOUT`]. A connection to a
/// machine that has lost its power never ends by itself.
fn until_silent(pieces: BoxStream<'static, io::Result<Bytes>>) -> BoxStream<'static, io::Result<Bytes>> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "the server fell silent");
    let next = move |pieces: Option<BoxStream<'static, io::Result<Bytes>>>| async move {
        let mut pieces = pieces?;
        let piece = tokio::time::timeout(STALL_TIMEOUT, pieces.next()).await.unwrap_or_else(|_| Some(Err(silent())))?;
        let rest = piece.is_ok().then_some(pieces);
        Some((piece, rest))
    };
    stream::unfold(Some(pieces), next).boxed()
}

/// Splits a stream of bytes into lines.
fn split_lines(bytes: BoxStream<'static, io::Result<Bytes>>) -> BoxStream<'static, io::Result<Vec<u8>>> {
    let state = (bytes, BytesMut::new());
    stream::try_unfold(state, async |(mut bytes, mut pending)| {
        loop {
            if let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end + 1);
                return Ok(Some((line[..end].to_vec(), (bytes, pending))));
            }
            match bytes.next().await {
                Some(piece) if pending.len() < ANSWER_MAX => pending.extend_from_slice(&piece?),
                Some(_) => return Err(io::Error::other("a line without end")),
                None => return Ok(None),
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_ends_the_stream_of_a_blob() {
        let piece = || Ok(Bytes::from_static(b"piece"));
        let mut silent = until_silent(stream::iter([piece()]).chain(stream::pending()).boxed());
        assert_eq!(silent.next().await.expect("a piece").expect("no error"), "piece");
        let begun = tokio::time::Instant::now();
        let error = silent.next().await.expect("an end with a cause").expect_err("silence");
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, STALL_TIMEOUT));
        assert!(silent.next().await.is_none(), "the stream goes on after its error");
        let broken = Err(io::Error::other("reset"));
        let mut broken = until_silent(stream::iter([piece(), broken, piece()]).boxed());
        assert!(broken.next().await.is_some_and(|piece| piece.is_ok()));
        assert!(broken.next().await.is_some_and(|piece| piece.is_err()));
        assert!(broken.next().await.is_none());
        let whole = until_silent(stream::iter([piece(), piece()]).boxed());
        assert_eq!(whole.count().await, 2);
    }
}
