//! One request on its way to the leader, with its streams and upgrades.
//!
//! A machine that reaches a follower has shown its certificate to the follower alone. The follower names the machine in a
//! header, which the leader takes from servers of the cluster and from no one else.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use gantry_model::MachineName;
use gantry_trust::Peer;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::transport::{ServerConnection, TransportError};

/// Header of a forwarded request. A server that does not lead forwards no request with this header.
const FORWARDED: HeaderName = HeaderName::from_static("gantry-forwarded");

/// Header with the peer of the client's connection, as JSON.
const CLIENT: HeaderName = HeaderName::from_static("gantry-client");

/// The server that forwarded a request, by its certificate. The name of the client rests on its word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardingServer(pub(crate) MachineName);

/// Headers that describe one connection alone (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, HeaderName::from_static("keep-alive"), header::TE, header::TRAILER, header::TRANSFER_ENCODING];

/// Returns whether another server has forwarded the request.
pub(super) fn was_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED)
}

/// Gives a forwarded request the peer of the client's own connection. Without a certificate of a server, the header counts
/// for nothing.
pub(super) fn restore_client(request: &mut Request) {
    let named = request.headers_mut().remove(CLIENT);
    let Some(Peer::Machine { name, is_server: true, .. }) = request.extensions().get::<Peer>() else { return };
    let server = ForwardingServer(name.clone());
    if was_forwarded(request.headers()) {
        let client = named.and_then(|named| serde_json::from_slice(named.as_bytes()).ok());
        request.extensions_mut().insert(client.unwrap_or(Peer::Anonymous));
        request.extensions_mut().insert(server);
    }
}

/// Sends the request to the leader and returns its response. An upgraded connection is joined with the client's until
/// `ended` is cancelled.
pub(super) async fn forward(
    leader: ServerConnection,
    mut request: Request,
    ended: &CancellationToken,
) -> Result<Response, TransportError> {
    let client = request.extensions_mut().remove::<OnUpgrade>();
    let mut response = leader.send(outgoing(request)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let leader = hyper::upgrade::on(&mut response);
        if let Some(client) = client {
            let ended = ended.clone();
            #[expect(clippy::disallowed_methods, reason = "the client and the leader see the end of the connection")]
            tokio::spawn(async move { ended.run_until_cancelled(join(client, leader)).await });
        }
    } else {
        HOP_BY_HOP.iter().for_each(|name| drop(response.headers_mut().remove(name)));
    }
    Ok(response.map(Body::new))
}

/// The request as the leader gets it.
fn outgoing(request: Request) -> Request {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    parts.uri = path;
    let is_upgrade = parts.headers.contains_key(header::UPGRADE);
    for name in HOP_BY_HOP.iter().filter(|name| !(is_upgrade && **name == header::CONNECTION)) {
        parts.headers.remove(name);
    }
    // This server has told the client to go on by reading the body.
    parts.headers.remove(header::EXPECT);
    parts.headers.insert(FORWARDED, HeaderValue::from_static("1"));
    parts.headers.remove(CLIENT);
    let client = parts.extensions.get::<Peer>().and_then(|peer| serde_json::to_vec(peer).ok());
    if let Some(client) = client.and_then(|client| HeaderValue::from_bytes(&client).ok()) {
        parts.headers.insert(CLIENT, client);
    }
    Request::from_parts(parts, body)
}

/// Passes bytes both ways until both sides have ended.
async fn join(client: OnUpgrade, leader: OnUpgrade) {
    if let (Ok(client), Ok(leader)) = tokio::join!(client, leader) {
        let (mut client, mut leader) = (TokioIo::new(client), TokioIo::new(leader));
        let _ = tokio::io::copy_bidirectional(&mut client, &mut leader).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(headers: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::builder().uri("http://h/v1/apps?x=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        outgoing(request.body(Body::empty()).expect("a request"))
    }

    #[test]
    fn a_forwarded_request_is_marked_and_keeps_headers_for_the_leader() {
        let request = sent(&[("authorization", "Bearer x"), ("connection", "close"), ("expect", "100-continue")]);
        assert_eq!(request.uri(), "/v1/apps?x=1");
        assert!(was_forwarded(request.headers()));
        assert_eq!(request.headers()["authorization"], "Bearer x");
        assert!(!request.headers().contains_key("connection") && !request.headers().contains_key("expect"));
        let upgrade = sent(&[("connection", "upgrade"), ("upgrade", "gantry-session")]);
        assert_eq!(upgrade.headers()["connection"], "upgrade");
        assert_eq!(upgrade.headers()["upgrade"], "gantry-session");
    }

    fn peer(name: &str, is_server: bool) -> Peer {
        let key = serde_json::from_value(format!("04{}", "ab".repeat(64)).into()).expect("a key");
        Peer::Machine { name: name.parse().expect("a name"), key, is_server }
    }

    /// The client of a request that `client` sent to a follower, as a server sees it that takes the request from `sender`.
    fn received(client: &Peer, sender: &Peer) -> (Peer, Option<ForwardingServer>) {
        let mut request = Request::builder().header(CLIENT, "\"anonymous\"").body(Body::empty()).expect("a request");
        request.extensions_mut().insert(client.clone());
        let mut request = outgoing(request);
        request.extensions_mut().insert(sender.clone());
        restore_client(&mut request);
        assert!(!request.headers().contains_key(CLIENT));
        let extensions = request.extensions();
        (extensions.get().cloned().expect("a peer"), extensions.get().cloned())
    }

    #[test]
    fn a_server_alone_may_name_the_client_of_a_request() {
        let (server, agent) = (peer("m2", true), peer("m4", false));
        let forwarding = Some(ForwardingServer("m2".parse().expect("a name")));
        for client in [agent.clone(), Peer::Anonymous] {
            assert_eq!(received(&client, &server), (client, forwarding.clone()), "not the server itself");
        }
        for sender in [peer("m5", false), Peer::Anonymous] {
            assert_eq!(received(&agent, &sender), (sender, None));
        }
        let mut unnamed = Request::builder().header(FORWARDED, "1").body(Body::empty()).expect("a request");
        unnamed.extensions_mut().insert(server);
        restore_client(&mut unnamed);
        assert_eq!(unnamed.extensions().get(), Some(&Peer::Anonymous));
    }
}
