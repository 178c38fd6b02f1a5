//! Tunnels to the routers of the cluster's other machines: HTTP/2 over mutual TLS.
//!
//! ```text
//! client ─► router of the entry machine ─► tunnel ══ mutual TLS, HTTP/2 ══► tunnel_listener ─► instance of that machine
//!           route, limits, forwarding headers,                              counts the request for the drain,
//!           choice of the target, retries, access log                       knows its own machine alone
//! ```
//! - [`wire`]: the fields that the routers add to a request and a response.
//! - [`peer`]: another machine's router: connections, and ejection when the router does not answer.
//! - [`remote_request`]: one request to an allocation of the other machine.
//! - [`lane`]: short requests on one stream; [`frames`] and [`frame_queue`] are its format and its sending side.
//! - [`lanes`]: the lanes of a connection.
//!
//! This module is the half that connects, below `upstream` and `routes`. `tunnel_listener` is the half that serves, beside
//! `listener`; both halves use `wire`.
//!
//! A tunnelled request names the allocation. The peer looks the allocation up among those of its own machine and
//! never sends the request to a third machine, so no request can go in circles. An allocation that is gone is refused,
//! and the entry router tries another target; an address never leads to a wrong container.
//!
//! The crate `trust` verifies both routers: the listener takes connections of machines that the routing table names, and
//! a connection accepts the router of one machine alone.
//!
//! A short request shares a stream, a *lane*, with others. Every other request has a stream of its own.
//!
//! The entry router sends a streamed body only after the peer's `100 Continue`, so that a refused request is still whole.
//! An upgraded connection is a request whose both bodies stay open; extended CONNECT would have no place for the body of
//! an instance that declines.

/// Name of the protocol in TLS (ALPN).
pub(crate) const ALPN: &[u8] = b"h2";

pub(crate) mod frame_queue;
pub(crate) mod frames;
pub(crate) mod lane;
pub(crate) mod lanes;
pub(crate) mod peer;
pub(crate) mod remote_request;
pub(crate) mod wire;
