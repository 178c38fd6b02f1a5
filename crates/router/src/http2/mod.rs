//! Streams of HTTP/2, between this router and a client or another machine's router.
//!
//! - [`body`]: bodies and changed protocols over a stream.
//! - [`responder`]: the response's side of a request: interim responses, and the end of a request that the other side gave
//!   up.
//!
//! The router serves HTTP/2 with `h2` itself: hyper sends no interim responses over HTTP/2.

pub(crate) mod body;
pub(crate) mod responder;
