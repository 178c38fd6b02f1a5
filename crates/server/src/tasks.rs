//! The kinds of the server's tasks that serve one client or one object. Any of them may be dropped at any point: the
//! records say what was done, and clients, agents and routers connect again. The tasks that a term cannot do without
//! are in `run`.

use gantry_supervision::{OnPanic, OnShutdown, TaskKind};

const fn kind(name: &'static str) -> TaskKind {
    TaskKind { name, on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue }
}

/// One connection of a client, up to the end of what the connection became.
pub(crate) const CONNECTION: TaskKind = kind("connection");

/// The messages of an agent or a router on a control connection. The peer connects again.
pub(crate) const CONTROL_LINK: TaskKind = kind("control connection");

/// Progress, lines or changes that are sent to one client.
pub(crate) const STREAM: TaskKind = kind("stream");

/// A release in the making. A build that ends without an outcome begins again.
pub(crate) const BUILD: TaskKind = kind("build");

/// A base, a stack or a pull. The task goes on without its client.
pub(crate) const IMAGE_REQUEST: TaskKind = kind("image request");

/// Claims container jobs for one agent's connection. The leases of claimed jobs are in the queue.
pub(crate) const JOB_FEED: TaskKind = kind("job feed");

/// Records ends of container jobs. The agent repeats ends that are not acknowledged.
pub(crate) const JOB_ENDS: TaskKind = kind("ends of jobs");

/// One conversation with the hook of a push.
pub(crate) const HOOK: TaskKind = kind("git hook");

/// The inspection of all repositories after a start.
pub(crate) const INSPECTION: TaskKind = kind("inspection of the repositories");

/// Gives up the place of a caller who has left the queue of a lock. Without it, the place ends with its lease.
pub(crate) const LOCK_PLACE: TaskKind = kind("place in a lock's queue");
