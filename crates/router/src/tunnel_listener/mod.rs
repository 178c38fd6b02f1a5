//! Requests of other machines' routers, which arrive through tunnels. `tunnel` describes the protocol.
//!
//! - [`serve`]: the listener and its connections.
//! - [`answer`]: one request of another router: for an allocation, a role or a layer of this machine.
//! - [`lane`]: short requests on one stream.
//! - [`attempt`]: passes a request on to the instance.
//! - [`layers`]: layers of images that the agent of this machine has verified, for agents of other machines.

mod answer;
mod attempt;
mod lane;
pub(crate) mod layers;
pub(crate) mod serve;
