//! Requests between servers: one connection for each request, over mutual TLS. Servers that have joined no cluster speak
//! without TLS, on one computer alone.
//!
//! An upgraded connection is lost to every other request, and a connection that fails before the request is sent proves
//! that the other server has not begun the request.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use gantry_trust::PeerName;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::membership::Membership;
use crate::settings::PeerAddress;

/// Timeout of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Timeout of a call with a small body.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest response that is read into memory: the list of all blobs of a server.
const RESPONSE_MAX: usize = 64 << 20;

/// Failure of a request to another server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// The server does not answer. The request was not sent.
    #[error("server {name} does not answer at {address}")]
    Silent { name: String, address: String },
    /// The connection failed. The request was not sent.
    #[error("cannot connect to server {name} at {address}")]
    Connect {
        name: String,
        address: String,
        #[source]
        source: std::io::Error,
    },
    /// The server speaks without TLS, and is not on this computer.
    #[error(
        "server {name} at {address} has no certificate of a cluster; let it join with `gantry join SERVER:PORT --token TOKEN`"
    )]
    Plain { name: String, address: String },
    /// This server has no certificate yet.
    #[error("this server has no certificate of the cluster yet")]
    NoCertificate,
    /// This server has not read the secret of the servers yet.
    #[error("the store has no secret of the servers yet")]
    NoSecret,
    /// The request failed on its way.
    #[error("the connection to another server failed")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The response did not come in time.
    #[error("another server did not respond in time")]
    Slow,
    /// The server refused the request.
    #[error("another server refused the request with status {status}: {text}")]
    Refused { status: StatusCode, text: String },
    /// A body cannot be written or read.
    #[error("a message between servers cannot be read")]
    Message(#[source] serde_json::Error),
}

/// A connection for one request.
pub(super) struct ServerConnection(SendRequest<Body>);

/// Connects to a server.
pub(super) async fn connect(
    membership: &Membership,
    name: &str,
    PeerAddress { address, tls }: &PeerAddress,
) -> Result<ServerConnection, TransportError> {
    let connector = tls.then(|| membership.connector().ok_or(TransportError::NoCertificate)).transpose()?;
    let (name, address) = (name.to_owned(), address.to_owned());
    if connector.is_none() && !is_loopback(&address) {
        return Err(TransportError::Plain { name, address });
    }
    // A server is known by its name, so that no other machine passes for it.
    let peer = name.parse().map_or(PeerName::Server, PeerName::Machine).server_name();
    let connecting = async {
        let stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        match connector {
            Some(connector) => begin(connector.connect(peer, stream).await?).await,
            None => begin(stream).await,
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(source)) => Err(TransportError::Connect { name, address, source }),
        Err(_) => Err(TransportError::Silent { name, address }),
    }
}

/// Begins HTTP on a connection.
async fn begin(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> std::io::Result<ServerConnection> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    #[expect(clippy::disallowed_methods, reason = "the sender of requests sees the end of the connection")]
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(ServerConnection(sender))
}

/// Returns whether an address of IP and port names this computer.
fn is_loopback(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}

impl ServerConnection {
    /// Sends the request of a client.
    pub(super) async fn send(mut self, request: Request<Body>) -> Result<Response<Incoming>, TransportError> {
        self.0.send_request(request).await.map_err(|error| TransportError::Http(error.into()))
    }
}

/// Builds a request of this server's own.
pub(super) fn request(
    membership: &Membership,
    method: Method,
    path: &str,
    body: Body,
) -> Result<Request<Body>, TransportError> {
    let secret = membership.secret().ok_or(TransportError::NoSecret)?;
    let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {secret}"));
    let request = request.header(CONTENT_TYPE, "application/json").header("host", "server");
    request.body(body).map_err(|error| TransportError::Http(error.into()))
}

/// Sends a request of this server's own, and returns the successful response.
pub(super) async fn send(
    membership: &Membership,
    (name, address): (&str, &PeerAddress),
    request: Request<Body>,
) -> Result<Response<Incoming>, TransportError> {
    let response = connect(membership, name, address).await?.send(request).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let text = collect(response).await.unwrap_or_default();
    Err(TransportError::Refused { status, text: String::from_utf8_lossy(&text).chars().take(300).collect() })
}

/// Sends a JSON value, and reads the JSON response.
pub(super) async fn call<T: DeserializeOwned>(
    membership: &Membership,
    to: (&str, &PeerAddress),
    (method, path): (Method, &str),
    value: &impl Serialize,
) -> Result<T, TransportError> {
    let body = Body::from(serde_json::to_vec(value).map_err(TransportError::Message)?);
    let request = request(membership, method, path, body)?;
    let calling = async { collect(send(membership, to, request).await?).await };
    let text = tokio::time::timeout(CALL_TIMEOUT, calling).await.map_err(|_| TransportError::Slow)??;
    serde_json::from_slice(&text).map_err(TransportError::Message)
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, TransportError> {
    let body = Limited::new(response.into_body(), RESPONSE_MAX).collect().await;
    Ok(body.map_err(TransportError::Http)?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::membership::tests::membership;

    #[tokio::test]
    async fn only_servers_of_one_computer_speak_without_tls() {
        let (own, to) = (membership("one"), |address: &str, tls| PeerAddress { address: address.to_owned(), tls });
        let refused = async |address: &str, tls| connect(&own, "two", &to(address, tls)).await.err();
        assert!(matches!(refused("127.0.0.1:1", false).await, Some(TransportError::Connect { .. })));
        for address in ["10.0.0.2:4680", "two:4680"] {
            assert!(matches!(refused(address, false).await, Some(TransportError::Plain { .. })), "{address}");
        }
        assert!(matches!(refused("10.0.0.2:7000", true).await, Some(TransportError::NoCertificate)));
    }
}
