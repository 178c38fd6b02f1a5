//! The one thread that writes the queue. Requests that wait are committed together, because the disk's sync takes most of
//! the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_queue_store::{QueueCommand, QueueReply, QueueStore, QueueStoreError};
use tokio::sync::{mpsc, oneshot};

use super::JobsError;
use crate::core;

/// Most commands of one transaction, and most requests that wait.
const GROUP_MAX: usize = 512;

type Replies = Result<Vec<QueueReply>, Arc<QueueStoreError>>;

struct Request {
    commands: Vec<QueueCommand>,
    reply: oneshot::Sender<Replies>,
}

/// Handle of the thread, which ends with it.
pub(super) struct JobWriter {
    /// None if the disk is read-only.
    requests: Option<mpsc::Sender<Request>>,
    /// True if the storage may have leases that memory does not.
    doubt: Arc<AtomicBool>,
}

impl JobWriter {
    pub(super) fn start(store: impl QueueStore + 'static) -> Self {
        let (sender, requests) = mpsc::channel(GROUP_MAX);
        let doubt = Arc::new(AtomicBool::new(true));
        let thread = std::thread::Builder::new().name("jobs".to_owned());
        let doubts = Arc::clone(&doubt);
        if let Err(error) = thread.spawn(move || run(store, requests, &doubts)) {
            tracing::error!(%error, "cannot start the thread that writes the queue");
        }
        Self { requests: Some(sender), doubt }
    }

    /// A writer that refuses every command: the disk is read-only.
    pub(super) fn closed() -> Self {
        Self { requests: None, doubt: Arc::default() }
    }

    /// Reports whether the storage may have leases that memory does not, as at first and after a failed write. The doubt
    /// is the caller's from now on.
    pub(super) fn take_doubt(&self) -> bool {
        self.doubt.swap(false, Ordering::AcqRel)
    }

    /// The doubt remains.
    pub(super) fn doubt(&self) {
        self.doubt.store(true, Ordering::Release);
    }

    /// Carries out commands in one transaction. On return their effects are durable.
    pub(super) async fn all(&self, commands: Vec<QueueCommand>) -> Result<Vec<QueueReply>, JobsError> {
        let (reply, replies) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(JobsError::ReadOnly)?;
        requests.send(Request { commands, reply }).await.map_err(|_| JobsError::Stopping)?;
        Ok(replies.await.map_err(|_| JobsError::Stopping)??)
    }

    /// Carries out one command.
    pub(super) async fn one(&self, command: QueueCommand) -> Result<QueueReply, JobsError> {
        self.all(vec![command]).await?.pop().ok_or(JobsError::Stopping)
    }
}

fn run(mut store: impl QueueStore, mut requests: mpsc::Receiver<Request>, doubt: &AtomicBool) {
    while let Some(first) = requests.blocking_recv() {
        let mut group = vec![first];
        let mut size = group[0].commands.len();
        while size < GROUP_MAX
            && let Ok(request) = requests.try_recv()
        {
            size += request.commands.len();
            group.push(request);
        }
        if let Err(error) = commit(&mut store, group, doubt) {
            // After a failed write nothing says what the disk has. The next server reads the file again.
            tracing::error!(error = crate::causes(&*error), "the queue cannot be written; the server ends");
            return;
        }
    }
}

/// Commits a group, and replies to each of its requests. An error means that the file can no longer be trusted.
fn commit(store: &mut impl QueueStore, group: Vec<Request>, doubt: &AtomicBool) -> Result<(), Arc<QueueStoreError>> {
    let mut commands = Vec::new();
    let mut waiting = Vec::new();
    for request in group {
        waiting.push((request.commands.len(), request.reply));
        commands.extend(request.commands);
    }
    match store.commit(commands, core::now()) {
        Ok(replies) => {
            let mut replies = replies.into_iter();
            for (count, reply) in waiting {
                let _ = reply.send(Ok(replies.by_ref().take(count).collect()));
            }
            Ok(())
        }
        Err(error) => {
            doubt.store(true, Ordering::Release);
            let error = Arc::new(error);
            for (_, reply) in waiting {
                let _ = reply.send(Err(Arc::clone(&error)));
            }
            if error.is_passing() { Ok(()) } else { Err(error) }
        }
    }
}
