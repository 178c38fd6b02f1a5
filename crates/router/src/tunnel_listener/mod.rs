//! Requests of other machines' routers, which arrive through tunnels. `tunnel` describes the protocol.
//!
//! - [`serve`]: the listener and its connections.
//! - [`answer`]: one request of another router: for an allocation, a role or a layer of this machine.
//! - [`layers`]: layers of images that the agent of this machine has verified, for agents of other machines.

mod answer;
pub(crate) mod layers;
pub(crate) mod serve;
