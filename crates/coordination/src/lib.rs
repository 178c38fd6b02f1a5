//! The rules of key–value pairs, leases, locks and elections for applications. Pure: no store, no runtime, no clock.
//!
//! ```text
//! command ─► Keyspace::execute(command, now) ─► reply, and its effects: what to write, and how to take it back
//! ```
//! - [`Keyspace`]: the pairs and leases of one app, with a bounded history. Begin there.
//! - [`Command`], [`Reply`], [`Refusal`]: the interface. [`Transaction`] has the compare-and-swap of etcd v3.
//! - [`lock`]: locks and elections, as keys in the order of their creation.
//! - [`CommandEffects`]: the caller writes the effects durably and then lets the reply out, or reverts the effects.
//!
//! **Revisions.** Each change of a keyspace has the next revision. A revision is never used twice, also after a restore
//! from a backup: the caller loads a keyspace with a floor. So the create revision of a lock's key is a fencing token.
//!
//! **Leases** live in memory. A renewal changes no record. [`Keyspace::load`] gives each lease its whole time again, so a
//! new leader ends no lease early.

mod command;
mod effects;
mod execute;
mod history;
mod key_range;
mod keyspace;
mod lease;
pub mod lock;
mod quota;
mod transaction;

pub use command::{Command, Reply};
pub use effects::{Clearing, CommandEffects};
pub use history::{Event, Events};
pub use key_range::{KeyRange, prefix_end};
pub use keyspace::{KeyValue, Keyspace, LoadedEntry, LoadedLease};
pub use lease::{LeaseId, LeaseInfo, TTL_MAX_SECONDS, TTL_MIN_SECONDS};
pub use quota::{Quota, Refusal};
pub use transaction::{
    Comparison, Condition, Deletion, Operation, OperationReply, Order, Put, RangeQuery, RangeReply, SortKey, Subject,
    Transaction, TransactionReply,
};

/// Number of a change within one keyspace.
pub type Revision = i64;

/// A key: bytes, never empty.
pub type Key = Vec<u8>;
