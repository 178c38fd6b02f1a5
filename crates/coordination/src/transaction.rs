//! Operations and transactions, with the meaning that they have in etcd v3.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::{Clearing, CommandEffects, Key, KeyRange, KeyValue, Keyspace, LeaseId, Refusal, Revision};

/// A read of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeQuery {
    /// The range.
    pub range: KeyRange,
    /// Maximum number of entries of the reply; zero means all.
    pub limit: usize,
    /// Revision to read; none means the newest.
    pub revision: Option<Revision>,
    /// Field by which the reply is sorted.
    pub sort: SortKey,
    /// The order of the reply.
    pub order: Order,
    /// The reply has no values.
    pub keys_only: bool,
    /// The reply has only the number of entries.
    pub count_only: bool,
    /// Lowest and highest revision of the last write.
    pub modified: (Option<Revision>, Option<Revision>),
    /// Lowest and highest create revision.
    pub created: (Option<Revision>, Option<Revision>),
}

impl RangeQuery {
    /// A read of all entries of a range.
    #[must_use]
    pub fn of(range: KeyRange) -> Self {
        Self {
            range,
            limit: 0,
            revision: None,
            sort: SortKey::Key,
            order: Order::Ascending,
            keys_only: false,
            count_only: false,
            modified: (None, None),
            created: (None, None),
        }
    }
}

/// Field by which a range is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// The key.
    Key,
    /// The number of writes.
    Version,
    /// The create revision.
    Created,
    /// The revision of the last write.
    Modified,
    /// The value.
    Value,
}

/// Order of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// A write of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// The value; none keeps the present one.
    pub value: Option<Vec<u8>>,
    /// The lease with which the key ends.
    pub lease: Option<LeaseId>,
    /// A lease for this key alone, with its time to live in seconds: it ends with the key or with the next write.
    pub ttl: Option<(LeaseId, i64)>,
    /// The key keeps its present lease.
    pub keep_lease: bool,
    /// The reply has the entry before.
    pub previous: bool,
}

impl Put {
    /// A write of a key without a lease.
    #[must_use]
    pub fn new(key: Key, value: Vec<u8>) -> Self {
        Self { key, value: Some(value), lease: None, ttl: None, keep_lease: false, previous: false }
    }
}

/// A removal of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The range.
    pub range: KeyRange,
    /// The reply has the removed entries.
    pub previous: bool,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Reads a range.
    Range(RangeQuery),
    /// Writes a key.
    Put(Put),
    /// Removes a range.
    Delete(Deletion),
    /// A transaction within a transaction.
    Nested(Box<Transaction>),
}

/// Conditions with the operations for either outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The conditions, all of which must hold.
    pub conditions: Vec<Condition>,
    /// The operations if the conditions hold.
    pub success: Vec<Operation>,
    /// The operations if one does not.
    pub failure: Vec<Operation>,
}

/// A condition on a key, or on each key of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The keys. A condition on a range without a key does not hold; a key that does not exist counts as revision and
    /// version zero.
    pub range: KeyRange,
    /// Comparison of the subject with the given value.
    pub comparison: Comparison,
    /// Subject of the comparison, with the given value.
    pub subject: Subject,
}

/// Comparison of a subject with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Subject and value are equal.
    Equal,
    /// The subject is larger.
    Greater,
    /// The subject is smaller.
    Less,
    /// Subject and value differ.
    NotEqual,
}

/// Subject of a condition, with the given value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The number of writes.
    Version(i64),
    /// The create revision.
    Created(Revision),
    /// The revision of the last write.
    Modified(Revision),
    /// The lease; zero means none.
    Lease(i64),
    /// The value.
    Value(Vec<u8>),
}

/// Reply to a read of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeReply {
    /// The entries.
    pub entries: Vec<Arc<KeyValue>>,
    /// The number of entries in the range, beyond the limit, too.
    pub count: usize,
    /// There are more entries than the limit.
    pub more: bool,
}

/// Reply to an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationReply {
    /// Result of a read.
    Range(RangeReply),
    /// Result of a write: the entry before, and the new one.
    Put {
        /// The entry before, if it was asked for.
        previous: Option<Arc<KeyValue>>,
        /// The new entry.
        entry: Arc<KeyValue>,
    },
    /// Result of a removal.
    Delete {
        /// Number of removed keys.
        deleted: usize,
        /// The removed entries, if they were asked for.
        previous: Vec<Arc<KeyValue>>,
    },
    /// Result of a transaction within a transaction.
    Nested(TransactionReply),
}

/// Reply to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionReply {
    /// The conditions held.
    pub succeeded: bool,
    /// Replies to the operations.
    pub replies: Vec<OperationReply>,
}

