//! The one thread that writes the queue. Requests that wait are committed together, because the disk's sync takes most of
//! the time.

use std::sync::Arc;

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
pub(super) struct JobWriter(Option<mpsc::Sender<Request>>);

impl JobWriter {
    pub(super) fn start(store: impl QueueStore + 'static) -> Self {
        let (sender, requests) = mpsc::channel(GROUP_MAX);
        let thread = std::thread::Builder::new().name("jobs".to_owned());
        if let Err(error) = thread.spawn(move || run(store, requests)) {
            tracing::error!(%error, "cannot start the thread that writes the queue");
        }
        Self(Some(sender))
    }

    /// A writer that refuses every command: the disk is read-only.
    pub(super) fn closed() -> Self {
        Self(None)
    }

    /// Carries out commands in one transaction. On return their effects are durable.
    pub(super) async fn all(&self, commands: Vec<QueueCommand>) -> Result<Vec<QueueReply>, JobsError> {
        let (reply, replies) = oneshot::channel();
        let requests = self.0.as_ref().ok_or(JobsError::ReadOnly)?;
        requests.send(Request { commands, reply }).await.map_err(|_| JobsError::Stopping)?;
        Ok(replies.await.map_err(|_| JobsError::Stopping)??)
    }

    /// Carries out one command.
    pub(super) async fn one(&self, command: QueueCommand) -> Result<QueueReply, JobsError> {
        self.all(vec![command]).await?.pop().ok_or(JobsError::Stopping)
    }
}

fn run(mut store: impl QueueStore, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.blocking_recv() {
        let mut group = vec![first];
        let mut size = group[0].commands.len();
        while size < GROUP_MAX
            && let Ok(request) = requests.try_recv()
        {
            size += request.commands.len();
            group.push(request);
        }
        if let Err(error) = commit(&mut store, group) {
            // After a failed write nothing says what the disk has. The next server reads the file again.
            tracing::error!(error = crate::causes(&*error), "the queue's file cannot be written; the server ends");
            return;
        }
    }
}

/// Commits a group, and replies to each of its requests. An error means that the file can no longer be trusted.
fn commit(store: &mut impl QueueStore, group: Vec<Request>) -> Result<(), Arc<QueueStoreError>> {
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
            let error = Arc::new(error);
            for (_, reply) in waiting {
                let _ = reply.send(Err(Arc::clone(&error)));
            }
            if matches!(*error, QueueStoreError::Full { .. }) { Ok(()) } else { Err(error) }
        }
    }
}
