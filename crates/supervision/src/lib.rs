//! Tasks of a service: what kinds there are, how each ends, and how often a reconcile loop runs.
//!
//! - [`TaskSet`]: all tasks of a service. Each task has a [`TaskKind`], which says what a shutdown does to the task and
//!   what a panic of the task means for the service. Begin there.
//! - [`ReconcileLoop`]: runs one pass at a time, periodically and when nudged, with a back-off after failures. Others can
//!   read its [`LoopStatus`].
//! - [`Retry`]: repeats an attempt until it succeeds.
//! - [`Backoff`]: growing pauses between attempts.
//!
//! The crate knows no service and no I/O. A pass is a function of the caller's; the crate decides only when to call it.

mod backoff;
mod reconcile;
mod retry;
mod tasks;

pub use backoff::Backoff;
pub use reconcile::{LoopStatus, NextPass, Nudge, ReconcileLoop};
pub use retry::Retry;
pub use tasks::{OnPanic, OnShutdown, TaskKind, TaskSet};