impl Condition {
    /// Reports whether the condition holds.
    fn holds(&self, keyspace: &Keyspace) -> bool {
        let mut entries = keyspace.range(&self.range).peekable();
        match (entries.peek().is_none(), &self.range) {
            // A value that does not exist equals nothing, and differs from nothing.
            (true, _) if matches!(self.subject, Subject::Value(_)) => false,
            (true, KeyRange::One(_)) => self.matches(None),
            (true, _) => false,
            (false, _) => entries.all(|entry| self.matches(Some(entry))),
        }
    }

    fn matches(&self, entry: Option<&KeyValue>) -> bool {
        let number = |of: fn(&KeyValue) -> i64, given: &i64| entry.map_or(0, of).cmp(given);
        let ordering = match &self.subject {
            Subject::Version(given) => number(|entry| entry.version, given),
            Subject::Created(given) => number(|entry| entry.created, given),
            Subject::Modified(given) => number(|entry| entry.modified, given),
            Subject::Lease(given) => number(|entry| entry.lease.map_or(0, |lease| lease.0), given),
            Subject::Value(given) => entry.map(|entry| entry.value.as_slice()).unwrap_or_default().cmp(given),
        };
        match self.comparison {
            Comparison::Equal => ordering == Ordering::Equal,
            Comparison::Greater => ordering == Ordering::Greater,
            Comparison::Less => ordering == Ordering::Less,
            Comparison::NotEqual => ordering != Ordering::Equal,
        }
    }
}

impl Transaction {
    /// Checks the number of operations and that no path through the transaction writes a key twice.
    pub(crate) fn check(&self, max: usize) -> Result<(), Refusal> {
        let mut count = 0;
        self.count(&mut count);
        if count > max {
            return Err(Refusal::TooManyOperations { max });
        }
        for branch in [&self.success, &self.failure] {
            let mut written = WrittenKeys::default();
            written.add(branch)?;
        }
        Ok(())
    }

    fn count(&self, count: &mut usize) {
        *count += self.conditions.len().max(self.success.len()).max(self.failure.len());
        for operation in self.success.iter().chain(&self.failure) {
            if let Operation::Nested(nested) = operation {
                nested.count(count);
            }
        }
    }
}

/// Keys that a branch of a transaction writes.
#[derive(Default)]
struct WrittenKeys<'a> {
    puts: Vec<&'a Key>,
    deletions: Vec<&'a KeyRange>,
}

impl<'a> WrittenKeys<'a> {
    fn add(&mut self, branch: &'a [Operation]) -> Result<(), Refusal> {
        for operation in branch {
            match operation {
                Operation::Range(_) => {}
                Operation::Put(put) => {
                    let twice = self.puts.contains(&&put.key);
                    if twice || self.deletions.iter().any(|range| range.contains(&put.key)) {
                        return Err(Refusal::DuplicateKey);
                    }
                    self.puts.push(&put.key);
                }
                Operation::Delete(deletion) => {
                    if self.puts.iter().any(|key| deletion.range.contains(key)) {
                        return Err(Refusal::DuplicateKey);
                    }
                    self.deletions.push(&deletion.range);
                }
                Operation::Nested(nested) => {
                    self.add(&nested.success)?;
                    self.add(&nested.failure)?;
                }
            }
        }
        Ok(())
    }
}

impl Keyspace {
    pub(crate) fn transact(
        &mut self,
        transaction: &Transaction,
        effects: &mut CommandEffects,
    ) -> Result<TransactionReply, Refusal> {
        let succeeded = transaction.conditions.iter().all(|condition| condition.holds(self));
        let branch = if succeeded { &transaction.success } else { &transaction.failure };
        let replies = branch.iter().map(|operation| self.operate(operation, effects)).collect::<Result<_, _>>()?;
        Ok(TransactionReply { succeeded, replies })
    }

    pub(crate) fn operate(
        &mut self,
        operation: &Operation,
        effects: &mut CommandEffects,
    ) -> Result<OperationReply, Refusal> {
        match operation {
            Operation::Range(query) => self.read(query).map(OperationReply::Range),
            Operation::Put(put) => {
                let (previous, entry) = self.put(put.clone(), effects)?;
                Ok(OperationReply::Put { previous: previous.filter(|_| put.previous), entry })
            }
            Operation::Delete(deletion) => {
                let removed = self.delete(&deletion.range, effects)?;
                let deleted = removed.len();
                let previous = if deletion.previous { removed } else { Vec::new() };
                Ok(OperationReply::Delete { deleted, previous })
            }
            Operation::Nested(nested) => self.transact(nested, effects).map(OperationReply::Nested),
        }
    }

