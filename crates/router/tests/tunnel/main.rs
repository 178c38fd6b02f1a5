//! Requests to instances of another machine, through the routers of both machines.
//!
//! - `requests`: requests to an allocation of the other machine.
//! - `lanes`: streams that carry many short requests.
//! - `peers`: routers that are gone, silent, late, or not who they claim to be.
//! - `services`: TCP to a role; layers for agents.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

#[path = "../harness/mod.rs"]
mod harness;
mod lanes;
mod peers;
mod requests;
mod services;

use std::net::SocketAddr;

use harness::{app, full};
use http::Response;

/// An instance that responds with its name.
async fn names(name: &'static str) -> SocketAddr {
    app(false, move |_| async move { Response::new(full(name)) }).await
}
