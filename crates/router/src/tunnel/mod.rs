//! Tunnels between the routers of the cluster's machines: HTTP/2 over mutual TLS.
//!
//! ```text
//! client ─► router of the entry machine ─► connect ══ mutual TLS, HTTP/2 ══► serve ─► instance of that machine
//!           route, limits, forwarding headers,                               counts the request for the drain,
//!           choice of the target, retries, access log                        knows its own machine alone
//! ```
//! - [`wire`]: the fields that the routers add to a request and a response.
//! - [`peer`]: another machine's router: connections, and ejection when the router does not answer.
//! - [`ask`]: one request to an allocation of the other machine.
//! - [`service`]: TCP to a role at its virtual address.
//! - [`layers`]: layers of images that the agent of this machine has verified, for agents of other machines.
//! - [`serve`]: the listener of tunnels. [`answer`]: one request of another router.
//!
//! A tunnelled request names the allocation. The peer looks the allocation up among those of its own machine and
//! never sends the request to a third machine, so no request can go in circles. An allocation that is gone is refused,
//! and the entry router tries another target; an address never leads to a wrong container.
//!
//! `peer` and `ask` lie below `routes`; `layers`, `service`, `serve` and `answer` beside `listener`.
//!
//! The crate `trust` verifies both routers: the listener takes connections of machines that the routing table names, and
//! a connection accepts the router of one machine alone.
//!
//! The entry router sends a streamed body only after the peer's `100 Continue`, so that a refused request is still whole.
//! An upgraded connection is a request whose both bodies stay open; extended CONNECT would have no place for the body of
//! an instance that declines.

/// Name of the protocol in TLS (ALPN).
pub(crate) const ALPN: &[u8] = b"h2";

pub(crate) mod answer;
pub(crate) mod ask;
pub(crate) mod layers;
pub(crate) mod peer;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod wire;
