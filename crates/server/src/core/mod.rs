//! The core: one task that owns all records and is the only writer to the store.
//!
//! ```text
//! inbox ─► apply(event) ─► dirty set ─► plan(dirty) ─► guarded write ─► notify
//!               ▲                                            │
//!               └──────────── committed changes ─────────────┘
//! ```
//! - `gantry_cluster` is the pure part: the state, [`gantry_cluster::CoreState::apply`], the plan of a step and its
//!   transactions.
//! - `load`: migrates and parses the records of the store.
//! - `task`: the loop, and the guarded write.
//! - `notify`: wakes only those whose part changed. `changed_apps`: what tasks derive from each app.
//! - `routes_cache`: brings the routes of all apps together for the routers, once per revision.
//!
//! Handlers read a [`CoreView`] and change records with [`CoreHandle::mutate`]. A heartbeat that changes nothing
//! refreshes the time of the report, and neither plans nor wakes anything.

#[cfg(test)]
mod bench;
mod changed_apps;
mod load;
mod notify;
mod routes_cache;
mod task;

use std::ops::Deref;
use std::sync::Arc;

use gantry_admission::Admitted;
use gantry_cluster::PublishedView;
use gantry_control::{MachineReport, RouterReport, SharedRoutes};
use gantry_model::{App, AppName, ClusterId, Generation, MachineName, Moment, RouterId};
use gantry_store::{Store, StoreFault};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock::reading;
use crate::leadership::{self, Leadership};
use crate::settings::ServerSettings;
use crate::{ChangeError, ServerError};
use gantry_records::RecordIndex;
use notify::Notifier;
use routes_cache::RoutesCache;
use task::{CoreMessage, CoreTask, Mutation};

pub(crate) use changed_apps::AppValues;
pub use gantry_cluster::ClusterView;

/// Maximum number of messages that wait for the core.
const INBOX_MAX: usize = 256;

/// The cluster's state at one moment, for reading at once.
///
/// A view shares the records and the reports with the core. While a reader holds a view, the core copies the maps that it
/// changes. A handler therefore takes what it needs, and drops the view before it waits: `clippy.toml` forbids a view
/// across an `.await`. For the same reason nothing moves out of a view.
pub(crate) struct CoreView(ClusterView);

impl Deref for CoreView {
    type Target = ClusterView;

    fn deref(&self) -> &ClusterView {
        &self.0
    }
}

/// A handle to the core.
#[derive(Clone)]
pub(crate) struct CoreHandle {
    messages: mpsc::Sender<CoreMessage>,
    published: PublishedView,
    notifier: Arc<Notifier>,
    routes: Arc<RoutesCache>,
    store: Arc<dyn Store>,
    leadership: Leadership,
}

impl CoreHandle {
    /// Returns the current view.
    pub(crate) fn view(&self) -> CoreView {
        CoreView(self.published.get())
    }

    /// Subscribes to changes of a machine's part of the plan.
    pub(crate) fn watch_machine(&self, machine: &MachineName) -> watch::Receiver<Generation> {
        self.notifier.machine(machine)
    }

    /// Subscribes to changes of routes.
    pub(crate) fn watch_routes(&self) -> watch::Receiver<Generation> {
        self.notifier.routes()
    }

    /// Returns the present routes as routers get them.
    pub(crate) fn routes(&self) -> Arc<SharedRoutes> {
        // Only the plan is kept meanwhile: a commit need not copy the records.
        let plan = Arc::clone(&self.published.get().records.plan);
        self.routes.of(&plan)
    }

    /// Subscribes to changes of an app: its records, releases and deploys, its routes, and its reasons to wait.
    pub(crate) fn watch_app(&self, app: &AppName) -> watch::Receiver<u64> {
        self.notifier.app(app)
    }

    /// Derives a value from each app, and keeps the values up to date.
    pub(crate) fn app_values<V: PartialEq>(&self, derive: fn(&RecordIndex, &App) -> Option<V>) -> AppValues<V> {
        AppValues::new(self.published.clone(), self.notifier.reader(), derive)
    }

    /// Subscribes to changes of the cluster policy.
    pub(crate) fn watch_policy(&self) -> watch::Receiver<u64> {
        self.notifier.policy()
    }

    /// Subscribes to changes of the machines that belong to the cluster.
    pub(crate) fn watch_members(&self) -> watch::Receiver<u64> {
        self.notifier.members()
    }

