//! The owner of all keyspaces.
//!
//! ```text
//! commands of many apps ─► rules, in memory ─► one guarded transaction ─► replies, and a new revision for each app
//!                                                   └─ not written: the effects are reverted, newest first
//! ```
//! A reply leaves only after the write, so no caller sees a state that a kill can take back. A write without a known
//! outcome makes the records stale: the task reads them again before the next command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gantry_coordination::{Clearing, Command, CommandEffects, Keyspace, Quota, Reply, Revision};
use gantry_model::{AppName, Moment};
use gantry_store::{Store, StoreError, TXN_MAX, Txn, TxnCondition, TxnOutcome, TxnWrite};
use tokio::sync::{mpsc, oneshot};

use super::records::{self, DamagedRecord, LoadedRecords};
use super::{AppStates, CoordinationError, ReplyAtRevision};
use crate::clock::reading;
use crate::leadership::{self, Leadership};
use crate::{ServerError, causes};

/// Poll interval for ended leases.
const TICK: Duration = Duration::from_millis(250);

/// A longer pause between two ticks means that the process stood still: no owner could renew a lease meanwhile.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Maximum number of commands of one transaction.
const BATCH_MAX: usize = 256;

/// Maximum number of bytes of values in one transaction, below the limit of etcd's requests. A single command may have more.
const BATCH_BYTES: usize = 512 << 10;

/// Bytes of the keys and values of all apps.
const TOTAL_BYTES: usize = 256 << 20;

type ReplySender = oneshot::Sender<Result<ReplyAtRevision, CoordinationError>>;

/// A message to the task.
pub(super) enum Message {
    Run {
        space: AppName,
        command: Command,
        reply: ReplySender,
    },
    /// Removes all keyspaces but these.
    Retain(BTreeSet<AppName>),
}

/// A keyspace, or the record that cannot be read.
type Space = Result<Keyspace, DamagedRecord>;

/// An executed command that is not yet written.
struct Executed {
    space: AppName,
    effects: CommandEffects,
    reply: Option<(ReplySender, Reply, Revision)>,
}

/// The task with everything that it owns.
pub(super) struct CoordinationTask {
    store: Arc<dyn Store>,
    leadership: Leadership,
    apps: AppStates,
    spaces: BTreeMap<AppName, Space>,
    floor: Revision,
    /// Fencing token under which the records were read; none while the records must be read.
    term: Option<Revision>,
}

impl CoordinationTask {
    pub(super) fn new(store: Arc<dyn Store>, leadership: Leadership, apps: AppStates) -> Self {
        Self { store, leadership, apps, spaces: BTreeMap::new(), floor: 0, term: None }
    }