    /// Writes a key. Returns the entry before and the new one.
    pub(crate) fn put(
        &mut self,
        put: Put,
        effects: &mut CommandEffects,
    ) -> Result<(Option<Arc<KeyValue>>, Arc<KeyValue>), Refusal> {
        let quota = &self.quota;
        let present = self.entries.get(&put.key).cloned();
        let value = match (put.value, &present) {
            (Some(value), _) => value,
            (None, Some(present)) => present.value.clone(),
            (None, None) => return Err(Refusal::NothingToKeep),
        };
        let lease = match (put.keep_lease, &present) {
            (false, _) => put.ttl.map(|(lease, _)| lease).or(put.lease),
            (true, Some(present)) => present.lease,
            (true, None) => return Err(Refusal::NothingToKeep),
        };
        if put.key.is_empty() {
            return Err(Refusal::KeyMissing);
        }
        if put.key.len() > quota.key_bytes {
            return Err(Refusal::KeyTooLong { max: quota.key_bytes });
        }
        if value.len() > quota.value_bytes {
            return Err(Refusal::ValueTooLong { max: quota.value_bytes });
        }
        if put.ttl.is_none() && lease.is_some_and(|lease| !self.leases.contains_key(&lease)) {
            return Err(Refusal::LeaseNotFound);
        }
        if present.is_none() && self.entries.len() >= quota.keys {
            return Err(Refusal::TooManyKeys { max: quota.keys });
        }
        let size = put.key.len() + value.len();
        if self.bytes + size - present.as_ref().map_or(0, |entry| entry.size()) > quota.total_bytes {
            return Err(Refusal::NoSpace { max: quota.total_bytes });
        }
        if let Some((lease, ttl)) = put.ttl {
            self.grant(lease, ttl, true, effects)?;
        }
        let revision = self.begin_revision(effects);
        let entry = Arc::new(KeyValue {
            created: present.as_ref().map_or(revision, |entry| entry.created),
            version: present.as_ref().map_or(1, |entry| entry.version + 1),
            modified: revision,
            key: put.key,
            value,
            lease,
        });
        self.set_entry(&entry.key, Some(Arc::clone(&entry)), revision, effects);
        Ok((present, entry))
    }

    /// Removes a range. Returns the removed entries.
    fn delete(&mut self, range: &KeyRange, effects: &mut CommandEffects) -> Result<Vec<Arc<KeyValue>>, Refusal> {
        if range.first().is_empty() && matches!(range, KeyRange::One(_)) {
            return Err(Refusal::KeyMissing);
        }
        let removed: Vec<Arc<KeyValue>> = self.range(range).cloned().collect();
        if !removed.is_empty() {
            let revision = self.begin_revision(effects);
            for entry in &removed {
                self.set_entry(&entry.key, None, revision, effects);
            }
            effects.clearings.push(Clearing::Range { range: range.clone(), before: revision });
        }
        Ok(removed)
    }

    /// Reads a range.
    fn read(&self, query: &RangeQuery) -> Result<RangeReply, Refusal> {
        if query.range.first().is_empty() && matches!(query.range, KeyRange::One(_)) {
            return Err(Refusal::KeyMissing);
        }
        let mut entries: Vec<Arc<KeyValue>> = match query.revision {
            Some(asked) if asked > self.revision => {
                return Err(Refusal::FutureRevision { asked, newest: self.revision });
            }
            Some(asked) if asked < self.history.compacted() => {
                return Err(Refusal::Compacted { asked, compacted: self.history.compacted() });
            }
            Some(asked) if asked < self.revision => {
                let mut past = self.entries.clone();
                self.history.rewind(&mut past, asked);
                past.into_values().filter(|entry| query.range.contains(&entry.key)).collect()
            }
            _ => self.range(&query.range).cloned().collect(),
        };
        let within = |(low, high): (Option<Revision>, Option<Revision>), revision: Revision| {
            low.is_none_or(|low| revision >= low) && high.is_none_or(|high| revision <= high)
        };
        let count = entries.len();
        entries.retain(|entry| within(query.modified, entry.modified) && within(query.created, entry.created));
        match query.sort {
            SortKey::Key => {}
            SortKey::Version => entries.sort_by_key(|entry| entry.version),
            SortKey::Created => entries.sort_by_key(|entry| entry.created),
            SortKey::Modified => entries.sort_by_key(|entry| entry.modified),
            SortKey::Value => entries.sort_by(|one, other| one.value.cmp(&other.value)),
        }
        if query.order == Order::Descending {
            entries.reverse();
        }
        let more = query.limit > 0 && entries.len() > query.limit;
        if more {
            entries.truncate(query.limit);
        }
        if query.count_only {
            entries.clear();
        }
        if query.keys_only {
            for entry in &mut entries {
                *entry = Arc::new(KeyValue { value: Vec::new(), ..(**entry).clone() });
            }
        }
        Ok(RangeReply { entries, count, more: more && !query.count_only })
    }
}
