//! Settings of a job, and their limits.

use serde::{Deserialize, Serialize};

use crate::order::Priority;
use crate::push::InvalidPush;
use crate::receiver::ReceiverUrl;

/// Largest payload in bytes.
pub const PAYLOAD_MAX: usize = 64 << 10;

/// Longest delay in seconds: a week.
const DELAY_MAX: u64 = 604_800;

/// Longest time until a waiting job expires, in seconds: 30 days.
const EXPIRY_MAX: u64 = 2_592_000;

/// Timeout of an attempt, in seconds: the default and the longest.
const TIMEOUT: u32 = 3600;
const TIMEOUT_MAX: u32 = 86_400;

/// Maximum number of retries of a job.
const RETRIES_MAX: u32 = 100;

/// Longest first pause before a retry, in seconds.
const RETRY_DELAY_MAX: u32 = 86_400;

/// Longest name of a key, in bytes.
const KEY_MAX: usize = 200;

/// Settings of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobSettings {
    /// Priority: 0, 1 or 2; 2 goes first.
    pub priority: Priority,
    /// Delay before the job may start, in seconds.
    pub delay: u64,
    /// Timeout of each attempt, in seconds.
    pub timeout: u32,
    /// Retries after failed attempts.
    pub retries: RetryPolicy,
    /// Time after which a job that has not started expires, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Limits the jobs of the queue that run at the same time under this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<ConcurrencyKey>,
    /// Idempotency key: of all jobs of a queue with one key, only the first is queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<String>,
    /// Receiver of the job's result: a signed request to this URL follows the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback: Option<ReceiverUrl>,
}

/// Retries after failed attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Maximum number of retries.
    pub most: u32,
    /// Pause before the first retry, in seconds. Each further pause is twice as long.
    pub delay: u32,
}

/// A key under which few jobs run at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyKey {
    /// Name of the key, such as the id of a customer.
    pub name: String,
    /// Maximum number of jobs at the same time.
    #[serde(default = "one")]
    pub limit: u32,
}

fn one() -> u32 {
    1
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { most: 0, delay: 10 }
    }
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            priority: Priority::default(),
            delay: 0,
            timeout: TIMEOUT,
            retries: RetryPolicy::default(),
            expires: None,
            key: None,
            idempotency: None,
            callback: None,
        }
    }
}

/// Reason why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// A number is out of its range.
    #[error("{field} is {value}; choose {least} to {most}")]
    Range {
        /// The field.
        field: &'static str,
        /// Value of the field.
        value: u64,
        /// The smallest value.
        least: u64,
        /// The largest value.
        most: u64,
    },
    /// The job would expire before it may start.
    #[error("expires is {expires} s and delay is {delay} s: the job would expire before its start; raise expires")]
    ExpiresBeforeStart {
        /// Time until the job expires, in seconds.
        expires: u64,
        /// Delay in seconds.
        delay: u64,
    },
    /// A key is empty or too long.
    #[error("{field} has {length} bytes; choose 1 to {KEY_MAX}")]
    Key {
        /// The field.
        field: &'static str,
        /// Length of the field, in bytes.
        length: usize,
    },
    /// The subscribers of a push queue, or their headers.
    #[error(transparent)]
    Push(#[from] InvalidPush),
    /// A push queue without subscribers.
    #[error("a queue of the type unicast or multicast needs push.subscribers")]
    PushMissing,
    /// A pull queue with subscribers.
    #[error("a queue of the type pull has no subscribers; choose the type unicast or multicast for a new queue")]
    PushOfPullQueue,
    /// A push queue with a queue of dead letters.
    #[error("a push queue has no dead_letter; name an error_queue in push instead")]
    DeadLettersOfPushQueue,
}

impl JobSettings {
    /// Checks every field against its limits.
    ///
    /// # Errors
    /// [`InvalidSettings`] names the first field that is out of its limits.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        in_range("delay", self.delay, 0, DELAY_MAX)?;
        in_range("timeout", self.timeout.into(), 1, TIMEOUT_MAX.into())?;
        in_range("retries.most", self.retries.most.into(), 0, RETRIES_MAX.into())?;
        in_range("retries.delay", self.retries.delay.into(), 0, RETRY_DELAY_MAX.into())?;
        if let Some(expires) = self.expires {
            in_range("expires", expires, 1, EXPIRY_MAX)?;
            if expires <= self.delay {
                return Err(InvalidSettings::ExpiresBeforeStart { expires, delay: self.delay });
            }
        }
        if let Some(key) = &self.key {
            short("key.name", &key.name)?;
            in_range("key.limit", key.limit.into(), 1, 10_000)?;
        }
        self.idempotency.as_ref().map_or(Ok(()), |key| short("idempotency", key))
    }
}

pub(crate) fn in_range(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), InvalidSettings> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(InvalidSettings::Range { field, value, least, most }) }
}

fn short(field: &'static str, text: &str) -> Result<(), InvalidSettings> {
    match text.len() {
        1..=KEY_MAX => Ok(()),
        length => Err(InvalidSettings::Key { field, length }),
    }
}
