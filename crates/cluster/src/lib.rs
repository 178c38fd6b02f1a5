//! The cluster's state as the leading server knows it, and the next step from there. The crate is pure: it knows no store,
//! no clock and no task.
//!
//! ```text
//! apply(event) ─► dirty set ─► plan(dirty) ─► transactions ─► (the server writes) ─► apply(committed)
//! ```
//! - `state`: the records, the reports and the time; [`CoreState::apply`] takes over an event.
//! - `activity`: which apps and instances wait for time to pass.
//! - `dirty`: the apps and machines that an event affects. An empty set plans nothing.
//! - `global_roles`: the roles with a copy on every machine that fits.
//! - `liveness`: which machines are silent, and which are lost; `machines`: the machines as the planner sees them.
//! - `changed`: the parts that an event changed, so that the server wakes only their receivers.
//! - `step`: plans one step and returns its changes in groups.
//! - `turns`: plans every app in turn, whatever the dirty set says.
//! - `transactions`: packs the groups of a step into transactions, in an order of which every prefix is safe.
//!
//! The server's core (`gantry-server`) runs this state against a store; `gantry-simulation` runs it under virtual time
//! with faults.

mod activity;
mod changed;
mod dirty;
mod global_roles;
mod liveness;
mod machines;
mod preview;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod transactions;
mod turns;

pub use changed::ChangedParts;
pub use dirty::DirtySet;
pub use preview::{DeployPreview, preview};
pub use state::{ClusterView, CoreEvent, CoreState, EventEffects, PublishedView};
pub use step::PlannedStep;
pub use transactions::{ChangeGroup, transactions};
