//! The one thread that writes a queue. Requests that wait are committed together, because the disk's sync takes most of
//! the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_model::Moment;
use tokio::sync::{mpsc, oneshot};

use crate::{QueueCommand, QueueReply, QueueStore, QueueStoreError};

/// Maximum number of commands of one transaction, and of requests that wait.
const GROUP_MAX: usize = 512;

type Replies = Result<Vec<QueueReply>, Arc<QueueStoreError>>;

struct Request {
    commands: Vec<QueueCommand>,
    reply: oneshot::Sender<Replies>,
}

/// Reason why commands were not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueWriterError {
    /// The storage refused the commands, or is away.
    #[error(transparent)]
    Store(#[from] Arc<QueueStoreError>),
    /// The writer was made without a storage.
    #[error("the queue is closed for writes")]
    Closed,
    /// The thread has ended: the storage broke, or the program ends.
    #[error("the thread that writes the queue has ended")]
    Ended,
}

/// Handle of the thread, which ends with it.
#[derive(Debug)]
pub struct QueueWriter {
    /// None if the writer is closed.
    requests: Option<mpsc::Sender<Request>>,
    /// True if the storage may have leases that memory does not.
    unreconciled: Arc<AtomicBool>,
}

impl QueueWriter {
    /// Starts the thread. `broken` hears of the failure after which the storage can no longer be trusted.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(
        store: impl QueueStore + 'static,
        now: fn() -> Moment,
        broken: impl FnOnce(&QueueStoreError) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, requests) = mpsc::channel(GROUP_MAX);
        let unreconciled = Arc::new(AtomicBool::new(true));
        let thread = std::thread::Builder::new().name("jobs".to_owned());
        let flag = Arc::clone(&unreconciled);
        thread.spawn(move || {
            if let Err(error) = run(store, requests, now, &flag) {
                broken(&error);
            }
        })?;
        Ok(Self { requests: Some(sender), unreconciled })
    }

    /// A writer that refuses every command.
    #[must_use]
    pub fn closed() -> Self {
        Self { requests: None, unreconciled: Arc::default() }
    }

    /// Reports whether the storage may have leases that memory does not, as at first and after a failed write. The caller
    /// reads the leases anew.
    #[must_use]
    pub fn take_unreconciled(&self) -> bool {
        self.unreconciled.swap(false, Ordering::AcqRel)
    }

    /// Records that the caller could not read the leases anew.
    pub fn mark_unreconciled(&self) {
        self.unreconciled.store(true, Ordering::Release);
    }

    /// Carries out commands in one transaction. On return their effects are durable.
    ///
    /// # Errors
    /// [`QueueWriterError`].
    pub async fn all(&self, commands: Vec<QueueCommand>) -> Result<Vec<QueueReply>, QueueWriterError> {
        let (reply, replies) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(QueueWriterError::Closed)?;
        requests.send(Request { commands, reply }).await.map_err(|_| QueueWriterError::Ended)?;
        Ok(replies.await.map_err(|_| QueueWriterError::Ended)??)
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// [`QueueWriterError`].
    pub async fn one(&self, command: QueueCommand) -> Result<QueueReply, QueueWriterError> {
        self.all(vec![command]).await?.pop().ok_or(QueueWriterError::Ended)
    }
}

fn run(
    mut store: impl QueueStore,
    mut requests: mpsc::Receiver<Request>,
    now: fn() -> Moment,
    unreconciled: &AtomicBool,
) -> Result<(), Arc<QueueStoreError>> {
    while let Some(first) = requests.blocking_recv() {
        let mut group = vec![first];
        let mut size = group[0].commands.len();
        while size < GROUP_MAX
            && let Ok(request) = requests.try_recv()
        {
            size += request.commands.len();
            group.push(request);
        }
        commit(&mut store, group, now(), unreconciled)?;
        if requests.is_empty() {
            store.look_ahead();
        }
    }
    Ok(())
}

/// Commits a group, and replies to each of its requests. An error means that the storage can no longer be trusted: after
/// a failed write nothing says what the disk has, and the next process reads it again.
fn commit(
    store: &mut impl QueueStore,
    group: Vec<Request>,
    now: Moment,
    unreconciled: &AtomicBool,
) -> Result<(), Arc<QueueStoreError>> {
    let mut commands = Vec::new();
    let mut waiting = Vec::new();
    for request in group {
        waiting.push((request.commands.len(), request.reply));
        commands.extend(request.commands);
    }
    match store.commit(commands, now) {
        Ok(replies) => {
            let mut replies = replies.into_iter();
            for (count, reply) in waiting {
                let _ = reply.send(Ok(replies.by_ref().take(count).collect()));
            }
            Ok(())
        }
        Err(error) => {
            unreconciled.store(true, Ordering::Release);
            let error = Arc::new(error);
            for (_, reply) in waiting {
                let _ = reply.send(Err(Arc::clone(&error)));
            }
            if error.is_passing() { Ok(()) } else { Err(error) }
        }
    }
}
