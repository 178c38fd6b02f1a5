//! The kinds of the router's tasks that no request waits for. A panic starts such a task again: without the task, the
//! router would go on by an old table, resolve no name, or send no more requests to a machine.
//!
//! The tasks of connections and requests are bare, because each request would pay for a set of tasks. Their clients and
//! instances see how they ended.

use std::time::Duration;

use gantry_supervision::{Backoff, OnPanic, OnShutdown, TaskKind};

/// The connection to the server. The task ends by itself, with a last message.
pub(crate) const LINK: TaskKind =
    TaskKind { name: "control connection", on_shutdown: OnShutdown::Finish, on_panic: OnPanic::Continue };

/// The resolver of internal names.
pub(crate) const RESOLVER: TaskKind =
    TaskKind { name: "resolver", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// Tries to reach the router of another machine again.
pub(crate) const RECOVERY: TaskKind =
    TaskKind { name: "recovery of a machine's router", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// The pauses before a task starts again.
pub(crate) fn pauses() -> Backoff {
    Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
}
