//! Locks of an app. The containers of the app have the same requests and responses at `GANTRY_API`.

use serde::{Deserialize, Serialize};

/// Time to live of a lock without a renewal, in seconds.
pub const DEFAULT_TTL: u64 = 15;

/// Longest wait of one request, in seconds.
pub const WAIT_MAX: u64 = 50;

/// Request for a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireLock {
    /// Seconds after which a lock that nobody renews is lost.
    #[serde(default = "default_ttl")]
    pub ttl: u64,
    /// Longest wait in seconds, at most 50. Zero only tries.
    #[serde(default)]
    pub wait: u64,
    /// A text about the holder, for others to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

fn default_ttl() -> u64 {
    DEFAULT_TTL
}

/// A lock that the caller holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    /// Name of the lock.
    pub name: String,
    /// The fencing token: higher than that of every holder before. It also renews and releases the lock.
    pub token: i64,
    /// Seconds after which the lock is lost without a renewal.
    pub ttl: u64,
}

/// Request for a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewLock {
    /// The token of the lock.
    pub token: i64,
    /// The holder's new text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// State of a lock or an election.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockInfo {
    /// Name of the lock.
    pub name: String,
    /// The holder, or the leader of an election.
    pub holder: Option<LockHolder>,
    /// Number of those that wait.
    pub waiting: usize,
    /// Revision of the app's keys, for a watch.
    pub revision: i64,
}

/// The holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Fencing token of the holder.
    pub token: i64,
    /// Text that the holder gave.
    pub value: String,
}
