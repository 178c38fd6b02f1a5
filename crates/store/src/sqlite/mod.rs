//! The embedded store: one SQLite file.
//!
//! One thread owns the writing connection and commits all waiting requests in one transaction (group commit), so that
//! many writers share an fsync. Readers have a connection of their own. A commit that fails to reach the disk ends the
//! process: the response to the caller and the content of the disk must never differ.
//!
//! Several processes may have the file open. A watch sees the writes of its own process at once. For those of other
//! processes it polls the file every [`watch::POLL_INTERVAL`].

mod checksum;
mod file;
mod high_water_mark;
mod lease;
mod watch;
mod write;

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{oneshot, watch as facts};

use crate::{LeaseId, Listing, Revision, Store, StoreEntry, StoreError, StoreWatch, Txn, TxnOutcome};
pub use file::{check, check_format, merge_log, read_value, remove_high_water_mark};
use write::{WriteRequest, WriterHandle};

/// The embedded store.
pub(crate) struct SqliteStore {
    path: PathBuf,
    reader: Arc<Mutex<Connection>>,
    /// The writing thread; none on a disk that takes no writes.
    writer: Option<WriterHandle>,
    /// Revision of the last commit of this process; wakes the watches.
    head: facts::Receiver<Revision>,
}

impl SqliteStore {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        if path.exists() && !is_writable(path) {
            return Self::open_read_only(path);
        }
        let writing = file::open(path)?;
        let reader = Arc::new(Mutex::new(file::connect(path)?));
        let (writer, head) = WriterHandle::start(writing, path)?;
        Ok(Self { path: path.to_owned(), reader, writer: Some(writer), head })
    }

    /// Opens a store on a disk that takes no writes. Reads work; each write fails with [`StoreError::ReadOnly`].
    fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let connection = file::open_read_only(path)?;
        let now = write::revision(&connection).map_err(|error| file::explain("read", path, error))?;
        let reader = Arc::new(Mutex::new(connection));
        Ok(Self { path: path.to_owned(), reader, writer: None, head: facts::channel(now).1 })
    }

    /// Runs `query` on the reading connection, outside the async threads.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        read(&self.reader, &self.path, query).await
    }

    async fn write_request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> WriteRequest,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::Unavailable {
            address: self.path.display().to_string(),
            source: "the store's writing thread has ended".into(),
        };
        let Some(writer) = &self.writer else {
            return Err(StoreError::ReadOnly { path: self.path.display().to_string() });
        };
        writer.send(request(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

async fn read<T: Send + 'static>(
    reader: &Arc<Mutex<Connection>>,
    path: &Path,
    query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let reader = Arc::clone(reader);
    let result = tokio::task::spawn_blocking(move || {
        let mut connection = reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        query(&mut connection)
    });
    match result.await {
        Ok(result) => result.map_err(|error| file::explain("read", path, error)),
        Err(join) => {
            Err(StoreError::Unavailable { address: path.display().to_string(), source: join.to_string().into() })
        }
    }
}

/// Reports whether the disk of a store takes writes and brings them to its medium. The function writes, syncs and
/// removes a small file beside the store. A full disk counts as writable.
#[must_use]
pub fn is_writable(path: &Path) -> bool {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("-probe-{}", std::process::id()));
    let probe = PathBuf::from(name);
    let written =
        std::fs::File::create(&probe).and_then(|mut file| file.write_all(b"gantry\n").and_then(|()| file.sync_all()));
    let removed = std::fs::remove_file(&probe);
    match written.and(removed) {
        Ok(()) => true,
        Err(error) => matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
    }
}

/// Returns the first text that sorts after every text with the prefix `prefix`; none for the empty prefix.
pub(super) fn prefix_end(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError> {
        let key = key.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT key, value, created, modified, lease, seal FROM entries WHERE key = ?1")?
                .query_row([key], checksum::entry)
                .optional()
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        self.read(move |connection| {
            // Use one transaction, so that the revision is that of the entries.
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Deferred)?;
            let revision = write::revision(&transaction)?;
            let entries = {
                let mut statement = transaction.prepare_cached(
                    "SELECT key, value, created, modified, lease, seal FROM entries
                     WHERE CAST(key AS BLOB) >= CAST(?1 AS BLOB) AND (?2 IS NULL OR CAST(key AS BLOB) < ?2)
                     ORDER BY key",
                )?;
                statement.query_map(params![prefix, prefix_end(&prefix)], checksum::entry)?.collect::<Result<_, _>>()?
            };
            transaction.commit()?;
            Ok(Listing { entries, revision })
        })
        .await
    }

    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        txn.check()?;
        self.write_request(|answer| WriteRequest::Commit(txn, answer)).await?
    }

    async fn watch(&self, prefix: &str, revision: Revision) -> Result<Box<dyn StoreWatch>, StoreError> {
        let watch = watch::FileWatch::new(&self.reader, &self.path, self.head.clone(), prefix, revision);
        Ok(Box::new(watch))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.write_request(|answer| WriteRequest::Grant(ttl, answer)).await?
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.write_request(|answer| WriteRequest::KeepAlive(lease, answer)).await?
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.write_request(|answer| WriteRequest::Revoke(lease, answer)).await?
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.write_request(|answer| WriteRequest::Compact(revision, answer)).await?
    }
}
