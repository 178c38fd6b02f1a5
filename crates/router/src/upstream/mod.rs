//! Connections to instances: HTTP/1.1 by our own code, HTTP/2 by hyper, and the pool of kept connections.
//!
//! Knows no route, limit or log.

pub(crate) mod connection;
pub(crate) mod http1;
pub(crate) mod pool;
pub(crate) mod response_body;
pub(crate) mod switched;
