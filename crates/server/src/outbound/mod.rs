//! Requests to receivers of others: subscribers of push queues, and callbacks of jobs.
//!
//! - [`OutboundClient`]: one POST request, with a deadline. Begin there.
//! - `addresses`: the addresses that no request may reach, unless the cluster's policy allows them.
//! - `slots`: how many requests run at the same time, overall and for each host.
//!
//! A URL comes from a user, and the server stands inside of the private network. So a private address is refused after the
//! name is resolved, and the request goes to the very address that was checked: a name that is resolved again (DNS
//! rebinding) gains nothing. Redirects are not followed, and proxies of the environment are not used.

mod addresses;
mod client;
mod slots;

pub(crate) use self::addresses::check_literal;
pub(crate) use self::client::{OutboundClient, OutboundError, OutboundRequest};
pub(crate) use self::slots::{HostSlots, PER_HOST};
