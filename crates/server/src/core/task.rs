//! The core's task: applies messages, plans until nothing changes, and writes under the leadership key.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use gantry_admission as admission;
use gantry_admission::{JumpedRecords, Refusal};
use gantry_cluster::{
    ChangeGroup, ChangedParts, CoreEvent, CoreState, DirtySet, PlannedStep, PublishedView, transactions,
};
use gantry_control::{MachineReport, RouterReport};
use gantry_model::clock::{ClockJumps, SteadyClock};
use gantry_model::{ClusterId, ClusterPolicy, DeployState, MachineName, Moment, RouterId};
use gantry_store::{Revision, Store, TXN_MAX, Txn, TxnCondition, TxnOutcome, TxnWrite};
use tokio::sync::{mpsc, oneshot};

use super::INBOX_MAX;
use super::load::{LoadedRecords, load};
use super::notify::Notifier;
use crate::clock::{self, reading};
use crate::leadership::{self, Leadership};
use crate::{ChangeError, ServerError, causes};
use gantry_records::{RecordChange, RecordIndex, StoreRecord};

/// Interval of planning for deadlines and drains, which pass with time alone.
const TICK: Duration = Duration::from_millis(500);

/// Maximum number of planning rounds in a row. More rounds would mean that the planner does not converge.
const ROUNDS_MAX: usize = 64;

/// Decides a change of the records: pure, given the records and the time.
pub(super) type Mutation = Box<dyn FnOnce(&RecordIndex, Moment) -> Result<Vec<RecordChange>, Refusal> + Send>;

/// A message to the core.
pub(super) enum CoreMessage {
    Mutate(Mutation, oneshot::Sender<Result<(), ChangeError>>),
    Machine(MachineName, MachineReport),
    MachineAlive(MachineName, Arc<MachineReport>),
    /// An agent confirms its last report and asks for a lease. The answer means that the report counts.
    Lease(MachineName, Arc<MachineReport>, oneshot::Sender<()>),
    Router(MachineName, RouterReport),
    RouterAlive(RouterId, Arc<RouterReport>),
}

/// The core's task with everything that it owns.
pub(super) struct CoreTask {
    store: Arc<dyn Store>,
    leadership: Leadership,
    state: CoreState,
    notifier: Arc<Notifier>,
    clock: SteadyClock,
    /// Apps and machines that the next plan must look at.
    dirty: DirtySet,
    /// Changed parts, whose subscribers are woken once the present step is written.
    changed: ChangedParts,
    /// The outcome of a write is unknown. The records must be read again before the next decision.
    stale: bool,
    /// Fencing token under which the records were read.
    term: Revision,
    /// The last plan could not be written, and the log already says so.
    refused: bool,
    /// The records after a jump of the wall clock, until they are known to be written.
    jumped: Option<JumpedRecords>,
    /// Another server may have written stamps by its own clock since this server last led.
    has_foreign_stamps: bool,
}

impl CoreTask {
    /// Reads the records from the store.
    pub(super) async fn load(store: Arc<dyn Store>, leadership: Leadership) -> Result<Self, ServerError> {
        let term = leadership.revision().await;
        let LoadedRecords { records, refused } = load(&*store, store.list("").await?.entries, term).await?;
        // The previous server may have had a clock that was ahead. Its stamps follow this server's clock before the first
        // decision.
        let clock = clock::start_after(admission::newest_stamp(&records));
        let now = clock.now(reading());
        Ok(Self {
            store,
            leadership,
            state: CoreState::new(records, ClockJumps::default(), now),
            notifier: Arc::default(),
            clock,
            dirty: DirtySet::everything(),
            changed: ChangedParts::default(),
            stale: refused.is_some(),
            term,
            refused: false,
            jumped: None,
            has_foreign_stamps: false,
        })
    }

    /// Writes the server's settings as the first cluster policy, before anything is planned. On a disk that takes no
    /// writes, the settings hold for this process alone.
    pub(super) async fn adopt_policy(&mut self, settings: &ClusterPolicy) -> Result<(), ServerError> {
        let changes = admission::adopt_policy(&self.state.view().records, self.now(), settings);
        match self.commit_again(vec![changes.clone()]).await {
            Err(ServerError::Store(error)) if error.is_refusal() => {
                self.apply(CoreEvent::Committed(changes));
                Ok(())
            }
            written => written,
        }
    }

