//! The owner of all records: one task, which alone writes to the store.
//!
//! It takes mutations and reports one at a time. After each, and twice a second, it plans until nothing changes; every
//! step of that is one transaction, guarded by the lead. What others may know is published as a [`View`].

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_api::Problem;
use gantry_api::types::{MachineReport, RouterReport, Scope};
use gantry_model::clock::{Clock, Jumps};
use gantry_model::{AppName, DeployState, MachineName, Moment, Observed, ObservedMachine, ObservedRouter, RouterId};
use gantry_planner::{Report, plan};
use gantry_store::{Compare, Outcome, Store, TXN_MAX};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock::{self, reading};
use crate::leader::{self, Lead};
use crate::mirror::{
    Change, Mirror, Record, build_key, deploy_key, manifest_key, release_key, tag_key, token_key, txn, writes,
};
use crate::settings::Settings;
use crate::{ServerError, causes, mutations};

/// How often it plans when nothing else happens: deadlines and drains pass.
const TICK: Duration = Duration::from_millis(500);

/// A router that was silent this long is no longer shown; for the plan it was gone after [`SILENCE_MILLIS`].
///
/// [`SILENCE_MILLIS`]: gantry_model::observed::SILENCE_MILLIS
const FORGOTTEN_MILLIS: u64 = 60_000;

/// Steps of one planning; more would mean that it does not come to rest.
const STEPS_MAX: usize = 64;

/// Everything, at one moment.
#[derive(Clone)]
pub struct View {
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) observed: Arc<Observed>,
    pub(crate) report: Arc<Report>,
    pub(crate) now: Moment,
    pub(crate) jumps: Arc<Jumps>,
}

/// Decides a change of the records: pure, given the records and the time.
type Mutation = Box<dyn FnOnce(&Mirror, Moment) -> Result<Vec<Change>, Problem> + Send>;

enum Message {
    Mutate(Mutation, oneshot::Sender<Result<(), Problem>>),
    Machine(MachineName, MachineReport),
    Router(MachineName, RouterReport),
}

/// A handle to the core.
#[derive(Clone)]
pub(crate) struct Handle {
    messages: mpsc::Sender<Message>,
    views: watch::Receiver<View>,
    store: Arc<dyn Store>,
}

impl Handle {
    /// What is known now.
    pub(crate) fn view(&self) -> View {
        self.views.borrow().clone()
    }

    /// To be told of what comes.
    pub(crate) fn views(&self) -> watch::Receiver<View> {
        self.views.clone()
    }

    /// Changes the records. When it returns they are durable, and planned upon.
    pub(crate) async fn mutate<T: Send + 'static>(
        &self,
        mutation: impl FnOnce(&Mirror, Moment) -> Result<(Vec<Change>, T), Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (reply, replied) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let mutation: Mutation = Box::new(move |mirror, now| {
            let (changes, value) = mutation(mirror, now)?;
            let _ = reply.send(value);
            Ok(changes)
        });
        let gone = || Problem::new(503, "the server is ending; try again");
        self.messages.send(Message::Mutate(mutation, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())??;
        replied.await.map_err(|_| gone())
    }

    /// Forgets what the records were: only a store grows by it that nobody tells to forget.
    pub(crate) async fn compact(&self) -> Result<(), gantry_store::StoreError> {
        let head = self.store.list(leader::KEY).await?.revision;
        self.store.compact(head).await
    }

    /// An agent spoke.
    pub(crate) async fn machine(&self, machine: MachineName, report: MachineReport) {
        let _ = self.messages.send(Message::Machine(machine, report)).await;
    }

    /// A router spoke.
    pub(crate) async fn router(&self, machine: MachineName, report: RouterReport) {
        let _ = self.messages.send(Message::Router(machine, report)).await;
    }
}

