//! The writing thread.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::{oneshot, watch};

use super::high_water_mark::HighWaterMark;
use super::{checksum, file, lease, prefix_end};
use crate::{LeaseId, Revision, StoreEntry, StoreError, Txn, TxnCondition, TxnOutcome, TxnWrite};

/// Limit of requests that are committed together.
const GROUP_MAX: usize = 128;

/// Number of revisions that the history keeps for watches. A watch further behind must list again.
const HISTORY_MAX: Revision = 10_000;

/// Poll interval for expired leases while no request arrives.
const LEASE_TICK: Duration = Duration::from_millis(250);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Request to the writing thread.
pub(super) enum WriteRequest {
    Commit(Txn, Reply<TxnOutcome>),
    Grant(Duration, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<()>),
    Revoke(LeaseId, Reply<()>),
    Compact(Revision, Reply<()>),
}

/// Handle of the writing thread, which ends with its last handle.
pub(super) struct WriterHandle(mpsc::SyncSender<WriteRequest>);

impl WriterHandle {
    pub(super) fn start(connection: Connection, path: &Path) -> Result<(Self, watch::Receiver<Revision>), StoreError> {
        let now = revision(&connection).map_err(|error| file::explain("read", path, error))?;
        let (head, facts) = watch::channel(now);
        let (sender, requests) = mpsc::sync_channel(1024);
        let thread = WriterThread { connection, path: path.to_owned(), head, mark: HighWaterMark::open(path, now)? };
        std::thread::Builder::new().name("store".to_owned()).spawn(move || thread.run(&requests)).map_err(
            |source| StoreError::File {
                action: "start the writing thread of",
                path: path.display().to_string(),
                source: source.into(),
            },
        )?;
        Ok((Self(sender), facts))
    }

    pub(super) fn send(&self, request: WriteRequest) -> Result<(), ()> {
        self.0.send(request).map_err(|_| ())
    }
}

struct WriterThread {
    connection: Connection,
    path: PathBuf,
    head: watch::Sender<Revision>,
    mark: HighWaterMark,
}