    /// Writes `fresh` as the identity of a cluster that has none. On a disk that takes no writes, the cluster has none yet.
    pub(super) async fn adopt_identity(&mut self, fresh: ClusterId) -> Result<(), ServerError> {
        let changes = admission::adopt_identity(&self.state.view().records, fresh);
        match self.commit_again(vec![changes]).await {
            Err(ServerError::Store(error)) if error.is_refusal() => Ok(()),
            written => written,
        }
    }

    pub(super) fn published(&self) -> PublishedView {
        self.state.published()
    }

    pub(super) fn notifier(&self) -> Arc<Notifier> {
        Arc::clone(&self.notifier)
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<CoreMessage>) -> ServerError {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let handled = tokio::select! {
                Some(message) = inbox.recv() => self.handle_all(message, &mut inbox).await,
                _ = tick.tick() => self.tick().await,
            };
            if let Err(error) = handled {
                return error;
            }
            if let Err(error) = self.plan_until_stable().await {
                return error;
            }
        }
    }

    /// Handles a message and the messages that wait behind it, so that one plan serves all of them.
    async fn handle_all(
        &mut self,
        first: CoreMessage,
        inbox: &mut mpsc::Receiver<CoreMessage>,
    ) -> Result<(), ServerError> {
        self.handle(first).await?;
        for _ in 1..INBOX_MAX {
            let Ok(message) = inbox.try_recv() else { break };
            self.handle(message).await?;
        }
        Ok(())
    }

    pub(super) async fn handle(&mut self, message: CoreMessage) -> Result<(), ServerError> {
        let trail = match message {
            CoreMessage::Mutate(mutation, reply) => {
                // An unreachable store refuses only this change. Lost leadership ends the server.
                let result = match self.mutate(mutation).await {
                    Err(error @ ServerError::NotLeading(_)) => return Err(error),
                    Err(error) => Err(ChangeError::Store(causes(&error))),
                    Ok(result) => result,
                };
                let _ = reply.send(result);
                return Ok(());
            }
            CoreMessage::Machine(machine, report) => self.apply(CoreEvent::Machine(machine, report)),
            CoreMessage::MachineAlive(machine, report) => self.apply(CoreEvent::MachineAlive(machine, report)),
            CoreMessage::Lease(machine, report, reply) => {
                let trail = self.apply(CoreEvent::MachineAlive(machine, report));
                let _ = reply.send(());
                trail
            }
            CoreMessage::Router(machine, report) => self.apply(CoreEvent::Router(machine, report)),
            CoreMessage::RouterAlive(router, report) => self.apply(CoreEvent::RouterAlive(router, report)),
        };
        self.record(trail).await
    }

    /// Judges the machines, and records which were lost. Some apps have their turn to be planned.
    async fn tick(&mut self) -> Result<(), ServerError> {
        self.dirty.merge(self.state.take_turns());
        let trail = self.apply(CoreEvent::Tick);
        self.record(trail).await
    }

    /// Writes events of the audit trail.
    async fn record(&mut self, trail: Vec<RecordChange>) -> Result<(), ServerError> {
        if trail.is_empty() {
            return Ok(());
        }
        match self.commit(vec![trail]).await {
            Err(error) if !matches!(error, ServerError::NotLeading(_)) => {
                tracing::warn!(error = causes(&error), "cannot write an event of a machine");
                Ok(())
            }
            result => result,
        }
    }

    /// Decides and writes a change, and plans until nothing changes.
    async fn mutate(&mut self, mutation: Mutation) -> Result<Result<(), ChangeError>, ServerError> {
        self.update().await?;
        let decided = {
            let view = self.state.view();
            mutation(&view.records, self.now())
        };
        match decided {
            Ok(changes) => {
                self.commit_again(vec![changes]).await?;
                self.plan_until_stable().await?;
                Ok(Ok(()))
            }
            Err(refusal) => Ok(Err(refusal.into())),
        }
    }

    /// Returns the time by the core's own clock, which no jump of the wall clock affects.
    fn now(&self) -> Moment {
        self.clock.now(reading())
    }

    /// Applies an event to the state and collects the consequences. Returns the events for the audit trail.
    fn apply(&mut self, event: CoreEvent) -> Vec<RecordChange> {
        let now = self.now();
        let effects = self.state.apply(event, now);
        self.dirty.merge(effects.dirty);
        self.changed.merge(effects.changed);
        effects.trail
    }

    /// Wakes those whose part changed.
    fn notify(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        if changed != ChangedParts::default() {
            self.notifier.notify(&self.state.view(), changed);
        }
    }

    /// Plans until nothing changes. If the store cannot be reached, the next tick tries again.
    pub(super) async fn plan_until_stable(&mut self) -> Result<(), ServerError> {
        let planned = self.plan_rounds().await;
        self.notify();
        planned
    }

    async fn plan_rounds(&mut self) -> Result<(), ServerError> {
        for _ in 0..ROUNDS_MAX {
            match self.plan_once().await {
                Ok(true) => self.notify(),
                Ok(false) => {
                    self.refused = false;
                    return Ok(());
                }
                Err(error @ ServerError::NotLeading(_)) => return Err(error),
                // Leadership was lost and regained. The decision under the old token is void, so plan again.
                Err(ServerError::Interrupted) => self.dirty = DirtySet::everything(),
                Err(error) => {
                    // Logged once, because the core tries again twice a second.
                    if !std::mem::replace(&mut self.refused, true) {
                        tracing::warn!(
                            error = causes(&error),
                            "cannot write the plan; running instances are not affected"
                        );
                    }
                    self.dirty = DirtySet::everything();
                    return Ok(());
                }
            }
        }
        tracing::error!("the planner did not converge in {ROUNDS_MAX} rounds");
        Ok(())
    }

    /// Plans once for what is dirty, writes the changes, and returns whether there were any.
    async fn plan_once(&mut self) -> Result<bool, ServerError> {
        self.update().await?;
        let dirty = std::mem::take(&mut self.dirty);
        let step = self.state.plan(&dirty, self.now());
        let Some(PlannedStep { groups, apps, report }) = step else { return Ok(false) };
        self.apply(CoreEvent::Planned { apps, report });
        let changes = !groups.is_empty();
        self.commit(groups).await?;
        Ok(changes)
    }

    /// Brings records and clock up to date before a decision.
    async fn update(&mut self) -> Result<(), ServerError> {
        let refreshed = match self.refresh().await {
            Err(ServerError::Interrupted) => self.refresh().await,
            refreshed => refreshed,
        };
        refreshed?;
        let followed = match self.adopt_stamps().await {
            Ok(()) => self.follow_clock().await,
            failed => failed,
        };
        match followed {
            Err(ServerError::Interrupted) => self.refresh().await,
            // On a read-only disk the stamps cannot move; with its old anchor the clock is equally right.
            Err(ServerError::Store(error)) if error.is_refusal() => Ok(()),
            // After a write with an unknown outcome, the records are read again before the next decision.
            followed => followed,
        }
    }

    /// Reads the records again if the store may hold others.
    async fn refresh(&mut self) -> Result<(), ServerError> {
        let term = self.leadership.revision().await;
        // A changed token means that leadership was lost in between: another server may have written.
        if !self.stale && term == self.term {
            return Ok(());
        }
        let listing = self.store.list("").await?;
        let leads = |entry: &gantry_store::StoreEntry| entry.key == leadership::KEY && entry.created == term;
        if !listing.entries.iter().any(leads) {
            // The next refresh reads the records under the new token, or learns that another server leads.
            self.leadership.take_again(term).await?;
            return Err(ServerError::Interrupted);
        }
        let LoadedRecords { records, refused } = load(&*self.store, listing.entries, term).await?;
        let is_foreign = term != self.term && (self.stale || records != *self.state.view().records);
        self.apply(CoreEvent::Loaded(Box::new(records)));
        if is_foreign {
            self.apply(CoreEvent::TermBegan);
            self.has_foreign_stamps = true;
        }
        (self.stale, self.term) = (refused.is_some(), term);
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Moves the stamps of another server whose clock was ahead of this one, so that none lies in the future. A repetition
    /// may move a stamp too far into the past; durations count from the beginning of the term at the earliest.
    async fn adopt_stamps(&mut self) -> Result<(), ServerError> {
        // While a jump of the wall clock is half written, stamps of this server itself may lie in the future.
        if !self.has_foreign_stamps || self.jumped.is_some() {
            return Ok(());
        }
        let (records, now) = (self.state.view().records, self.now());
        if let Some(jump) = admission::stamps_ahead(&records, now) {
            let changes = JumpedRecords::new(&records, jump, now, None).changes(&records);
            drop(records);
            self.commit(vec![changes]).await?;
            tracing::warn!(
                "the server that led before had a clock {} ms ahead; durations of deploys are not affected",
                jump.by.unsigned_abs()
            );
        }
        self.has_foreign_stamps = false;
        Ok(())
    }

    /// Follows a jump of the wall clock: moves by the same amount all stamps from which durations are counted, and only
    /// then lets the core's clock show the wall clock again. If the write fails, the clock stays as it was, and the next
    /// call tries again, without the stamps that have moved.
    async fn follow_clock(&mut self) -> Result<(), ServerError> {
        let reading = reading();
        let Some(jump) = self.clock.jump(reading) else { return Ok(()) };
        let records = self.state.view().records;
        let jumped = JumpedRecords::new(&records, jump, reading.wall, self.jumped.as_ref());
        let changes = jumped.changes(&records);
        drop(records);
        self.jumped = Some(jumped);
        self.commit(vec![changes]).await?;
        self.jumped = None;
        tracing::warn!("{jump}; durations of deploys and leases are not affected");
        self.clock.follow(reading);
        self.apply(CoreEvent::ClockJumped { jump, awake: reading.awake });
        Ok(())
    }

    /// Writes changes as [`CoreTask::commit`] does, and repeats a write that a loss of leadership interrupted. The
    /// repetition requires that this server leads again and that the records are unchanged: then the decision is still
    /// valid.
    async fn commit_again(&mut self, groups: Vec<ChangeGroup>) -> Result<(), ServerError> {
        match self.commit(groups.clone()).await {
            Err(ServerError::Interrupted) => {}
            written => return written,
        }
        let before = self.state.view().records;
        self.refresh().await?;
        if *self.state.view().records != *before {
            return Err(ServerError::Interrupted);
        }
        self.commit(groups).await
    }

    /// Writes changes to the store, guarded by the leadership key, and applies each transaction once it is committed.
    async fn commit(&mut self, groups: Vec<ChangeGroup>) -> Result<(), ServerError> {
        for transaction in transactions(groups, TXN_MAX - 1) {
            let writes = transaction.iter().map(write).collect::<Result<_, _>>()?;
            let guarded =
                Txn { compares: Vec::new(), writes }.when(TxnCondition::Created(leadership::KEY.to_owned(), self.term));
            gantry_failpoint::failpoint!("store.decided");
            match self.store.commit(guarded).await {
                Ok(TxnOutcome::Committed(_)) => gantry_failpoint::failpoint!("store.committed"),
                Ok(TxnOutcome::Conflict) => {
                    self.leadership.take_again(self.term).await?;
                    return Err(ServerError::Interrupted);
                }
                Err(error) if error.is_refusal() => return Err(error.into()),
                Err(error) => {
                    self.stale = true;
                    return Err(error.into());
                }
            }
            transaction.iter().for_each(deploy_failpoint);
            self.apply(CoreEvent::Committed(transaction));
        }
        Ok(())
    }
}

/// Runs the failpoint of the deploy state that a committed change entered.
fn deploy_failpoint(change: &RecordChange) {
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

/// Serializes a change as a write to the store.
fn write(change: &RecordChange) -> Result<TxnWrite, ServerError> {
    Ok(match change.entry()? {
        (key, Some(value)) => TxnWrite::Put(key, value, None),
        (key, None) => TxnWrite::Delete(key),
    })
}
