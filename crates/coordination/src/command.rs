//! Commands on a keyspace, and their replies.

use std::sync::Arc;

use crate::lock::{LockState, Turn};
use crate::{
    Events, Key, KeyRange, KeyValue, LeaseId, LeaseInfo, Operation, OperationReply, Revision, Transaction,
    TransactionReply,
};

/// Request to a keyspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// One operation.
    One(Operation),
    /// Conditions, and the operations that follow from them.
    Transact(Transaction),
    /// Forgets the history up to a revision.
    Compact(Revision),
    /// Returns the changes of a range from a revision on.
    Watch(KeyRange, Revision),
    /// Grants a lease.
    Grant {
        /// The identifier.
        id: LeaseId,
        /// Time to live in seconds.
        ttl: i64,
    },
    /// Ends a lease, with its keys.
    Revoke(LeaseId),
    /// Renews a lease.
    KeepAlive(LeaseId),
    /// Describes a lease.
    Lease(LeaseId),
    /// Lists all leases.
    Leases,
    /// Waits in the line of a lock or an election.
    Enter {
        /// Name of the lock.
        name: Key,
        /// The lease that the place in the line has.
        lease: LeaseId,
        /// Time to live of a lease that is granted for this lock alone; none for a lease that exists.
        ttl: Option<i64>,
        /// The candidate's value. None keeps the value of a place that exists.
        value: Option<Vec<u8>>,
    },
    /// Asks whether a place in a line is the first one.
    Turn {
        /// Key of the place.
        key: Key,
        /// Revision that created the place.
        token: Revision,
        /// Name of the lock.
        name: Key,
    },
    /// Describes a lock or an election.
    Lock(Key),
    /// Renews the lease of a place, and may change its value.
    Renew {
        /// Name of the lock.
        name: Key,
        /// Revision that created the place.
        token: Revision,
        /// The new value.
        value: Option<Vec<u8>>,
    },
    /// Gives up a place in a line, or the lock.
    Leave {
        /// Name of the lock.
        name: Key,
        /// Revision that created the place.
        token: Revision,
    },
}

/// The reply to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Result of [`Command::One`].
    One(OperationReply),
    /// Result of [`Command::Transact`].
    Transact(TransactionReply),
    /// Result of [`Command::Compact`], [`Command::Revoke`] and [`Command::Leave`].
    Done,
    /// Result of [`Command::Watch`].
    Events(Events),
    /// Result of [`Command::Grant`], and of [`Command::KeepAlive`] and [`Command::Lease`] for a lease that exists.
    Lease(LeaseInfo),
    /// Result of [`Command::KeepAlive`] and [`Command::Lease`] for an unknown lease.
    NoLease,
    /// Result of [`Command::Leases`].
    Leases(Vec<LeaseId>),
    /// Result of [`Command::Enter`] and [`Command::Renew`]: the place.
    Place(Arc<KeyValue>),
    /// Result of [`Command::Turn`].
    Turn(Turn),
    /// Result of [`Command::Lock`].
    Lock(LockState),
}
