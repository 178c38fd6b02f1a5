//! Transfer of a layer from another machine: one request over mutual TLS to the machine's router.
//!
//! The agent runs as root, so it reads as little as it can of the peer: the status, the words of a refusal, and bytes that
//! count for nothing before their digest is verified. The peer has shown the certificate of the machine that the server
//! named.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_model::{MachineName, TunnelAddress};
use gantry_trust::PeerName;
use http::{HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::{BodyDataStream, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;

use super::cache::PartError;
use super::receiver::RangeReceiver;

/// Request field with the layer's digest, as the router reads it.
const LAYER: &str = "gantry-tunnel-layer";

/// Request field with the number of bytes to send. Routers of earlier versions send the layer to its end.
const LENGTH: &str = "gantry-tunnel-layer-length";

/// Response field with the reason of a refusal.
const REASON: &str = "gantry-tunnel-reason";

/// Longest time for a connection with its handshake, and for the head of the response.
const CONNECT: Duration = Duration::from_secs(3);

/// Longest time between two pieces.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A source is too slow if it brings less than [`PACE_BYTES`] in each interval.
const PACE_INTERVAL: Duration = Duration::from_secs(10);
const PACE_BYTES: u64 = 640 << 10;

/// Flow-control windows of the stream and of the connection, and most bytes of a response's head.
const WINDOW: u32 = 4 << 20;
const HEAD_MAX: u32 = 16 << 10;

/// Maximum number of characters of a refusal's reason.
const REASON_MAX: usize = 200;

/// Reason why a machine failed as a source.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("the server named no address of the machine")]
    NoAddress,
    #[error("cannot connect to {0}")]
    Connect(TunnelAddress, #[source] io::Error),
    #[error("no answer from the machine for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the machine answered {status}: {reason}")]
    Refused { status: StatusCode, reason: String },
    #[error("the connection to the machine ended early")]
    Broken(#[source] hyper::Error),
    #[error("the machine is slow: {bytes} bytes in {} s", PACE_INTERVAL.as_secs())]
    Slow { bytes: u64 },
    #[error(transparent)]
    Part(#[from] PartError),
}

/// A connection to the router of a machine.
pub(super) struct PeerConnection {
    requests: SendRequest<Empty<Bytes>>,
    /// Moves the bytes of the connection. Requests fail by themselves when the connection ends.
    driver: Pin<Box<dyn Future<Output = Infallible> + Send>>,
}

impl PeerConnection {
    /// Connects to a machine.
    pub(super) async fn open(
        tls: &Arc<ClientConfig>,
        machine: &MachineName,
        addresses: &[TunnelAddress],
    ) -> Result<Self, PeerError> {
        let stream = connect(tls, machine, addresses).await?;
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_header_list_size(HEAD_MAX);
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let handshake = tokio::time::timeout(CONNECT, builder.handshake(TokioIo::new(stream))).await;
        let (requests, connection) = handshake.map_err(|_| PeerError::Silent(CONNECT))?.map_err(PeerError::Broken)?;
        let driver = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        Ok(Self { requests, driver: Box::pin(driver) })
    }

    /// Fetches the rest of a layer, or of a part of one.
    pub(super) async fn fetch(&mut self, receiver: &mut RangeReceiver) -> Result<(), PeerError> {
        let Self { requests, driver } = self;
        let transfer = async {
            let answer = tokio::time::timeout(CONNECT, requests.send_request(request(receiver))).await;
            let answer = answer.map_err(|_| PeerError::Silent(CONNECT))?.map_err(PeerError::Broken)?;
            if answer.status() != StatusCode::OK {
                let reason = answer.headers().get(REASON).and_then(|reason| reason.to_str().ok()).unwrap_or_default();
                let reason = reason.chars().take(REASON_MAX).collect();
                return Err(PeerError::Refused { status: answer.status(), reason });
            }
            receive(BodyDataStream::new(answer.into_body()), receiver).await
        };
        // Bytes that arrived before the end of the connection are read first.
        tokio::select! {
            biased;
            result = transfer => result,
            never = driver => match never {},
        }
    }
}

fn request(receiver: &RangeReceiver) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static("http://tunnel/");
    let headers = request.headers_mut();
    // A digest and a number are always values of fields.
    headers.extend(receiver.layer().as_str().parse().map(|digest| (http::HeaderName::from_static(LAYER), digest)));
    headers.extend(format!("bytes={}-", receiver.rest().start).parse().map(|range| (header::RANGE, range)));
    let length = receiver.requested_length().map(HeaderValue::from);
    headers.extend(length.map(|length| (http::HeaderName::from_static(LENGTH), length)));
    request
}

/// Connects to the first address that answers.
async fn connect(
    tls: &Arc<ClientConfig>,
    machine: &MachineName,
    addresses: &[TunnelAddress],
) -> Result<TlsStream<TcpStream>, PeerError> {
    let name = PeerName::Machine(machine.clone()).server_name();
    let mut last = PeerError::NoAddress;
    for address in addresses {
        let connected = async {
            let stream = TcpStream::connect(address.to_string()).await?;
            gantry_linux::connection::set_stream_options(&stream, Some(STALL_TIMEOUT));
            TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream).await
        };
        match tokio::time::timeout(CONNECT, connected).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = PeerError::Connect(address.clone(), error),
            Err(_) => last = PeerError::Silent(CONNECT),
        }
    }
    Err(last)
}

/// Receives the bytes. A source that stalls or is slow fails.
async fn receive(mut pieces: BodyDataStream<Incoming>, receiver: &mut RangeReceiver) -> Result<(), PeerError> {
    let mut interval = (Instant::now(), receiver.received());
    while !receiver.has_enough() {
        let piece =
            tokio::time::timeout(STALL_TIMEOUT, pieces.next()).await.map_err(|_| PeerError::Silent(STALL_TIMEOUT))?;
        let Some(piece) = piece else { break };
        receiver.write(&piece.map_err(PeerError::Broken)?).await?;
        if interval.0.elapsed() >= PACE_INTERVAL {
            let bytes = receiver.received() - interval.1;
            if bytes < PACE_BYTES && !receiver.is_whole() {
                return Err(PeerError::Slow { bytes });
            }
            interval = (Instant::now(), receiver.received());
        }
    }
    Ok(receiver.check_length()?)
}

#[cfg(test)]
mod tests;
