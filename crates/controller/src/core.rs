//! The owner of all records: one task, which alone writes to the store.
//!
//! It takes mutations and reports one at a time. After each, and twice a second, it plans until nothing changes; every
//! step of that is one transaction, guarded by the lead. What others may know is published as a [`View`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_api::Problem;
use gantry_api::types::{MachineReport, RouterReport, Scope};
use gantry_model::{AppName, DeployState, MachineName, Moment, Observed, ObservedMachine, ObservedRouter, RouterId};
use gantry_planner::{Report, plan};
use gantry_store::{Compare, Outcome, Store, TXN_MAX};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

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
    let listing = store.list("").await?;
    let mirror = Mirror::load(&listing.entries)?;
    let view = View {
        mirror: Arc::new(mirror),
        observed: Arc::new(Observed { began: now(), ..Observed::default() }),
        report: Arc::default(),
        now: now(),
    };
    let (views, receiver) = watch::channel(view);
    let (messages, inbox) = mpsc::channel(256);
    let handle = Handle { messages, views: receiver, store: Arc::clone(&store) };
    let core = Core { store, lead, policy: settings.policy.clone(), views, stale: AtomicBool::new(false) };
    Ok((handle, tokio::spawn(core.run(inbox))))
}

/// A store that could not be asked.
fn away(error: &ServerError) -> Problem {
    Problem::new(503, causes(error))
}

/// The server's clock.
pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

struct Core {
    store: Arc<dyn Store>,
    lead: Lead,
    policy: gantry_planner::Policy,
    views: watch::Sender<View>,
    /// A write's outcome is not known: the records must be read again before anything is decided upon them.
    stale: AtomicBool,
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
        if !self.stale.load(Ordering::Relaxed) {
            return Ok(());
        }
        let listing = self.store.list("").await?;
        let leads = |entry: &gantry_store::Entry| entry.key == leader::KEY && entry.created == self.lead.revision;
        if !listing.entries.iter().any(leads) {
            return Err(ServerError::NotLeading("the lead was taken over".to_owned()));
        }
        let mirror = Arc::new(Mirror::load(&listing.entries)?);
        self.views.send_modify(|view| view.mirror = mirror);
        self.stale.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn handle(&self, message: Message) -> Result<(), ServerError> {
        match message {
            Message::Mutate(mutation, answer) => {
                match self.refresh().await {
                    Ok(()) => {}
                    Err(error @ ServerError::NotLeading(_)) => return Err(error),
                    Err(error) => {
                        let _ = answer.send(Err(away(&error)));
                        return Ok(());
                    }
                }
                let decided = mutation(&self.views.borrow().mirror, now());
                let result = match decided {
                    Ok(changes) => match self.write(changes).await {
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
                let seen = now();
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
                let seen = now();
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
                Ok(false) => return Ok(()),
                Err(error @ ServerError::NotLeading(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(error = causes(&error), "cannot write the plan; what runs goes on");
                    return Ok(());
                }
            }
        }
        tracing::error!("the planner did not come to rest in {STEPS_MAX} steps");
        Ok(())
    }

    /// One planning; whether it changed anything.
    async fn step(&self) -> Result<bool, ServerError> {
        self.refresh().await?;
        let (mirror, observed) = {
            let view = self.views.borrow();
            (Arc::clone(&view.mirror), Arc::clone(&view.observed))
        };
        let now = now();
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
            let guarded = txn(part.to_vec()).when(Compare::Created(leader::KEY.to_owned(), self.lead.revision));
            gantry_linux::step!("store.decided");
            match self.store.commit(guarded).await {
                Ok(Outcome::Committed(_)) => gantry_linux::step!("store.committed"),
                Ok(Outcome::Conflict) => return Err(ServerError::NotLeading("the lead was taken over".to_owned())),
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
