//! The kinds of the agent's tasks. Any task may be dropped at any point: the records on disk say what was done, and the
//! next agent continues from there.

use gantry_supervision::{OnPanic, OnShutdown, TaskKind};

/// The task that owns one instance. A panic ends the task alone; the next plan starts the task again.
pub(crate) const INSTANCE: TaskKind =
    TaskKind { name: "instance", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// The removal of a container that has no task of its own.
pub(crate) const REMOVAL: TaskKind =
    TaskKind { name: "removal", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// A build, the making of a base, and a pull. A restarted agent removes what is left, and the server orders the work again.
pub(crate) const BUILD: TaskKind =
    TaskKind { name: "build", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// A container job. The container outlives the agent, and the next agent continues the job.
pub(crate) const JOB: TaskKind = TaskKind { name: "job", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// One connection of a container to the API for applications. The next agent accepts its successor.
pub(crate) const APP_API: TaskKind =
    TaskKind { name: "app api", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// One session of a client. The process that runs for the session ends together with the task.
pub(crate) const SESSION: TaskKind =
    TaskKind { name: "session", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };
