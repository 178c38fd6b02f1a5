//! Decides from where each machine fetches a layer: from the servers, or from a machine that has the layer.
//!
//! ```text
//! report of a machine (layers it has, layers it wants, sources that failed) ─► Distribution ─► grants of other machines
//! silence of a machine ──────────────────────────────────────────────────────►
//! ```
//! - The servers send a layer twice ([`SEEDS`]). Every further machine fetches from a machine that has the whole layer,
//!   so the number of copies grows by powers. A hundred machines take two copies from the servers.
//! - A machine sends at most [`UPLOADS_MAX`] layers at once. Other machines wait in the order of their reports.
//! - A receiver gets up to [`FURTHER_SOURCES_MAX`] further sources from machines that have the layer and an upload to
//!   spare. First sources of other machines come before further ones.
//! - A receiver fetches a large layer in parts, from all its sources at once: [`PartPlan`] says which source sends which
//!   part. A source that sends a wrong part, or is slow beside another one, sends no further one.
//! - A machine names the sources that failed. It gets other sources; after [`SOURCES_MAX`] failures, or when no machine
//!   is left, the servers send the layer. The servers are always the last resort.
//! - The deciders know no bytes. Receivers verify each layer by its digest before they report the layer as theirs.
//!
//! A leader keeps the state in memory. After a change of the leader, machines report again what they have and what they
//! receive, so the next leader adopts transfers that are under way.
//!
//! Pure: the time is an argument, and counts from any fixed moment.
//!
//! **Rejected:** machines that send parts of a layer before they have the whole layer. Receivers would have to learn which
//! parts each machine has, and the count of copies from the servers would depend on when they learn of them.

mod further_sources;
mod limits;
mod member;
mod part_plan;
mod spread;
mod state;
#[cfg(test)]
mod tests;

pub use limits::{
    FURTHER_SOURCES_MAX, LAST_RESORT, LAYERS_MAX, SEEDS, SILENCE_TIMEOUT, SOURCES_AT_ONCE, SOURCES_MAX, UPLOADS_MAX,
};
pub use member::{LayerReport, LayerSource, WantedLayer};
pub use part_plan::PartPlan;
pub use state::Distribution;