/// Loads the records and starts the core; its task ends only with an error.
pub(crate) async fn start(
    store: Arc<dyn Store>,
    lead: Lead,
    settings: &Settings,
) -> Result<(Handle, JoinHandle<ServerError>), ServerError> {
    let term = lead.revision().await;
    let listing = store.list("").await?;
    let mirror = Mirror::load(&listing.entries)?;
    let clock = clock::start();
    let now = now();
    let mut jumps = Jumps::default();
    if let Some(jump) = mutations::clock_went_back(&mirror, now) {
        tracing::warn!("the newest event is of a later time: {jump}");
        jumps.push(reading().awake, jump);
    }
    let view = View {
        mirror: Arc::new(mirror),
        observed: Arc::new(Observed { began: now, ..Observed::default() }),
        report: Arc::default(),
        now,
        jumps: Arc::new(jumps),
    };
    let (views, receiver) = watch::channel(view);
    let (messages, inbox) = mpsc::channel(256);
    let handle = Handle { messages, views: receiver, store: Arc::clone(&store) };
    let core = Core {
        store,
        lead,
        policy: settings.policy.clone(),
        views,
        stale: AtomicBool::new(false),
        term: AtomicI64::new(term),
        clock: Mutex::new(clock),
        refused: AtomicBool::new(false),
    };
    Ok((handle, tokio::spawn(core.run(inbox))))
}

/// A store that could not be asked.
fn away(error: &ServerError) -> Problem {
    Problem::new(503, causes(error))
}

/// The wall clock's time: for what ends at a date. Durations are taken from [`View::now`].
pub(crate) fn now() -> Moment {
    reading().wall
}

struct Core {
    store: Arc<dyn Store>,
    lead: Lead,
    policy: gantry_planner::Policy,
    views: watch::Sender<View>,
    /// A write's outcome is not known: the records must be read again before anything is decided upon them.
    stale: AtomicBool,
    /// The token of the lead that the records were read under.
    term: AtomicI64,
    clock: Mutex<Clock>,
    /// The last write was refused, and that was told.
    refused: AtomicBool,
}