impl WriterThread {
    fn run(mut self, requests: &mpsc::Receiver<WriteRequest>) {
        loop {
            let mut group = match requests.recv_timeout(LEASE_TICK) {
                Ok(first) => vec![first],
                Err(mpsc::RecvTimeoutError::Timeout) => Vec::new(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            group.extend(requests.try_iter().take(GROUP_MAX - 1));
            self.commit(group);
        }
    }

    /// Applies a group of requests in one SQLite transaction. Responses go out only once the transaction is on the
    /// disk.
    fn commit(&mut self, group: Vec<WriteRequest>) {
        let path = self.path.clone();
        if group.is_empty() && !lease::any_expired(&self.connection) {
            return;
        }
        let transaction = match self.connection.transaction() {
            Ok(transaction) => transaction,
            Err(error) => return refuse(group, &path, &error),
        };
        let mut answers: Vec<DeferredReply> = Vec::with_capacity(group.len());
        let mut group = group.into_iter();
        let applied = lease::expire(&transaction)
            .and_then(|()| group.try_for_each(|request| apply(&transaction, request, &mut answers)))
            .and_then(|()| revision(&transaction))
            .and_then(|revision| transaction.commit().map(|()| revision));
        match applied {
            Ok(revision) => {
                if let Err(error) = self.mark.set(revision) {
                    tracing::warn!(path = %path.display(), %error, "cannot write the store's high-water mark");
                }
                // Publish the revision before the responses: a watch is never behind a revision that a writer knows.
                self.head.send_replace(revision);
                answers.into_iter().for_each(|answer| answer(None));
            }
            // For the errors that `refusal` lists, SQLite guarantees a rollback: the store contains nothing of the
            // group.
            Err(error) => match refusal(&error, &path) {
                Some(_) => {
                    answers.into_iter().for_each(|answer| answer(refusal(&error, &path)));
                    refuse(group.collect(), &path, &error);
                }
                None => exit_after_failed_commit(&path, &error),
            },
        }
    }
}

/// Response that waits for the group's outcome on the disk. The argument is the error, if the commit failed.
type DeferredReply = Box<dyn FnOnce(Option<StoreError>) + Send>;

/// Returns the refusal for an error that certainly left nothing of the transaction in the store. These errors are a
/// full disk, a read-only disk, and a write that failed before the transaction's last page was in the log. A failed
/// sync is not among them: its effect on the disk is unknown.
fn refusal(error: &rusqlite::Error, path: &Path) -> Option<StoreError> {
    let path = path.display().to_string();
    let code = error.sqlite_error()?;
    match code.code {
        rusqlite::ErrorCode::DiskFull => Some(StoreError::Full { path }),
        rusqlite::ErrorCode::ReadOnly => Some(StoreError::ReadOnly { path }),
        _ if code.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE => Some(StoreError::ReadOnly { path }),
        _ => None,
    }
}

/// Ends the process. A failed commit may or may not be on the disk, and only a restart finds out.
#[expect(clippy::disallowed_methods, reason = "only a restart finds out what is on the disk")]
fn exit_after_failed_commit(path: &Path, error: &rusqlite::Error) -> ! {
    tracing::error!(path = %path.display(), %error, "cannot write the store; exiting, because a restart must read what is on the disk");
    eprintln!(
        "gantry: cannot write the store {}: {error}; exiting, because a restart must read what is on the disk",
        path.display()
    );
    std::process::exit(1)
}

/// Refuses requests that were not applied: the transaction could not start, or an earlier request of the group failed.
fn refuse(group: Vec<WriteRequest>, path: &Path, error: &rusqlite::Error) {
    let why = || match (refusal(error, path), error.sqlite_error_code()) {
        (Some(refusal), _) => refusal,
        (None, Some(rusqlite::ErrorCode::DatabaseBusy)) => StoreError::Locked { path: path.display().to_string() },
        _ => StoreError::File { action: "write", path: path.display().to_string(), source: error.to_string().into() },
    };
    for request in group {
        // A failed send is fine: a receiver that went away no longer wants the response.
        let _ = match request {
            WriteRequest::Commit(_, answer) => answer.send(Err(why())).is_ok(),
            WriteRequest::Grant(_, answer) => answer.send(Err(why())).is_ok(),
            WriteRequest::KeepAlive(_, answer) | WriteRequest::Revoke(_, answer) | WriteRequest::Compact(_, answer) => {
                answer.send(Err(why())).is_ok()
            }
        };
    }
}

fn apply(
    transaction: &Transaction<'_>,
    request: WriteRequest,
    answers: &mut Vec<DeferredReply>,
) -> rusqlite::Result<()> {
    /// Queues a response, also for a failed request, because its refusal is known only later.
    fn later<T: Send + 'static>(
        answers: &mut Vec<DeferredReply>,
        answer: Reply<T>,
        done: rusqlite::Result<Result<T, StoreError>>,
    ) -> rusqlite::Result<()> {
        let (result, done) = match done {
            Ok(result) => (Some(result), Ok(())),
            Err(error) => (None, Err(error)),
        };
        answers.push(Box::new(move |refused| {
            if let Some(result) = refused.map(Err).or(result) {
                drop(answer.send(result));
            }
        }));
        done
    }
    match request {
        WriteRequest::Commit(txn, answer) => later(answers, answer, write(transaction, &txn).map(Ok)),
        WriteRequest::Grant(ttl, answer) => later(answers, answer, lease::grant(transaction, ttl).map(Ok)),
        WriteRequest::KeepAlive(lease, answer) => later(answers, answer, lease::renew(transaction, lease)),
        WriteRequest::Revoke(lease, answer) => later(answers, answer, lease::end(transaction, lease).map(Ok)),
        WriteRequest::Compact(revision, answer) => later(answers, answer, compact(transaction, revision).map(Ok)),
    }
}

/// Returns the revision of the last write.
pub(super) fn revision(connection: &Connection) -> rusqlite::Result<Revision> {
    checksum::head(connection).map(|(revision, _)| revision)
}

/// Returns the oldest revision that a watch can still start after.
pub(super) fn compacted(connection: &Connection) -> rusqlite::Result<Revision> {
    checksum::head(connection).map(|(_, compacted)| compacted)
}

pub(super) fn write(transaction: &Transaction<'_>, txn: &Txn) -> rusqlite::Result<TxnOutcome> {
    for compare in &txn.compares {
        if !holds(transaction, compare)? {
            return Ok(TxnOutcome::Conflict);
        }
    }
    let next = begin_revision(transaction)?;
    for (step, write) in txn.writes.iter().enumerate() {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        match write {
            TxnWrite::Put(key, value, lease) => put(transaction, next, step, key, value, *lease)?,
            TxnWrite::Delete(key) => delete(transaction, next, step, key)?,
        }
    }
    if next % 100 == 0 {
        compact(transaction, next - HISTORY_MAX)?;
    }
    Ok(TxnOutcome::Committed(next))
}

/// Allocates the next revision.
pub(super) fn begin_revision(transaction: &Transaction<'_>) -> rusqlite::Result<Revision> {
    let (revision, compacted) = checksum::head(transaction)?;
    checksum::set_head(transaction, revision + 1, compacted)?;
    Ok(revision + 1)
}

fn holds(transaction: &Transaction<'_>, compare: &TxnCondition) -> rusqlite::Result<bool> {
    Ok(match compare {
        TxnCondition::Absent(key) => revisions(transaction, key)?.is_none(),
        TxnCondition::NoKeys(prefix) => !has_keys(transaction, prefix)?,
        TxnCondition::Modified(key, revision) => {
            revisions(transaction, key)?.is_some_and(|(_, modified)| modified == *revision)
        }
        TxnCondition::Created(key, revision) => {
            revisions(transaction, key)?.is_some_and(|(created, _)| created == *revision)
        }
    })
}

/// Returns the revisions that created and last wrote a key.
fn revisions(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<(Revision, Revision)>> {
    transaction
        .prepare_cached("SELECT created, modified FROM entries WHERE key = ?1")?
        .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Reports whether a key starts with the prefix.
fn has_keys(transaction: &Transaction<'_>, prefix: &str) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached(
            "SELECT 1 FROM entries
             WHERE CAST(key AS BLOB) >= CAST(?1 AS BLOB) AND (?2 IS NULL OR CAST(key AS BLOB) < ?2) LIMIT 1",
        )?
        .exists(params![prefix, prefix_end(prefix)])
}

fn put(
    transaction: &Transaction<'_>,
    revision: Revision,
    step: i64,
    key: &str,
    value: &[u8],
    lease: Option<LeaseId>,
) -> rusqlite::Result<()> {
    let known: Option<Revision> = transaction
        .prepare_cached("SELECT created FROM entries WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    let created = known.unwrap_or(revision);
    let entry = StoreEntry { key: key.to_owned(), value: value.to_owned(), created, modified: revision };
    let checksum = checksum::of_entry(&entry, lease);
    transaction
        .prepare_cached(
            "INSERT INTO entries (key, value, created, modified, lease, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (key) DO UPDATE SET value = ?2, modified = ?4, lease = ?5, seal = ?6",
        )?
        .execute(params![key, value, created, revision, lease.map(|lease| lease.0), checksum])?;
    note(transaction, revision, step, key, Some(value), created)
}

/// Adds a change to the history.
fn note(
    transaction: &Transaction<'_>,
    revision: Revision,
    step: i64,
    key: &str,
    value: Option<&[u8]>,
    created: Revision,
) -> rusqlite::Result<()> {
    let checksum = checksum::of_change(revision, step, key, value, created);
    transaction
        .prepare_cached(
            "INSERT INTO changes (revision, step, key, value, created, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![revision, step, key, value, created, checksum])
        .map(drop)
}

pub(super) fn delete(transaction: &Transaction<'_>, revision: Revision, step: i64, key: &str) -> rusqlite::Result<()> {
    let removed = transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?;
    if removed > 0 { note(transaction, revision, step, key, None, 0) } else { Ok(()) }
}

fn compact(transaction: &Transaction<'_>, before: Revision) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM changes WHERE revision <= ?1")?.execute([before])?;
    let (revision, compacted) = checksum::head(transaction)?;
    checksum::set_head(transaction, revision, compacted.max(before).min(revision))
}
