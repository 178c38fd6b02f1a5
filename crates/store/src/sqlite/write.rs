//! The writing thread.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::{oneshot, watch};

use super::mark::Mark;
use super::{file, lease, seal};
use crate::{Compare, Entry, LeaseId, Outcome, Revision, StoreError, Txn, Write};

/// Limit of requests that are committed together.
const GROUP_MAX: usize = 128;

/// Number of revisions that the history keeps for watches. A watch further behind must list again.
const HISTORY: Revision = 10_000;

/// Poll interval for expired leases while no request arrives.
const LEASE_TICK: Duration = Duration::from_millis(250);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// Request to the writing thread.
pub(super) enum Request {
    Commit(Txn, Answer<Outcome>),
    Grant(Duration, Answer<LeaseId>),
    KeepAlive(LeaseId, Answer<()>),
    Revoke(LeaseId, Answer<()>),
    Compact(Revision, Answer<()>),
}

/// Handle of the writing thread, which ends with its last handle.
pub(super) struct Writer(mpsc::SyncSender<Request>);

impl Writer {
    pub(super) fn start(connection: Connection, path: &Path) -> Result<(Self, watch::Receiver<Revision>), StoreError> {
        let now = revision(&connection).map_err(|error| file::explain("read", path, error))?;
        let (head, facts) = watch::channel(now);
        let (sender, requests) = mpsc::sync_channel(1024);
        let thread = Thread { connection, path: path.to_owned(), head, mark: Mark::open(path, now)? };
        std::thread::Builder::new().name("store".to_owned()).spawn(move || thread.run(&requests)).map_err(
            |source| StoreError::File {
                action: "start the writer of",
                path: path.display().to_string(),
                source: source.into(),
            },
        )?;
        Ok((Self(sender), facts))
    }

    pub(super) fn send(&self, request: Request) -> Result<(), ()> {
        self.0.send(request).map_err(|_| ())
    }
}

struct Thread {
    connection: Connection,
    path: PathBuf,
    head: watch::Sender<Revision>,
    mark: Mark,
}

impl Thread {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
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
    fn commit(&mut self, group: Vec<Request>) {
        let path = self.path.clone();
        if group.is_empty() && !lease::any_expired(&self.connection) {
            return;
        }
        let transaction = match self.connection.transaction() {
            Ok(transaction) => transaction,
            Err(error) => return refuse(group, &path, &error),
        };
        let mut answers: Vec<Later> = Vec::with_capacity(group.len());
        let mut group = group.into_iter();
        let applied = lease::expire(&transaction)
            .and_then(|()| group.try_for_each(|request| apply(&transaction, request, &mut answers)))
            .and_then(|()| revision(&transaction))
            .and_then(|revision| transaction.commit().map(|()| revision));
        match applied {
            Ok(revision) => {
                if let Err(error) = self.mark.set(revision) {
                    tracing::warn!(path = %path.display(), %error, "the store's mark stays behind");
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
                None => end_the_process(&path, &error),
            },
        }
    }
}

/// Response that waits for the group's outcome on the disk. The argument is the error, if the commit failed.
type Later = Box<dyn FnOnce(Option<StoreError>) + Send>;

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
fn end_the_process(path: &Path, error: &rusqlite::Error) -> ! {
    tracing::error!(path = %path.display(), %error, "a write did not reach the store; ending, to read it again");
    eprintln!("gantry: a write did not reach the store {}: {error}; ending, to read it again", path.display());
    std::process::exit(1)
}

/// Refuses requests that were not applied: the transaction could not start, or an earlier request of the group failed.
fn refuse(group: Vec<Request>, path: &Path, error: &rusqlite::Error) {
    let why = || match (refusal(error, path), error.sqlite_error_code()) {
        (Some(refusal), _) => refusal,
        (None, Some(rusqlite::ErrorCode::DatabaseBusy)) => StoreError::Locked { path: path.display().to_string() },
        _ => StoreError::File { action: "write", path: path.display().to_string(), source: error.to_string().into() },
    };
    for request in group {
        // A failed send is fine: a receiver that went away no longer wants the response.
        let _ = match request {
            Request::Commit(_, answer) => answer.send(Err(why())).is_ok(),
            Request::Grant(_, answer) => answer.send(Err(why())).is_ok(),
            Request::KeepAlive(_, answer) | Request::Revoke(_, answer) | Request::Compact(_, answer) => {
                answer.send(Err(why())).is_ok()
            }
        };
    }
}

fn apply(transaction: &Transaction<'_>, request: Request, answers: &mut Vec<Later>) -> rusqlite::Result<()> {
    /// Queues a response, also for a failed request, because its refusal is known only later.
    fn later<T: Send + 'static>(
        answers: &mut Vec<Later>,
        answer: Answer<T>,
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
        Request::Commit(txn, answer) => later(answers, answer, write(transaction, &txn).map(Ok)),
        Request::Grant(ttl, answer) => later(answers, answer, lease::grant(transaction, ttl).map(Ok)),
        Request::KeepAlive(lease, answer) => later(answers, answer, lease::renew(transaction, lease)),
        Request::Revoke(lease, answer) => later(answers, answer, lease::end(transaction, lease).map(Ok)),
        Request::Compact(revision, answer) => later(answers, answer, compact(transaction, revision).map(Ok)),
    }
}

