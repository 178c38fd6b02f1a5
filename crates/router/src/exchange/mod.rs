//! One request, from its arrival to the last byte of the response.
//!
//! `serve` begins: `admit` applies the limits of the app, `buffer` reads the body, `find` chooses an instance, `attempt`
//! sends the request, and `respond` passes the response on. `http_exchange` holds the state and the order of these steps.

pub(crate) mod access_log;
mod admit;
mod attempt;
mod buffer;
mod error_response;
mod find;
pub(crate) mod forward;
mod http_exchange;
mod log_entry;
pub(crate) mod origin;
mod respond;
pub(crate) mod response_body;
pub(crate) mod router_state;
pub(crate) mod serve;
pub(crate) mod upgrade;
pub(crate) mod upgrade_tunnel;
