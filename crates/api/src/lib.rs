//! The HTTP API: request and response types, and the typed client.
//!
//! - [`endpoints`]: every endpoint of the public API and of the API for applications, declared once; [`endpoint`] says
//!   what a declaration states. Begin there.
//! - [`openapi`]: the OpenAPI documents, made from the declarations and the [`samples`] of their types.
//! - [`types`]: JSON requests and responses. Public paths begin with `/v1`, paths for Gantry's own services with
//!   `/internal/v1`.
//! - [`volumes`]: requests and responses about volumes.
//! - [`jobs`]: container jobs and their queues. [`schedules`]: their schedules.
//! - [`locks`]: locks of an app. [`keys`], [`services`]: keys of an app and services of all apps, for containers.
//! - [`policy`]: requests and responses about the cluster policy.
//! - [`problem`]: the error type of every endpoint.
//! - [`Client`]: for the command line, agent and router. One connection pool; a timeout on every call except an upload.
//! - [`frame`]: the frames of a session (exec, run, logs) on an upgraded connection.

mod calls;
pub mod client;
pub mod codes;
mod deploy_failure;
pub mod endpoint;
pub mod endpoints;
pub mod frame;
pub mod jobs;
pub mod keys;
pub mod locks;
pub mod openapi;
pub mod policy;
pub mod problem;
pub mod samples;
pub mod schedules;
pub mod services;
mod transport;
pub mod types;
pub mod volumes;

pub use calls::LineStream;
pub use client::{Client, ClientError, Session};
pub use deploy_failure::{deploy_failure_code, failure_code};
pub use gantry_error_codes::{ErrorCode, ReceivedCode};
pub use problem::Problem;
pub use transport::Servers;