impl Core {
    async fn run(self, mut inbox: mpsc::Receiver<Message>) -> ServerError {
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

    /// Reads the records again, if they may not be what the store has.
    async fn refresh(&self) -> Result<(), ServerError> {
        let term = self.lead.revision().await;
        // Taken again: another server may have written between.
        if !self.stale.load(Ordering::Relaxed) && term == self.term.load(Ordering::Relaxed) {
            return Ok(());
        }
        let listing = self.store.list("").await?;
        let leads = |entry: &gantry_store::Entry| entry.key == leader::KEY && entry.created == term;
        if !listing.entries.iter().any(leads) {
            // The next look finds the records under the new token, or that another server leads.
            self.lead.take_again(term).await?;
            return Err(ServerError::Interrupted);
        }
        let mirror = Arc::new(Mirror::load(&listing.entries)?);
        self.views.send_modify(|view| view.mirror = mirror);
        self.stale.store(false, Ordering::Relaxed);
        self.term.store(term, Ordering::Relaxed);
        Ok(())
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, which passes whatever the wall clock does.
    fn now(&self) -> Moment {
        self.clock().now(reading())
    }

    /// A wall clock that jumped takes the stamps with it that durations are counted from; only then the time is its own again. A write that
    /// fails leaves both as they were, and is tried again.
    async fn follow_clock(&self) -> Result<(), ServerError> {
        let reading = reading();
        let Some(jump) = self.clock().jump(reading) else { return Ok(()) };
        let changes = mutations::clock_jumped(&self.views.borrow().mirror, jump, reading.wall);
        self.write(changes).await?;
        tracing::warn!("{jump}; nothing is affected that counts the time");
        self.clock().follow(reading);
        self.views.send_modify(|view| {
            Arc::make_mut(&mut view.observed).move_stamps(jump.by);
            Arc::make_mut(&mut view.jumps).push(reading.awake, jump);
            view.now = reading.wall;
        });
        Ok(())
    }

    async fn handle(&self, message: Message) -> Result<(), ServerError> {
        match message {
            Message::Mutate(mutation, answer) => {
                match self.fresh().await {
                    Ok(()) => {}
                    Err(error @ ServerError::NotLeading(_)) => return Err(error),
                    Err(error) => {
                        let _ = answer.send(Err(away(&error)));
                        return Ok(());
                    }
                }
                let decided = mutation(&self.views.borrow().mirror, self.now());
                let result = match decided {
                    Ok(changes) => match self.write_again(changes).await {
                        Ok(()) => self.settle().await.map(|()| Ok(())),
                        Err(error) => Err(error),
                    },
                    Err(problem) => Ok(Err(problem)),
                };
                // A store that is away refuses this change and nothing more; a lost lead ends the server.
                match result {
                    Ok(result) => drop(answer.send(result)),
                    Err(error @ ServerError::NotLeading(_)) => return Err(error),
                    Err(error) => drop(answer.send(Err(away(&error)))),
                }
                Ok(())
            }
            Message::Machine(machine, report) => {
                let seen = self.now();
                let told = {
                    let view = self.views.borrow();
                    mutations::events_of_report(&view.mirror, view.observed.machines.get(&machine), &report, seen)
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
                        tracing::warn!(error = causes(&error), "an event was not written");
                        Ok(())
                    }
                    result => result,
                }
            }
            Message::Router(machine, report) => {
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

    fn observe(&self, change: impl FnOnce(&mut Observed)) {
        self.views.send_modify(|view| change(Arc::make_mut(&mut view.observed)));
    }

    /// Plans until nothing changes. A store that is away is tried again at the next tick.
    async fn settle(&self) -> Result<(), ServerError> {
        for _ in 0..STEPS_MAX {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => {
                    self.refused.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error @ ServerError::NotLeading(_)) => return Err(error),
                // What was decided under the token of before is decided again.
                Err(ServerError::Interrupted) => {}
                Err(error) => {
                    // Said once: it is tried again twice a second.
                    if !self.refused.swap(true, Ordering::Relaxed) {
                        tracing::warn!(error = causes(&error), "cannot write the plan; what runs goes on");
                    }
                    // The time goes on for whoever asks.
                    let now = self.now();
                    self.views.send_modify(|view| view.now = now);
                    return Ok(());
                }
            }
        }
        tracing::error!("the planner did not come to rest in {STEPS_MAX} steps");
        Ok(())
    }

    /// One planning; whether it changed anything.
    async fn step(&self) -> Result<bool, ServerError> {
        self.fresh().await?;
        let (mirror, observed) = {
            let view = self.views.borrow();
            (Arc::clone(&view.mirror), Arc::clone(&view.observed))
        };
        let now = self.now();
        let decision = plan(&mirror.desired(), &observed, &mirror.plan, &self.policy, now);
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(mutations::events_of(&mirror, &decision, now));
        // A key is written once in a transaction: what goes is not changed before.
        let stays = |app: &AppName| !decision.gone.contains(app);
        changes.extend(decision.apps.into_iter().filter(|app| stays(&app.name)).map(|app| Record::App(app).into()));
        let deploys = decision.deploys.into_iter().filter(|deploy| stays(&deploy.app));
        changes.extend(deploys.map(|deploy| Record::Deploy(deploy).into()));
        for (machine, part) in decision.plan.machines {
            if mirror.plan.machines.get(&machine) != Some(&part) {
                changes.push(Record::Machine(machine, part).into());
            }
        }
        if mirror.plan.table != decision.plan.table {
            changes.push(Record::Table(decision.plan.table).into());
        }
        for app in decision.gone {
            changes.extend(removal(&mirror, &app));
        }
        let changed = !changes.is_empty();
        self.commit(&changes).await?;
        // One view for both: the reasons are those of what was written.
        self.views.send_modify(|view| {
            let mirror = Arc::make_mut(&mut view.mirror);
            changes.into_iter().for_each(|change| mirror.apply(change));
            view.report = Arc::new(decision.report);
            view.now = now;
        });
        Ok(changed)
    }

    /// The records and the clock are as they should be before anything is decided.
    async fn fresh(&self) -> Result<(), ServerError> {
        let refreshed = match self.refresh().await {
            Err(ServerError::Interrupted) => self.refresh().await,
            refreshed => refreshed,
        };
        refreshed?;
        match self.follow_clock().await {
            Err(error @ ServerError::NotLeading(_)) => Err(error),
            Err(ServerError::Interrupted) => self.refresh().await,
            // On a disk that takes no writes the time is as right by the old anchor.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// As [`Core::write`]. Was the lead taken again meanwhile, and the records are what they were, then so is the decision.
    async fn write_again(&self, changes: Vec<Change>) -> Result<(), ServerError> {
        let before = Arc::clone(&self.views.borrow().mirror);
        match self.write(changes.clone()).await {
            Err(ServerError::Interrupted) => {}
            written => return written,
        }
        self.refresh().await?;
        if *self.views.borrow().mirror != *before {
            return Err(ServerError::Interrupted);
        }
        self.write(changes).await
    }

    /// Writes changes, and only then takes them over.
    async fn write(&self, changes: Vec<Change>) -> Result<(), ServerError> {
        self.commit(&changes).await?;
        self.views.send_modify(|view| {
            let mirror = Arc::make_mut(&mut view.mirror);
            changes.into_iter().for_each(|change| mirror.apply(change));
        });
        Ok(())
    }

    /// Writes changes under the lead.
    async fn commit(&self, changes: &[Change]) -> Result<(), ServerError> {
        let all =
            writes(changes).map_err(|error| ServerError::Record { key: String::new(), why: error.to_string() })?;
        // What belongs together is far smaller; only the removal of a long history is cut, and goes on at the next step.
        for part in all.chunks(TXN_MAX - 1) {
            let term = self.term.load(Ordering::Relaxed);
            let guarded = txn(part.to_vec()).when(Compare::Created(leader::KEY.to_owned(), term));
            gantry_linux::step!("store.decided");
            match self.store.commit(guarded).await {
                Ok(Outcome::Committed(_)) => gantry_linux::step!("store.committed"),
                Ok(Outcome::Conflict) => {
                    self.lead.take_again(term).await?;
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

/// Each state of a deploy is a step of its own.
fn mark(change: &Change) {
    let Change::Put(record) = change else { return };
    let Record::Deploy(deploy) = &**record else { return };
    match deploy.state {
        DeployState::Queued => {}
        DeployState::Building => gantry_linux::step!("deploy.building"),
        DeployState::Placing => gantry_linux::step!("deploy.placing"),
        DeployState::Starting => gantry_linux::step!("deploy.starting"),
        DeployState::Verifying => gantry_linux::step!("deploy.verifying"),
        DeployState::Held => gantry_linux::step!("deploy.held"),
        DeployState::Promoting => gantry_linux::step!("deploy.promoting"),
        DeployState::Draining => gantry_linux::step!("deploy.draining"),
        DeployState::Done => gantry_linux::step!("deploy.done"),
        DeployState::Reverting => gantry_linux::step!("deploy.reverting"),
        DeployState::Reverted => gantry_linux::step!("deploy.reverted"),
        DeployState::Superseded => gantry_linux::step!("deploy.superseded"),
    }
}

/// Every record of an app; the app's own last, so that a removal that was cut is begun again.
fn removal(mirror: &Mirror, app: &AppName) -> Vec<Change> {
    let releases = mirror.releases.get(app).into_iter().flatten().map(|(number, _)| release_key(app, *number));
    let of_app = |scope: &Scope| matches!(scope, Scope::Deploy { app: of } if of == app);
    let tokens = mirror.tokens.iter().filter(|(_, token)| of_app(&token.scope)).map(|(hash, _)| token_key(hash));
    let deploys = mirror.deploys.get(app).into_iter().flatten().map(|(number, _)| deploy_key(app, *number));
    let builds = mirror.builds.keys().filter(|(of, _)| of == app).map(|(_, commit)| build_key(app, commit));
    let tags = mirror.tags.get(app.as_str()).into_iter().flatten().map(|(tag, _)| tag_key(app.as_str(), tag));
    let manifests = mirror.manifests.get(app.as_str()).into_iter().flatten();
    let manifests = manifests.map(|(digest, _)| manifest_key(app.as_str(), digest));
    releases
        .chain(tokens)
        .chain(deploys)
        .chain(builds)
        .chain(tags)
        .chain(manifests)
        .chain([format!("apps/{app}")])
        .map(Change::Remove)
        .collect()
}
