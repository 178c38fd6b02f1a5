//! Connections of clients: the byte stream below hyper, the peer, and the request body up to the choice of an instance.
//!
//! Knows no app, route or instance.

pub(crate) mod body;
pub(crate) mod buffer;
pub(crate) mod interim;
pub(crate) mod peer;
pub(crate) mod proxy_protocol;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod upgrade;
