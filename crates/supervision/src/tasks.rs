//! All tasks of a service, and how each ends.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Backoff;

/// Effect of a shutdown on a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnShutdown {
    /// Drops the task where it waits. For tasks whose work another process can take up at any point.
    Drop,
    /// Lets the task end by itself, within the shutdown's deadline. For work that others wait for.
    Finish,
}

/// Effect of a task's panic on the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPanic {
    /// The panic ends only the task. For tasks that serve one client or one object.
    Continue,
    /// The service shuts down, so that its supervisor starts a new one. For tasks that the service cannot do without.
    Shutdown,
}

/// A kind of task, with its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskKind {
    /// The name, for logs.
    pub name: &'static str,
    /// Effect of a shutdown on the task.
    pub on_shutdown: OnShutdown,
    /// Effect of the task's panic on the service.
    pub on_panic: OnPanic,
}

/// The tasks of a service. Cloning is cheap, and the clones share the tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskSet {
    tracker: TaskTracker,
    ending: CancellationToken,
}

impl TaskSet {
    /// Starts a task. After the start of a shutdown, a task whose kind says [`OnShutdown::Drop`] does not run any more.
    pub fn spawn(&self, kind: TaskKind, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let ending = self.ending.clone();
        self.tracker.spawn(async move {
            let work = AssertUnwindSafe(task).catch_unwind();
            let result = match kind.on_shutdown {
                OnShutdown::Drop => ending.run_until_cancelled(work).await.unwrap_or(Ok(())),
                OnShutdown::Finish => work.await,
            };
            if result.is_err() {
                // The panic's own message is already on standard error.
                tracing::error!(task = kind.name, "task panicked");
                if kind.on_panic == OnPanic::Shutdown {
                    ending.cancel();
                }
            }
        })
    }

    /// Starts a task that a panic starts again, after a pause. `make` makes the task's work each time. For a task that the
    /// service cannot do without, in a service whose end costs more than the panic.
    pub fn spawn_restarting<F: Future<Output = ()> + Send + 'static>(
        &self,
        kind: TaskKind,
        mut pauses: Backoff,
        mut make: impl FnMut() -> F + Send + 'static,
    ) -> JoinHandle<()> {
        self.spawn(kind, async move {
            while AssertUnwindSafe(make()).catch_unwind().await.is_err() {
                tracing::error!(task = kind.name, "task panicked; starting it again");
                tokio::time::sleep(pauses.pause()).await;
            }
        })
    }

    /// Waits until a shutdown begins: [`Self::shut_down`], or a panic that the service cannot do without.
    pub async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Ends all tasks by their policies. Returns the number of tasks that still ran at the deadline.
    pub async fn shut_down(&self, deadline: Duration) -> usize {
        self.ending.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(deadline, self.tracker.wait()).await;
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn kind(on_shutdown: OnShutdown, on_panic: OnPanic) -> TaskKind {
        TaskKind { name: "test", on_shutdown, on_panic }
    }

    /// Starts a task that takes 5 s; returns whether it ended by itself.
    fn five_seconds(tasks: &TaskSet, on_shutdown: OnShutdown) -> Arc<AtomicBool> {
        let ended = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&ended);
        tasks.spawn(kind(on_shutdown, OnPanic::Continue), async move {
            tokio::time::sleep(5 * SECOND).await;
            own.store(true, Ordering::Relaxed);
        });
        ended
    }

    #[tokio::test(start_paused = true)]
    async fn drops_or_finishes_tasks_by_their_kind() {
        let tasks = TaskSet::default();
        let (dropped, finished) = (five_seconds(&tasks, OnShutdown::Drop), five_seconds(&tasks, OnShutdown::Finish));
        tokio::time::sleep(SECOND).await;
        assert_eq!(tasks.shut_down(30 * SECOND).await, 0);
        assert_eq!((dropped.load(Ordering::Relaxed), finished.load(Ordering::Relaxed)), (false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn counts_tasks_that_outlast_the_deadline() {
        let tasks = TaskSet::default();
        let finished = five_seconds(&tasks, OnShutdown::Finish);
        assert_eq!(tasks.shut_down(SECOND).await, 1);
        assert!(!finished.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn starts_a_task_again_after_each_panic_until_the_task_ends() {
        let (tasks, begun) = (TaskSet::default(), tokio::time::Instant::now());
        let mut runs = 0;
        let make = move || {
            runs += 1;
            async move { assert_eq!(runs, 3, "expected in this test") }
        };
        let kind = kind(OnShutdown::Finish, OnPanic::Shutdown);
        let restarting = tasks.spawn_restarting(kind, Backoff::new(SECOND, 10 * SECOND), make);
        restarting.await.expect("ended");
        assert_eq!(begun.elapsed(), 3 * SECOND, "pauses of 1 and 2 s");
        assert!(tokio::time::timeout(SECOND, tasks.ending()).await.is_err(), "the service goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn shuts_down_after_a_panic_of_a_task_that_is_needed() {
        let tasks = TaskSet::default();
        let ends = async |on_panic| {
            let _ = tasks.spawn(kind(OnShutdown::Drop, on_panic), async { panic!("expected in this test") }).await;
            tokio::time::timeout(SECOND, tasks.ending()).await.is_ok()
        };
        assert!(!ends(OnPanic::Continue).await);
        assert!(ends(OnPanic::Shutdown).await);
    }
}
