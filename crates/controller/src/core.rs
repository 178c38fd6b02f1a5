//! The owner of all records: one task, and the only writer to the store.
//!
//! The core takes mutations and reports one at a time. After each, and twice a second, the core plans until nothing
//! changes. Each planning round is one transaction, guarded by the leadership key. Other tasks read the published
//! [`ClusterView`].

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_api::Problem;
use gantry_api::types::{MachineReport, RouterReport, Scope};
use gantry_model::clock::{ClockJumps, SteadyClock};
use gantry_model::{
    AppName, DeployState, MachineName, Moment, ObservedCluster, ObservedMachine, ObservedRouter, RouterId,
};
use gantry_planner::{PlanReport, plan};
use gantry_store::{Store, TXN_MAX, TxnCondition, TxnOutcome};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock::{self, reading};
use crate::leadership::{self, Leadership};
use crate::records::{
    RecordChange, RecordIndex, StoreRecord, build_key, deploy_key, manifest_key, release_key, tag_key, token_key, txn,
    writes,
};
use crate::settings::ServerSettings;
use crate::{ServerError, causes, mutations};

/// Interval of planning when nothing else happens: deadlines and drains pass with time alone.
const TICK: Duration = Duration::from_millis(500);

/// How long a silent router is still shown, in milliseconds. The planner counts a router as gone after
/// [`SILENCE_MILLIS`].
///
/// [`SILENCE_MILLIS`]: gantry_model::observed::SILENCE_MILLIS
const FORGOTTEN_MILLIS: u64 = 60_000;

/// Most planning rounds in a row. More rounds would mean that the planner does not converge.
const STEPS_MAX: usize = 64;

/// Consistent snapshot of records, reports and time.
#[derive(Clone)]
pub struct ClusterView {
    pub(crate) records: Arc<RecordIndex>,
    pub(crate) observed: Arc<ObservedCluster>,
    pub(crate) report: Arc<PlanReport>,
    pub(crate) now: Moment,
    pub(crate) jumps: Arc<ClockJumps>,
}

/// Decides a change of the records: pure, given the records and the time.
type Mutation = Box<dyn FnOnce(&RecordIndex, Moment) -> Result<Vec<RecordChange>, Problem> + Send>;

enum CoreMessage {
    Mutate(Mutation, oneshot::Sender<Result<(), Problem>>),
    Machine(MachineName, MachineReport),
    Router(MachineName, RouterReport),
}

/// A handle to the core.
#[derive(Clone)]
pub(crate) struct CoreHandle {
    messages: mpsc::Sender<CoreMessage>,
    views: watch::Receiver<ClusterView>,
    store: Arc<dyn Store>,
}

impl CoreHandle {
    /// Returns the current view.
    pub(crate) fn view(&self) -> ClusterView {
        self.views.borrow().clone()
    }

    /// Subscribes to new views.
    pub(crate) fn views(&self) -> watch::Receiver<ClusterView> {
        self.views.clone()
    }

    /// Changes the records. On return the changes are durable, and the plan accounts for them.
    pub(crate) async fn mutate<T: Send + 'static>(
        &self,
        mutation: impl FnOnce(&RecordIndex, Moment) -> Result<(Vec<RecordChange>, T), Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (reply, replied) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let mutation: Mutation = Box::new(move |records, now| {
            let (changes, value) = mutation(records, now)?;
            let _ = reply.send(value);
            Ok(changes)
        });
        let gone = || Problem::new(503, "the server is shutting down; try again");
        self.messages.send(CoreMessage::Mutate(mutation, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())??;
        replied.await.map_err(|_| gone())
    }

    /// Discards earlier revisions of the records. Only a store that keeps revisions until told otherwise needs this
    /// call.
    pub(crate) async fn compact(&self) -> Result<(), gantry_store::StoreError> {
        let head = self.store.list(leadership::KEY).await?.revision;
        self.store.compact(head).await
    }