    /// Changes the records. On return the changes are durable, and the plan accounts for them.
    pub(crate) async fn mutate<T: Send + 'static>(
        &self,
        mutation: impl FnOnce(&RecordIndex, Moment) -> Admitted<T> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let (value_sender, value) = oneshot::channel();
        let (reply, replied) = oneshot::channel();
        let mutation: Mutation = Box::new(move |records, now| {
            let (changes, value) = mutation(records, now)?;
            let _ = value_sender.send(value);
            Ok(changes)
        });
        self.messages.send(CoreMessage::Mutate(mutation, reply)).await.map_err(|_| ChangeError::Stopping)?;
        replied.await.map_err(|_| ChangeError::Stopping)??;
        value.await.map_err(|_| ChangeError::Stopping)
    }

    /// Discards earlier revisions of the records. Only a store that keeps revisions until told otherwise needs this
    /// call.
    pub(crate) async fn compact(&self) -> Result<(), gantry_store::StoreError> {
        let head = self.store.list(leadership::KEY).await?.revision;
        self.store.compact(head).await
    }

    /// Returns what is wrong with the members of the store.
    pub(crate) async fn store_faults(&self) -> Vec<StoreFault> {
        self.store.faults().await
    }

    /// Passes the report of an agent to the core.
    pub(crate) async fn machine(&self, machine: MachineName, report: MachineReport) {
        let _ = self.messages.send(CoreMessage::Machine(machine, report)).await;
    }

    /// Passes on that an agent confirms its last report.
    pub(crate) async fn machine_alive(&self, machine: MachineName, report: Arc<MachineReport>) {
        let _ = self.messages.send(CoreMessage::MachineAlive(machine, report)).await;
    }

    /// Passes on that an agent confirms its last report and asks for a lease, and returns once the report counts. The plan
    /// that the machine gets from then on is at least as new.
    pub(crate) async fn lease(&self, machine: MachineName, report: Arc<MachineReport>) {
        let (reply, replied) = oneshot::channel();
        let _ = self.messages.send(CoreMessage::Lease(machine, report, reply)).await;
        let _ = replied.await;
    }

    /// Reports whether this server may grant a lease.
    pub(crate) fn may_grant(&self) -> bool {
        self.leadership.is_certain()
    }

    /// Passes the report of a router to the core.
    pub(crate) async fn router(&self, machine: MachineName, report: RouterReport) {
        let _ = self.messages.send(CoreMessage::Router(machine, report)).await;
    }

    /// Passes on that a router confirms its last report.
    pub(crate) async fn router_alive(&self, router: RouterId, report: Arc<RouterReport>) {
        let _ = self.messages.send(CoreMessage::RouterAlive(router, report)).await;
    }
}

/// Loads the records and starts the core. The core's task ends only with an error.
pub(crate) async fn start(
    store: Arc<dyn Store>,
    leadership: Leadership,
    settings: &ServerSettings,
) -> Result<(CoreHandle, JoinHandle<ServerError>), ServerError> {
    let (messages, inbox) = mpsc::channel(INBOX_MAX);
    let mut task = CoreTask::load(Arc::clone(&store), leadership.clone()).await?;
    task.adopt_policy(&settings.policy).await?;
    task.adopt_identity(ClusterId::from_random(rand::random())).await?;
    let (published, notifier, routes) = (task.published(), task.notifier(), Arc::default());
    let handle = CoreHandle { messages, published, notifier, routes, store, leadership };
    #[expect(clippy::disallowed_methods, reason = "the term awaits the handle")]
    let task = tokio::spawn(task.run(inbox));
    Ok((handle, task))
}

/// Returns the wall clock's time, for comparison with dates. Durations are taken from [`ClusterView::now`].
pub(crate) fn now() -> Moment {
    reading().wall
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gantry_store::StoreAddress;
    use leadership::Candidate;

    use super::*;

    /// Lifetime of the leadership in a test, and the time within which its states follow each other.
    const TTL: Duration = Duration::from_millis(500);
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A handle to a core that reads no messages.
    async fn handle(leadership: &Leadership, store: &Arc<dyn Store>) -> CoreHandle {
        let task = CoreTask::load(Arc::clone(store), leadership.clone()).await.expect("no records");
        let (published, notifier, routes) = (task.published(), task.notifier(), Arc::default());
        let (messages, _) = mpsc::channel(1);
        CoreHandle { messages, published, notifier, routes, store: Arc::clone(store), leadership: leadership.clone() }
    }

    /// Waits until the server may grant leases, or may not.
    async fn until(core: &CoreHandle, may_grant: bool) {
        let reached = async {
            while core.may_grant() != may_grant {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, reached).await.expect("the state is reached");
    }

    #[tokio::test]
    async fn a_server_that_may_be_deposed_grants_no_lease() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = StoreAddress::File(folder.path().join("store.db"));
        let store: Arc<dyn Store> = gantry_store::open(&address).await.expect("a store");
        let candidate = Candidate::named("one").with_ttl(TTL);
        let leadership = leadership::acquire(&store, &candidate).await.expect("the leadership");
        let core = handle(&leadership, &store).await;
        assert!(!core.may_grant(), "the term is not renewed yet");
        tokio::select! {
            lost = leadership.renew_until_lost() => panic!("{lost}"),
            () = until(&core, true) => {}
        }
        // The renewals have stopped: another server may lead, and may start a copy elsewhere.
        until(&core, false).await;
    }
}
