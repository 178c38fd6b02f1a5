//! Threads that serve connections: one for each core, each with its own runtime. A request and all its work stay on one
//! thread, so that no core waits for another core's memory.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

thread_local! {
    static OWN: Cell<usize> = const { Cell::new(0) };
}

/// Returns the number of threads.
pub(crate) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Returns the number of the current thread; 0 on any other thread.
pub(crate) fn own() -> usize {
    OWN.get()
}

/// Handles of the threads. Dropping this value ends the threads.
pub(crate) struct ServingThreads {
    handles: Vec<Handle>,
    next: AtomicUsize,
    _end: DropGuard,
}

impl ServingThreads {
    pub(crate) fn start() -> std::io::Result<Self> {
        let end = CancellationToken::new();
        let start = |number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, end) = (runtime.handle().clone(), end.clone());
            std::thread::Builder::new().name(format!("router-{number}")).spawn(move || {
                OWN.set(number);
                runtime.block_on(end.cancelled());
            })?;
            Ok(handle)
        };
        let handles = (0..count()).map(start).collect::<std::io::Result<_>>()?;
        Ok(Self { handles, next: AtomicUsize::new(0), _end: end.drop_guard() })
    }

    /// Serves a connection on the next thread in turn.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len();
        drop(self.handles[next].spawn(connection));
    }
}
