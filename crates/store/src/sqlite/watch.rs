//! Watch on the embedded store: reads the history table from the last revision seen.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::sync::watch as facts;

use super::{checksum, prefix_end, read, write};
use crate::{ChangeBatch, KeyChange, Revision, StoreEntry, StoreError, StoreWatch};

/// Poll interval for writes of other processes.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(200);

pub(super) struct FileWatch {
    reader: Arc<Mutex<Connection>>,
    path: PathBuf,
    head: facts::Receiver<Revision>,
    prefix: String,
    seen: Revision,
    /// Batches that are read but not yet returned, newest first.
    ready: Vec<ChangeBatch>,
}

impl FileWatch {
    pub(super) fn new(
        reader: &Arc<Mutex<Connection>>,
        path: &Path,
        head: facts::Receiver<Revision>,
        prefix: &str,
        seen: Revision,
    ) -> Self {
        Self {
            reader: Arc::clone(reader),
            path: path.to_owned(),
            head,
            prefix: prefix.to_owned(),
            seen,
            ready: Vec::new(),
        }
    }

    async fn fetch(&mut self) -> Result<(), StoreError> {
        let (prefix, seen) = (self.prefix.clone(), self.seen);
        let found = read(&self.reader, &self.path, move |connection| history(connection, &prefix, seen)).await?;
        let (mut batches, head) = found.ok_or(StoreError::Compacted { asked: seen })?;
        batches.reverse();
        self.ready = batches;
        // Skip the changes of other prefixes for good, so that compaction does not overtake a quiet watch.
        if self.ready.is_empty() {
            self.seen = self.seen.max(head);
        }
        Ok(())
    }
}

#[async_trait]
impl StoreWatch for FileWatch {
    async fn next(&mut self) -> Result<ChangeBatch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop() {
                self.seen = batch.revision;
                return Ok(batch);
            }
            self.head.mark_unchanged();
            self.fetch().await?;
            if self.ready.is_empty() {
                // Wait for a commit of this process, or until the next poll for commits of other processes.
                let _ = tokio::time::timeout(POLL_INTERVAL, self.head.changed()).await;
            }
        }
    }
}

/// Returns the batches after `seen` and the head at which they were read; none if the history before them was removed.
fn history(
    connection: &mut Connection,
    prefix: &str,
    seen: Revision,
) -> rusqlite::Result<Option<(Vec<ChangeBatch>, Revision)>> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Deferred)?;
    if write::compacted(&transaction)? > seen {
        return Ok(None);
    }
    let head = write::revision(&transaction)?;
    let mut batches: Vec<ChangeBatch> = Vec::new();
    let mut statement = transaction.prepare_cached(
        "SELECT revision, key, value, created, step, seal FROM changes
         WHERE revision > ?1 AND CAST(key AS BLOB) >= CAST(?2 AS BLOB) AND (?3 IS NULL OR CAST(key AS BLOB) < ?3)
         ORDER BY revision, step",
    )?;
    let mut rows = statement.query(params![seen, prefix, prefix_end(prefix)])?;
    while let Some(row) = rows.next()? {
        let revision: Revision = row.get(0)?;
        let (key, value, created): (String, Option<Vec<u8>>, Revision) = (row.get(1)?, row.get(2)?, row.get(3)?);
        if checksum::of_change(revision, row.get(4)?, &key, value.as_deref(), created) != row.get::<_, i64>(5)? {
            return Err(checksum::broken(&key));
        }
        let change = match value {
            Some(value) => KeyChange::Put(StoreEntry { key, value, created, modified: revision }),
            None => KeyChange::Delete(key),
        };
        match batches.last_mut() {
            Some(batch) if batch.revision == revision => batch.changes.push(change),
            _ => batches.push(ChangeBatch { revision, changes: vec![change] }),
        }
    }
    Ok(Some((batches, head)))
}