    /// Runs until all handles are gone.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked = tokio::time::Instant::now();
        let mut carried = None;
        loop {
            let message = match carried.take() {
                Some(message) => Some(message),
                None => tokio::select! {
                    message = inbox.recv() => match message {
                        Some(message) => Some(message),
                        None => return,
                    },
                    _ = tick.tick() => None,
                },
            };
            if let Err(error) = self.refresh().await {
                if let Some(Message::Run { reply, .. }) = message {
                    let _ = reply.send(Err(CoordinationError::Store(causes(&error))));
                }
                continue;
            }
            let still = looked.elapsed();
            looked = tokio::time::Instant::now();
            if still > STANDSTILL {
                let millis = u64::try_from(still.as_millis()).unwrap_or(u64::MAX);
                self.spaces.values_mut().flatten().for_each(|keyspace| keyspace.extend_leases(millis));
            }
            match message {
                None => self.expire().await,
                Some(Message::Retain(spaces)) => self.retain(&spaces).await,
                Some(message) => carried = self.run_batch(message, &mut inbox).await,
            }
        }
    }

    /// Reads the records, unless those in memory are the newest ones.
    async fn refresh(&mut self) -> Result<(), ServerError> {
        let term = self.leadership.revision().await;
        if self.term == Some(term) {
            return Ok(());
        }
        self.term = None;
        let leads = self.store.get(leadership::KEY).await?.is_some_and(|entry| entry.created == term);
        if !leads {
            self.leadership.take_again(term).await?;
            return Err(ServerError::Interrupted);
        }
        let listing = self.store.list(records::PREFIX).await?;
        let loaded = LoadedRecords::read(listing.entries);
        let mut leftovers = Vec::new();
        self.floor = loaded.floor;
        self.spaces.clear();
        for (name, space) in loaded.spaces {
            let space = match space.load(&name, self.floor, now()) {
                Ok(space) => {
                    leftovers.extend(space.leftovers);
                    Ok(space.keyspace)
                }
                Err(damaged) => {
                    tracing::error!(key = damaged.key, app = %name, "a record of the app's keys cannot be read; the app's keys and locks are closed");
                    Err(damaged)
                }
            };
            self.spaces.insert(name, space);
        }
        self.term = Some(term);
        self.delete(leftovers).await?;
        let revisions = self.spaces.iter().filter_map(|(name, space)| Some((name, space.as_ref().ok()?.revision())));
        revisions.for_each(|(name, revision)| self.apps.advance(name, revision));
        Ok(())
    }

    /// Executes a command and those that wait behind it, and writes them together. Returns a message that goes first
    /// in the next batch.
    async fn run_batch(&mut self, first: Message, inbox: &mut mpsc::Receiver<Message>) -> Option<Message> {
        let (mut batch, mut next, mut carried) = (Vec::new(), Some(first), None);
        while let Some(message) = next.take() {
            let Message::Run { space, command, reply } = message else {
                carried = Some(message);
                break;
            };
            // A command that does not fit is taken back, and goes first in the next batch.
            let again = (!batch.is_empty()).then(|| command.clone());
            match self.execute(&space, command) {
                Ok((answer, effects)) => {
                    let revision = self.keyspace(&space).map_or(0, Keyspace::revision);
                    let again = again.filter(|_| !effects.is_empty());
                    batch.push(Executed { space, effects, reply: Some((reply, answer, revision)) });
                    if let Some(command) = again.filter(|_| !self.fits(&batch))
                        && let Some(Executed { space, effects, reply: Some((reply, ..)) }) = batch.pop()
                    {
                        self.revert(&space, effects);
                        carried = Some(Message::Run { space, command, reply });
                        break;
                    }
                }
                Err(error) => drop(reply.send(Err(error))),
            }
            if batch.len() < BATCH_MAX {
                next = inbox.try_recv().ok();
            }
        }
        self.write(batch).await;
        carried
    }

    fn keyspace(&self, space: &AppName) -> Option<&Keyspace> {
        self.spaces.get(space).and_then(|space| space.as_ref().ok())
    }

    fn execute(&mut self, space: &AppName, command: Command) -> Result<(Reply, CommandEffects), CoordinationError> {
        let total: usize = self.spaces.values().flatten().map(Keyspace::bytes).sum();
        let floor = self.floor;
        let fresh = || Ok(Keyspace::load(Quota::default(), floor, Vec::new(), Vec::new(), now()));
        let keyspace = self.spaces.entry(space.clone()).or_insert_with(fresh);
        let keyspace = keyspace.as_mut().map_err(|damaged| CoordinationError::Damaged(damaged.key.clone()))?;
        let before = keyspace.bytes();
        let (reply, effects) = keyspace.execute(command, now())?;
        if keyspace.bytes() > before && total - before + keyspace.bytes() > TOTAL_BYTES {
            keyspace.revert(effects);
            return Err(CoordinationError::Full { max: TOTAL_BYTES });
        }
        Ok((reply, effects))
    }

    /// Reports whether the effects fit into one transaction. Removals may follow in others.
    fn fits(&self, batch: &[Executed]) -> bool {
        let writes = self.writes(batch);
        let bytes: usize = writes.puts.iter().map(size).sum();
        writes.puts.len() + writes.heads.len() < TXN_MAX && bytes <= BATCH_BYTES
    }

    fn revert(&mut self, space: &AppName, effects: CommandEffects) {
        if let Some(Ok(keyspace)) = self.spaces.get_mut(space) {
            keyspace.revert(effects);
        }
    }

    /// Ends the leases that are over.
    async fn expire(&mut self) {
        let now = now();
        loop {
            let mut batch = Vec::new();
            for (name, space) in &mut self.spaces {
                if let Ok(keyspace) = space
                    && batch.len() < TXN_MAX / 4
                    && let Some(effects) = keyspace.expire_one(now)
                {
                    batch.push(Executed { space: name.clone(), effects, reply: None });
                }
            }
            if batch.is_empty() || !self.write(batch).await {
                return;
            }
        }
    }

    /// Writes the effects of a batch, and lets the replies out. If nothing is written, takes the effects back.
    async fn write(&mut self, batch: Vec<Executed>) -> bool {
        match self.write_effects(&batch).await {
            Ok(()) => {
                for Executed { space, effects, reply } in batch {
                    if effects.advanced
                        && let Some(revision) = self.keyspace(&space).map(Keyspace::revision)
                    {
                        self.apps.advance(&space, revision);
                    }
                    if let Some((sender, reply, revision)) = reply {
                        let _ = sender.send(Ok(ReplyAtRevision { reply, revision }));
                    }
                }
                true
            }
            Err(error) => {
                for Executed { space, effects, reply } in batch.into_iter().rev() {
                    self.revert(&space, effects);
                    if let Some((sender, ..)) = reply {
                        let _ = sender.send(Err(CoordinationError::Store(causes(&error))));
                    }
                }
                false
            }
        }
    }

    async fn write_effects(&mut self, batch: &[Executed]) -> Result<(), ServerError> {
        let Writes { puts, deletes, heads, clearings } = self.writes(batch);
        if puts.is_empty() && deletes.is_empty() && heads.is_empty() {
            return Ok(());
        }
        let head = |space: &AppName, revision: Revision, clearings: &[Clearing]| {
            TxnWrite::Put(records::head_key(space), records::head(revision, clearings), None)
        };
        let whole = puts.len() + deletes.len() + heads.len() < TXN_MAX;
        let described =
            |space: &AppName| if whole { &[][..] } else { clearings.get(space).map_or(&[][..], Vec::as_slice) };
        let mut first: Vec<TxnWrite> =
            heads.iter().map(|(space, revision)| head(space, *revision, described(space))).collect();
        first.extend(puts);
        if whole {
            first.extend(deletes.into_iter().map(TxnWrite::Delete));
            return self.commit(first).await;
        }
        self.commit(first).await?;
        gantry_failpoint::failpoint!("coordination.cleared");
        // The removal is decided and durable. The next load deletes the rest.
        let rest = async {
            self.delete(deletes).await?;
            self.commit(heads.iter().map(|(space, revision)| head(space, *revision, &[])).collect()).await
        };
        if let Err(error) = rest.await {
            tracing::warn!(
                error = causes(&error),
                "cannot delete the records of removed keys; the next load deletes them"
            );
            self.term = None;
        }
        Ok(())
    }

    /// The writes of a batch.
    fn writes(&self, batch: &[Executed]) -> Writes {
        let mut writes = Writes::default();
        let mut seen = BTreeSet::new();
        for Executed { space, effects, .. } in batch {
            let Some(keyspace) = self.keyspace(space) else { continue };
            for key in &effects.keys {
                let name = records::entry_key(space, key);
                if seen.insert(name.clone()) {
                    writes.add(name, keyspace.entry(key).map(|entry| records::entry(entry)));
                }
            }
            for lease in &effects.leases {
                let name = records::lease_key(space, *lease);
                if seen.insert(name.clone()) {
                    writes.add(name, keyspace.lease(*lease).map(records::lease));
                }
            }
            if !effects.is_empty() {
                writes.heads.insert(space.clone(), keyspace.revision());
            }
            writes.clearings.entry(space.clone()).or_default().extend(effects.clearings.iter().cloned());
        }
        writes
    }

    /// Deletes records, in as many transactions as needed.
    async fn delete(&mut self, keys: Vec<String>) -> Result<(), ServerError> {
        for keys in keys.chunks(TXN_MAX - 1) {
            self.commit(keys.iter().cloned().map(TxnWrite::Delete).collect()).await?;
        }
        Ok(())
    }

    /// Writes a transaction under the leadership key.
    async fn commit(&mut self, writes: Vec<TxnWrite>) -> Result<(), ServerError> {
        let Some(term) = self.term else { return Err(ServerError::Interrupted) };
        let guarded =
            Txn { compares: Vec::new(), writes }.when(TxnCondition::Created(leadership::KEY.to_owned(), term));
        gantry_failpoint::failpoint!("coordination.decided");
        let outcome = self.store.commit(guarded).await;
        if !matches!(outcome, Ok(TxnOutcome::Committed(_))) && !outcome.as_ref().is_err_and(StoreError::is_refusal) {
            self.term = None;
        }
        match outcome? {
            TxnOutcome::Committed(_) => gantry_failpoint::failpoint!("coordination.committed"),
            TxnOutcome::Conflict => {
                self.leadership.take_again(term).await?;
                return Err(ServerError::Interrupted);
            }
        }
        Ok(())
    }

    /// Removes the keyspaces of apps that are gone. An app of that name that is created later continues above their
    /// revisions: a fencing token is never used twice.
    async fn retain(&mut self, spaces: &BTreeSet<AppName>) {
        let gone: Vec<AppName> = self.spaces.keys().filter(|space| !spaces.contains(*space)).cloned().collect();
        for space in gone {
            if let Err(error) = self.remove(&space).await {
                tracing::warn!(app = %space, error = causes(&error), "cannot remove the keys of a destroyed app; trying again later");
            }
        }
    }

    async fn remove(&mut self, space: &AppName) -> Result<(), ServerError> {
        let revision = self.keyspace(space).map_or(0, Keyspace::revision);
        let floor = self.floor.max(revision);
        self.commit(vec![TxnWrite::Put(records::FLOOR.to_owned(), records::floor(floor), None)]).await?;
        self.floor = floor;
        let mut keys: Vec<String> =
            self.store.list(&records::app_prefix(space)).await?.entries.into_iter().map(|entry| entry.key).collect();
        // The head goes last: it keeps the keyspace known until all else is deleted.
        keys.sort_by_key(|key| *key == records::head_key(space));
        self.delete(keys).await?;
        self.spaces.remove(space);
        Ok(())
    }
}

/// Writes of a batch, apart by their kind.
#[derive(Default)]
struct Writes {
    puts: Vec<TxnWrite>,
    deletes: Vec<String>,
    heads: BTreeMap<AppName, Revision>,
    clearings: BTreeMap<AppName, Vec<Clearing>>,
}

impl Writes {
    fn add(&mut self, key: String, value: Option<Vec<u8>>) {
        match value {
            Some(value) => self.puts.push(TxnWrite::Put(key, value, None)),
            None => self.deletes.push(key),
        }
    }
}

fn size(write: &TxnWrite) -> usize {
    match write {
        TxnWrite::Put(key, value, _) => key.len() + value.len(),
        TxnWrite::Delete(key) => key.len(),
    }
}

/// The time by which leases are counted: no jump of the wall clock moves it.
fn now() -> Moment {
    Moment(reading().awake)
}