    /// Passes the report of an agent to the core.
    pub(crate) async fn machine(&self, machine: MachineName, report: MachineReport) {
        let _ = self.messages.send(CoreMessage::Machine(machine, report)).await;
    }

    /// Passes the report of a router to the core.
    pub(crate) async fn router(&self, machine: MachineName, report: RouterReport) {
        let _ = self.messages.send(CoreMessage::Router(machine, report)).await;
    }
}

/// Loads the records and starts the core. The core's task ends only with an error.
pub(crate) async fn start(
    store: Arc<dyn Store>,
    leadership: Leadership,
    settings: &ServerSettings,
) -> Result<(CoreHandle, JoinHandle<ServerError>), ServerError> {
    let term = leadership.revision().await;
    let listing = store.list("").await?;
    let records = RecordIndex::load(&listing.entries)?;
    let clock = clock::start();
    let now = now();
    let mut jumps = ClockJumps::default();
    if let Some(jump) = mutations::clock_went_back(&records, now) {
        tracing::warn!("the newest event lies in the future: {jump}");
        jumps.push(reading().awake, jump);
    }
    let view = ClusterView {
        records: Arc::new(records),
        observed: Arc::new(ObservedCluster { began: now, ..ObservedCluster::default() }),
        report: Arc::default(),
        now,
        jumps: Arc::new(jumps),
    };
    let (views, receiver) = watch::channel(view);
    let (messages, inbox) = mpsc::channel(256);
    let handle = CoreHandle { messages, views: receiver, store: Arc::clone(&store) };
    let core = Core {
        store,
        leadership,
        policy: settings.policy.clone(),
        views,
        stale: AtomicBool::new(false),
        term: AtomicI64::new(term),
        clock: Mutex::new(clock),
        refused: AtomicBool::new(false),
    };
    Ok((handle, tokio::spawn(core.run(inbox))))
}

/// Response for a failed request to the store: status 503, with the causes.
fn away(error: &ServerError) -> Problem {
    Problem::new(503, causes(error))
}

/// Returns the wall clock's time, for comparison with dates. Durations are taken from [`ClusterView::now`].
pub(crate) fn now() -> Moment {
    reading().wall
}

struct Core {
    store: Arc<dyn Store>,
    leadership: Leadership,
    policy: gantry_planner::PlannerPolicy,
    views: watch::Sender<ClusterView>,
    /// The outcome of a write is unknown. The records must be read again before the next decision.
    stale: AtomicBool,
    /// Fencing token under which the records were read.
    term: AtomicI64,
    clock: Mutex<SteadyClock>,
    /// The last plan could not be written, and the log already says so.
    refused: AtomicBool,
}

