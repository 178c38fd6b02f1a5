//! Routes: which app a host name belongs to, its instances, and their state.
//!
//! Decides which instance gets a request, and whether a request may wait. Sends nothing.

pub(crate) mod admission;
pub(crate) mod circuit;
pub(crate) mod route;
pub(crate) mod store;
pub(crate) mod target;
