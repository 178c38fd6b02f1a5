//! The HTTP API: what is said over it, and the typed client that says it.
//!
//! - [`types`]: requests and answers, JSON. Paths begin with `/v1`; those of Gantry's own services with `/internal/v1`.
//! - [`problem`]: the one form of an error.
//! - [`Client`]: for the command line, agent and router. One connection pool, a deadline on every call.
//! - [`frame`]: the frames of a session (exec, run, logs) on an upgraded connection.

pub mod client;
pub mod frame;
pub mod problem;
pub mod types;

pub use client::{Client, ClientError, Session};
pub use problem::Problem;