impl Core {
    async fn run(self, mut inbox: mpsc::Receiver<CoreMessage>) -> ServerError {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let handled = tokio::select! {
                Some(message) = inbox.recv() => self.handle(message).await,
                _ = tick.tick() => Ok(()),
            };
            if let Err(error) = handled {
                return error;
            }
            if let Err(error) = self.settle().await {
                return error;
            }
        }
    }

    /// Reads the records again if the store may hold others.
    async fn refresh(&self) -> Result<(), ServerError> {
        let term = self.leadership.revision().await;
        // A changed token means that leadership was lost in between: another server may have written.
        if !self.stale.load(Ordering::Relaxed) && term == self.term.load(Ordering::Relaxed) {
            return Ok(());
        }
        let listing = self.store.list("").await?;
        let leads = |entry: &gantry_store::StoreEntry| entry.key == leadership::KEY && entry.created == term;
        if !listing.entries.iter().any(leads) {
            // The next refresh reads the records under the new token, or learns that another server leads.
            self.leadership.take_again(term).await?;
            return Err(ServerError::Interrupted);
        }
        let records = Arc::new(RecordIndex::load(&listing.entries)?);
        self.views.send_modify(|view| view.records = records);
        self.stale.store(false, Ordering::Relaxed);
        self.term.store(term, Ordering::Relaxed);
        Ok(())
    }

    fn clock(&self) -> MutexGuard<'_, SteadyClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time by the core's own clock, which no jump of the wall clock affects.
    fn now(&self) -> Moment {
        self.clock().now(reading())
    }

    /// Follows a jump of the wall clock: moves by the same amount all stamps from which durations are counted, and only
    /// then lets the core's clock show the wall clock again. If the write fails, stamps and clock stay as they were,
    /// and the next call tries again.
    async fn follow_clock(&self) -> Result<(), ServerError> {
        let reading = reading();
        let Some(jump) = self.clock().jump(reading) else { return Ok(()) };
        let changes = mutations::clock_jumped(&self.views.borrow().records, jump, reading.wall);
        self.write(changes).await?;
        tracing::warn!("{jump}; durations of deploys and leases are not affected");
        self.clock().follow(reading);
        self.views.send_modify(|view| {
            Arc::make_mut(&mut view.observed).move_stamps(jump.by);
            Arc::make_mut(&mut view.jumps).push(reading.awake, jump);
            view.now = reading.wall;
        });
        Ok(())
    }

    /// Handles one mutation or report.
    async fn handle(&self, message: CoreMessage) -> Result<(), ServerError> {
        match message {
            CoreMessage::Mutate(mutation, answer) => {
                match self.fresh().await {
                    Ok(()) => {}
                    Err(error @ ServerError::NotLeading(_)) => return Err(error),
                    Err(error) => {
                        let _ = answer.send(Err(away(&error)));
                        return Ok(());
                    }
                }
                let decided = mutation(&self.views.borrow().records, self.now());
                let result = match decided {
                    Ok(changes) => match self.write_again(changes).await {
                        Ok(()) => self.settle().await.map(|()| Ok(())),
                        Err(error) => Err(error),
                    },
                    Err(problem) => Ok(Err(problem)),
                };
                // An unreachable store refuses only this change. Lost leadership ends the server.
                match result {
                    Ok(result) => drop(answer.send(result)),
                    Err(error @ ServerError::NotLeading(_)) => return Err(error),
                    Err(error) => drop(answer.send(Err(away(&error)))),
                }
                Ok(())
            }
            CoreMessage::Machine(machine, report) => {
                let seen = self.now();
                let told = {
                    let view = self.views.borrow();
                    mutations::events_of_report(&view.records, view.observed.machines.get(&machine), &report, seen)
                };
                self.observe(|observed| {
                    let MachineReport { generation, instances, network } = report;
                    observed.machines.insert(machine, ObservedMachine { generation, instances, network, seen });
                });
                if told.is_empty() {
                    return Ok(());
                }
                match self.write(told).await {
                    Err(error) if !matches!(error, ServerError::NotLeading(_)) => {
                        tracing::warn!(error = causes(&error), "cannot write an event of a machine's report");
                        Ok(())
                    }
                    result => result,
                }
            }
            CoreMessage::Router(machine, report) => {
                let seen = self.now();
                self.observe(|observed| {
                    let RouterReport { number, gone, generation, active, counts, failures } = report;
                    let id = RouterId { machine, number };
                    observed.routers.retain(|other, router| *other != id && seen.since(router.seen) < FORGOTTEN_MILLIS);
                    if !gone {
                        observed.routers.insert(id, ObservedRouter { generation, active, counts, failures, seen });
                    }
                });
                Ok(())
            }
        }
    }

    fn observe(&self, change: impl FnOnce(&mut ObservedCluster)) {
        self.views.send_modify(|view| change(Arc::make_mut(&mut view.observed)));
    }

    /// Plans until nothing changes. If the store cannot be reached, the next tick tries again.
    async fn settle(&self) -> Result<(), ServerError> {
        for _ in 0..STEPS_MAX {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => {
                    self.refused.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error @ ServerError::NotLeading(_)) => return Err(error),
                // Leadership was lost and regained. The decision under the old token is void, so plan again.
                Err(ServerError::Interrupted) => {}
                Err(error) => {
                    // Logged once, because the core tries again twice a second.
                    if !self.refused.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            error = causes(&error),
                            "cannot write the plan; running instances are not affected"
                        );
                    }
                    // Readers of the view still need the current time.
                    let now = self.now();
                    self.views.send_modify(|view| view.now = now);
                    return Ok(());
                }
            }
        }
        tracing::error!("the planner did not converge in {STEPS_MAX} rounds");
        Ok(())
    }

    /// Plans once, writes the changes, and returns whether there were any.
    async fn step(&self) -> Result<bool, ServerError> {
        self.fresh().await?;
        let (records, observed) = {
            let view = self.views.borrow();
            (Arc::clone(&view.records), Arc::clone(&view.observed))
        };
        let now = self.now();
        let decision = plan(&records.desired(), &observed, &records.plan, &self.policy, now);
        let mut changes: Vec<RecordChange> = Vec::new();
        changes.extend(mutations::events_of(&records, &decision, now));
        // A transaction may write each key only once, so the records of a removed app are not changed before.
        let stays = |app: &AppName| !decision.gone.contains(app);
        changes
            .extend(decision.apps.into_iter().filter(|app| stays(&app.name)).map(|app| StoreRecord::App(app).into()));
        let deploys = decision.deploys.into_iter().filter(|deploy| stays(&deploy.app));
        changes.extend(deploys.map(|deploy| StoreRecord::Deploy(deploy).into()));
        for (machine, part) in decision.plan.machines {
            if records.plan.machines.get(&machine) != Some(&part) {
                changes.push(StoreRecord::Machine(machine, part).into());
            }
        }
        if records.plan.table != decision.plan.table {
            changes.push(StoreRecord::Table(decision.plan.table).into());
        }
        for app in decision.gone {
            changes.extend(removal(&records, &app));
        }
        let changed = !changes.is_empty();
        self.commit(&changes).await?;
        // One update of the view for both, so that the reported reasons belong to the plan just written.
        self.views.send_modify(|view| {
            let records = Arc::make_mut(&mut view.records);
            changes.into_iter().for_each(|change| records.apply(change));
            view.report = Arc::new(decision.report);
            view.now = now;
        });
        Ok(changed)
    }

    /// Brings records and clock up to date before a decision.
    async fn fresh(&self) -> Result<(), ServerError> {
        let refreshed = match self.refresh().await {
            Err(ServerError::Interrupted) => self.refresh().await,
            refreshed => refreshed,
        };
        refreshed?;
        match self.follow_clock().await {
            Err(error @ ServerError::NotLeading(_)) => Err(error),
            Err(ServerError::Interrupted) => self.refresh().await,
            // On a read-only disk the stamps cannot move; with its old anchor the clock is equally right.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// Writes changes as [`Core::write`] does, and repeats a write that a loss of leadership interrupted. The
    /// repetition requires that this server leads again and that the records are unchanged: then the decision is still
    /// valid.
    async fn write_again(&self, changes: Vec<RecordChange>) -> Result<(), ServerError> {
        let before = Arc::clone(&self.views.borrow().records);
        match self.write(changes.clone()).await {
            Err(ServerError::Interrupted) => {}
            written => return written,
        }
        self.refresh().await?;
        if *self.views.borrow().records != *before {
            return Err(ServerError::Interrupted);
        }
        self.write(changes).await
    }

    /// Writes changes to the store, and only then applies them to the view.
    async fn write(&self, changes: Vec<RecordChange>) -> Result<(), ServerError> {
        self.commit(&changes).await?;
        self.views.send_modify(|view| {
            let records = Arc::make_mut(&mut view.records);
            changes.into_iter().for_each(|change| records.apply(change));
        });
        Ok(())
    }

    /// Writes changes to the store, guarded by the leadership key.
    async fn commit(&self, changes: &[RecordChange]) -> Result<(), ServerError> {
        let all =
            writes(changes).map_err(|error| ServerError::Record { key: String::new(), why: error.to_string() })?;
        // Changes that belong together are far smaller than one transaction. Only the removal of a long history is
        // split; if interrupted, the next planning round continues the removal.
        for part in all.chunks(TXN_MAX - 1) {
            let term = self.term.load(Ordering::Relaxed);
            let guarded = txn(part.to_vec()).when(TxnCondition::Created(leadership::KEY.to_owned(), term));
            gantry_failpoint::failpoint!("store.decided");
            match self.store.commit(guarded).await {
                Ok(TxnOutcome::Committed(_)) => gantry_failpoint::failpoint!("store.committed"),
                Ok(TxnOutcome::Conflict) => {
                    self.leadership.take_again(term).await?;
                    return Err(ServerError::Interrupted);
                }
                Err(error) if error.is_refusal() => return Err(error.into()),
                Err(error) => {
                    self.stale.store(true, Ordering::Relaxed);
                    return Err(error.into());
                }
            }
        }
        changes.iter().for_each(mark);
        Ok(())
    }
}

/// Runs the failpoint of the deploy state that a committed change entered.
fn mark(change: &RecordChange) {
    let RecordChange::Put(record) = change else { return };
    let StoreRecord::Deploy(deploy) = &**record else { return };
    match deploy.state {
        DeployState::Queued => {}
        DeployState::Building => gantry_failpoint::failpoint!("deploy.building"),
        DeployState::Placing => gantry_failpoint::failpoint!("deploy.placing"),
        DeployState::Starting => gantry_failpoint::failpoint!("deploy.starting"),
        DeployState::Verifying => gantry_failpoint::failpoint!("deploy.verifying"),
        DeployState::Held => gantry_failpoint::failpoint!("deploy.held"),
        DeployState::Promoting => gantry_failpoint::failpoint!("deploy.promoting"),
        DeployState::Draining => gantry_failpoint::failpoint!("deploy.draining"),
        DeployState::Done => gantry_failpoint::failpoint!("deploy.done"),
        DeployState::Reverting => gantry_failpoint::failpoint!("deploy.reverting"),
        DeployState::Reverted => gantry_failpoint::failpoint!("deploy.reverted"),
        DeployState::Superseded => gantry_failpoint::failpoint!("deploy.superseded"),
    }
}

/// Returns the removal of every record of an app. The app's own record comes last, so that an interrupted removal
/// starts again.
fn removal(records: &RecordIndex, app: &AppName) -> Vec<RecordChange> {
    let releases = records.releases.get(app).into_iter().flatten().map(|(number, _)| release_key(app, *number));
    let of_app = |scope: &Scope| matches!(scope, Scope::Deploy { app: of } if of == app);
    let tokens = records.tokens.iter().filter(|(_, token)| of_app(&token.scope)).map(|(hash, _)| token_key(hash));
    let deploys = records.deploys.get(app).into_iter().flatten().map(|(number, _)| deploy_key(app, *number));
    let builds = records.builds.keys().filter(|(of, _)| of == app).map(|(_, commit)| build_key(app, commit));
    let tags = records.tags.get(app.as_str()).into_iter().flatten().map(|(tag, _)| tag_key(app.as_str(), tag));
    let manifests = records.manifests.get(app.as_str()).into_iter().flatten();
    let manifests = manifests.map(|(digest, _)| manifest_key(app.as_str(), digest));
    releases
        .chain(tokens)
        .chain(deploys)
        .chain(builds)
        .chain(tags)
        .chain(manifests)
        .chain([format!("apps/{app}")])
        .map(RecordChange::Remove)
        .collect()
}
