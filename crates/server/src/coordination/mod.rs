//! Keys, leases, locks and elections of the apps, for their containers.
//!
//! ```text
//! container ─► agent (who asks?) ─► http::coordination ─► Coordination ─► task: rules, then one guarded write ─► store
//!                                                              ▲                        │
//!                                                              └── revision of the app ◄┘
//! ```
//! - [`Coordination`]: the handle of request handlers. Begin there.
//! - `task`: the one owner of all keyspaces. It writes the commands of many apps as one transaction.
//! - `records`: the records in the store.
//! - `locks`: waiting for a lock.
//!
//! The rules are in the crate `coordination`. A keyspace has the name of the app's volume folder, so that an app keeps
//! its keys when it is renamed.

mod locks;
mod records;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_coordination::{Command, Refusal, Reply, Revision};
use gantry_model::AppName;
use gantry_store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

pub(crate) use self::locks::{AcquireOrder, HeldPlace, new_lease};
use self::task::{CoordinationTask, Message};
use crate::Server;
use crate::leadership::Leadership;

/// Maximum number of requests of one app at the same time, those that wait included.
const AT_ONCE: usize = 512;

/// Maximum number of messages that wait for the task.
const INBOX_MAX: usize = 1024;

/// Longest interval between searches for keyspaces of destroyed apps.
const RETAIN_INTERVAL: Duration = Duration::from_secs(60);

/// Longest wait of a long poll.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(50);

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CoordinationError {
    /// The rules refuse the command.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store took no change. The change may have been made all the same if the store did not respond.
    #[error("{0}")]
    Store(String),
    /// The records of the app are damaged.
    #[error("the records of the app's keys are damaged: {0}; restore a backup with `gantry restore FILE`")]
    Damaged(String),
    /// All apps together need too much space.
    #[error("the keys of all apps together need more than {max} bytes; remove some")]
    Full {
        /// The limit.
        max: usize,
    },
    /// The app has too many requests at the same time.
    #[error("the app has {AT_ONCE} requests at the same time, and may not have more")]
    Busy,
    /// The disk takes no writes.
    #[error("the disk of the server is read-only, and keys and locks are closed; make the disk writable")]
    ReadOnly,
    /// The server is shutting down.
    #[error("the server is shutting down; try again")]
    Stopping,
}

/// A reply, with the app's revision at that moment.
pub(crate) struct ReplyAtRevision {
    pub(crate) reply: Reply,
    pub(crate) revision: Revision,
}

/// State of an app's requests, shared by all tasks.
struct AppState {
    /// The newest revision that is durable.
    revision: watch::Sender<Revision>,
    slots: Arc<Semaphore>,
}

impl Default for AppState {
    fn default() -> Self {
        Self { revision: watch::Sender::new(0), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// The state of each app.
#[derive(Clone, Default)]
struct AppStates(Arc<Mutex<HashMap<AppName, AppState>>>);

impl AppStates {
    fn with<T>(&self, space: &AppName, read: impl FnOnce(&AppState) -> T) -> T {
        let mut apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read(apps.entry(space.clone()).or_default())
    }

    /// Notifies the waiting requests that the app has a new revision.
    fn advance(&self, space: &AppName, revision: Revision) {
        self.with(space, |app| app.revision.send_replace(revision));
    }

    fn retain(&self, spaces: &BTreeSet<AppName>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|space, _| spaces.contains(space));
    }
}

/// The keyspaces of all apps.
pub(crate) struct Coordination {
    /// None while the disk is read-only.
    messages: Option<mpsc::Sender<Message>>,
    apps: AppStates,
}

impl Coordination {
    /// The handle, and the task, which runs until the handle is dropped.
    pub(crate) fn start(store: Arc<dyn Store>, leadership: Leadership) -> (Self, impl Future<Output = ()> + Send) {
        let (messages, inbox) = mpsc::channel(INBOX_MAX);
        let apps = AppStates::default();
        let task = CoordinationTask::new(store, leadership, apps.clone()).run(inbox);
        (Self { messages: Some(messages), apps }, task)
    }

    /// Keyspaces that refuse every command, for a server on a read-only disk.
    pub(crate) fn closed() -> Self {
        Self { messages: None, apps: AppStates::default() }
    }

    /// Takes one of the app's places for requests.
    pub(crate) fn admit(&self, space: &AppName) -> Result<OwnedSemaphorePermit, CoordinationError> {
        let slots = self.apps.with(space, |app| Arc::clone(&app.slots));
        slots.try_acquire_owned().map_err(|_| CoordinationError::Busy)
    }

    /// Executes a command. On return its changes are durable.
    pub(crate) async fn run(&self, space: &AppName, command: Command) -> Result<ReplyAtRevision, CoordinationError> {
        let (reply, replied) = oneshot::channel();
        self.send(Message::Run { space: space.clone(), command, reply }).await?;
        replied.await.map_err(|_| CoordinationError::Stopping)?
    }

    /// Reports whether the term of leadership goes on, and with it the task.
    pub(crate) fn is_open(&self) -> bool {
        self.messages.as_ref().is_some_and(|messages| !messages.is_closed())
    }

    /// Subscribes to the revision of an app.
    pub(crate) fn watch(&self, space: &AppName) -> watch::Receiver<Revision> {
        self.apps.with(space, |app| app.revision.subscribe())
    }

    /// Removes the keyspaces of apps that are gone.
    async fn retain(&self, spaces: BTreeSet<AppName>) -> Result<(), CoordinationError> {
        self.apps.retain(&spaces);
        self.send(Message::Retain(spaces)).await
    }

    async fn send(&self, message: Message) -> Result<(), CoordinationError> {
        let messages = self.messages.as_ref().ok_or(CoordinationError::ReadOnly)?;
        messages.send(message).await.map_err(|_| CoordinationError::Stopping)
    }
}

/// Removes the keyspaces of destroyed apps, for ever.
pub(crate) async fn run(server: Arc<Server>) {
    let mut spaces = server.core.app_values(|_, app| Some(app.volume_folder().clone()));
    let mut due = Instant::now();
    loop {
        if spaces.update() || Instant::now() >= due {
            // A server on a read-only disk has no keyspaces.
            let _ = server.coordination.retain(spaces.by_app().values().cloned().collect()).await;
            // The interval repeats a removal that could not be written.
            due = Instant::now() + RETAIN_INTERVAL;
        }
        let _ = tokio::time::timeout_at(due, spaces.changed()).await;
    }
}
