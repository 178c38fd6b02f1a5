//! The shapes of etcd's JSON gateway (`/v3/…`), as etcd 3.4 and 3.5 answer them. Pure: bytes of a request in, a call on a
//! keyspace out, and the reply back into JSON.
//!
//! - [`parse`]: a request. Begin there.
//! - [`Call`]: what a request asks for.
//! - [`response`]: the JSON of responses. As etcd's, it writes 64-bit numbers as strings, and leaves out what is zero,
//!   false or empty.
//! - [`GatewayError`]: error responses with the codes of gRPC.
//!
//! The crate knows no HTTP and no waiting: the server executes the calls.

mod call;
mod error;
mod fields;
mod operation;
pub mod response;

pub use call::{Call, LeaderKey, WatchOrder, parse};
pub use error::{GatewayError, Service};

/// The version that `/version` and the status name: a version of etcd with this API.
pub const ETCD_VERSION: &str = "3.5.0";