/// Returns the revision of the last write.
pub(super) fn revision(connection: &Connection) -> rusqlite::Result<Revision> {
    seal::head(connection).map(|(revision, _)| revision)
}

/// Returns the oldest revision that a watch can still start after.
pub(super) fn compacted(connection: &Connection) -> rusqlite::Result<Revision> {
    seal::head(connection).map(|(_, compacted)| compacted)
}

pub(super) fn write(transaction: &Transaction<'_>, txn: &Txn) -> rusqlite::Result<Outcome> {
    for compare in &txn.compares {
        if !holds(transaction, compare)? {
            return Ok(Outcome::Conflict);
        }
    }
    let next = begin_revision(transaction)?;
    for (step, write) in txn.writes.iter().enumerate() {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        match write {
            Write::Put(key, value, lease) => put(transaction, next, step, key, value, *lease)?,
            Write::Delete(key) => delete(transaction, next, step, key)?,
        }
    }
    if next % 100 == 0 {
        compact(transaction, next - HISTORY)?;
    }
    Ok(Outcome::Committed(next))
}

/// Allocates the next revision.
pub(super) fn begin_revision(transaction: &Transaction<'_>) -> rusqlite::Result<Revision> {
    let (revision, compacted) = seal::head(transaction)?;
    seal::set_head(transaction, revision + 1, compacted)?;
    Ok(revision + 1)
}

fn holds(transaction: &Transaction<'_>, compare: &Compare) -> rusqlite::Result<bool> {
    let key = match compare {
        Compare::Absent(key) | Compare::Modified(key, _) | Compare::Created(key, _) => key,
    };
    let found: Option<(Revision, Revision)> = transaction
        .prepare_cached("SELECT created, modified FROM entries WHERE key = ?1")?
        .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(match compare {
        Compare::Absent(_) => found.is_none(),
        Compare::Modified(_, revision) => found.is_some_and(|(_, modified)| modified == *revision),
        Compare::Created(_, revision) => found.is_some_and(|(created, _)| created == *revision),
    })
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
    let entry = Entry { key: key.to_owned(), value: value.to_owned(), created, modified: revision };
    let sealed = seal::of_entry(&entry, lease);
    transaction
        .prepare_cached(
            "INSERT INTO entries (key, value, created, modified, lease, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (key) DO UPDATE SET value = ?2, modified = ?4, lease = ?5, seal = ?6",
        )?
        .execute(params![key, value, created, revision, lease.map(|lease| lease.0), sealed])?;
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
    let sealed = seal::of_change(revision, step, key, value, created);
    transaction
        .prepare_cached(
            "INSERT INTO changes (revision, step, key, value, created, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![revision, step, key, value, created, sealed])
        .map(drop)
}

pub(super) fn delete(transaction: &Transaction<'_>, revision: Revision, step: i64, key: &str) -> rusqlite::Result<()> {
    let removed = transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?;
    if removed > 0 { note(transaction, revision, step, key, None, 0) } else { Ok(()) }
}

fn compact(transaction: &Transaction<'_>, before: Revision) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM changes WHERE revision <= ?1")?.execute([before])?;
    let (revision, compacted) = seal::head(transaction)?;
    seal::set_head(transaction, revision, compacted.max(before).min(revision))
}
