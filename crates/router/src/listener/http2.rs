//! One HTTP/2 connection of a client.
//!
//! Some clients fail every open stream of a connection once they read a GOAWAY, among them the `HttpClient` of Java 17. At
//! the router's shutdown, the connection therefore sends GOAWAY at the first moment without a stream, right behind the end
//! of the last response. Only a connection that has no such moment gets GOAWAY with streams open.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};

use super::date;
use crate::client::body::ClientBody;
use crate::client::peer::ClientPeer;
use crate::client::upgrade::StreamUpgrade;
use crate::exchange::response_body::ResponseBody;
use crate::exchange::router_state::RouterState;
use crate::exchange::serve::{RequestStream, serve};
use crate::http2::body::BodySender;
use crate::http2::responder::Http2Responder;

/// Longest time for the client's preface and settings.
const HANDSHAKE: Duration = Duration::from_secs(75);

/// Maximum size of the fields of a request in bytes, as HTTP/2 counts them.
const HEADER_LIST_MAX: u32 = 64 * 1024;

/// Maximum number of requests at once on a connection.
const STREAMS_MAX: u32 = 250;

/// Flow-control window of a stream and of a connection, in bytes.
const WINDOW: u32 = 1 << 20;

/// Interval and timeout of the pings that find an unresponsive client.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Longest time that a shutdown waits for a moment without a stream.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// The connection's part in a shutdown of the router.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionEnd {
    /// The router does not shut down.
    None,
    /// The connection waits for a moment without a stream.
    Due,
    /// The connection sends or has sent GOAWAY.
    GoAwaySent,
}

/// Serves the requests of a connection, until the client or the router ends the connection.
pub(super) async fn serve_connection<S>(
    router: Arc<RouterState>,
    peer: Arc<ClientPeer>,
    stream: S,
    mut ending: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = tokio::time::timeout(HANDSHAKE, settings().handshake::<_, Bytes>(stream));
    let Ok(Ok(mut connection)) = handshake.await else { return };
    let Some(pings) = connection.ping_pong() else { return };
    let mut silence = pin!(silence(pings));
    let mut is_silent = false;
    let mut end = ConnectionEnd::None;
    let mut busy = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        tokio::select! {
            accepted = accept(&mut connection, &mut end) => {
                let Some(Ok((request, respond))) = accepted else { return };
                #[expect(clippy::disallowed_methods, reason = "the client sees the end of the stream")]
                tokio::spawn(answer(Arc::clone(&router), Arc::clone(&peer), request, respond));
            }
            _ = ending.changed(), if end == ConnectionEnd::None => {
                end = ConnectionEnd::Due;
                busy.as_mut().reset(tokio::time::Instant::now() + BUSY_MAX);
            }
            () = &mut busy, if end == ConnectionEnd::Due => {
                end = ConnectionEnd::GoAwaySent;
                connection.graceful_shutdown();
            }
            () = &mut silence, if !is_silent => {
                is_silent = true;
                connection.abrupt_shutdown(Reason::NO_ERROR);
            }
        }
    }
}

fn settings() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(HEADER_LIST_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .enable_connect_protocol();
    builder
}

/// Accepts the next request. Tells the client of a shutdown that is due, once everything is sent and no stream is open.
async fn accept<S>(
    connection: &mut Connection<S, Bytes>,
    end: &mut ConnectionEnd,
) -> Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    std::future::poll_fn(|cx| {
        let polled = connection.poll_accept(cx);
        if polled.is_pending() && *end == ConnectionEnd::Due && !connection.has_streams() {
            *end = ConnectionEnd::GoAwaySent;
            connection.graceful_shutdown();
            return connection.poll_accept(cx);
        }
        polled
    })
    .await
}

/// Resolves once the client leaves a ping without an answer.
async fn silence(mut pings: PingPong) {
    loop {
        tokio::time::sleep(PING.0).await;
        match tokio::time::timeout(PING.1, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Serves a request.
async fn answer(
    router: Arc<RouterState>,
    peer: Arc<ClientPeer>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let responder = Http2Responder::new(respond);
    // The stream of a CONNECT has no body: data after the response belong to the other protocol.
    let (request, switch, opened) = if request.method() == Method::CONNECT {
        let (parts, from) = request.into_parts();
        let (opened, to) = oneshot::channel();
        (Request::from_parts(parts, ClientBody::none()), Some(StreamUpgrade { from, to }), Some(opened))
    } else {
        (ClientBody::of_http2(request, &responder), None, None)
    };
    let stream = RequestStream { responder: responder.clone(), switch };
    let response = tokio::select! {
        biased;
        Ok(response) = serve(&router, &peer, request, Some(stream)) => response,
        () = responder.abandoned() => return,
    };
    let (head, body) = response.into_parts();
    let mut response = Response::from_parts(head, ());
    response.headers_mut().entry(DATE).or_insert_with(date::now);
    match opened.filter(|_| response.status().is_success()) {
        Some(opened) => {
            response.headers_mut().remove(CONTENT_LENGTH);
            if let Ok(to_client) = responder.lock().send_response(response, false) {
                let _ = opened.send(to_client);
            }
        }
        None => respond_with(response, body, &responder).await,
    }
}

async fn respond_with(mut response: Response<()>, body: ResponseBody, responder: &Http2Responder) {
    let is_over = body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|_| !is_over) {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let sent = responder.lock().send_response(response, is_over);
    if let Ok(stream) = sent
        && !is_over
    {
        let mut sender = BodySender::to_client(body, stream);
        // A client that reset the stream wants no more of it.
        let _ = std::future::poll_fn(|cx| sender.poll(cx)).await;
    }
}
