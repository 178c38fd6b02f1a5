//! Traffic policy of an app, as its owners set it, and the counts of its requests.

use serde::{Deserialize, Serialize};

use crate::{AllocationId, Bytes, Moment, Seconds, TrustedProxies};

/// Traffic policy: pause, maintenance, rate and concurrency limits. By default all requests reach the app without a
/// limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficPolicy {
    /// Pauses the app: requests wait, as they do while no instance is ready.
    pub paused: bool,
    /// Maintenance message. If set, routers answer each request with 503 and this message.
    pub maintenance: Option<String>,
    /// Rate limit in requests per second, at each router; routers answer requests over the limit with 429.
    pub rate: Option<u32>,
    /// Concurrency limit at each router, including open websockets; routers answer requests over the limit with 429.
    pub concurrent: Option<u32>,
    /// Proxies that this app trusts in addition to the cluster's.
    #[serde(skip_serializing_if = "TrustedProxies::is_empty")]
    pub trusted_proxies: TrustedProxies,
}

impl TrafficPolicy {
    /// Reports whether the owners have set nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [
            self.maintenance.as_ref().map(|message| format!("maintenance: {message}")),
            self.paused.then(|| "paused".to_owned()),
            self.rate.map(|rate| format!("at most {rate} requests a second")),
            self.concurrent.map(|count| format!("at most {count} at once")),
            (!self.trusted_proxies.is_empty()).then(|| format!("trusts the proxies {}", self.trusted_proxies)),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        f.write_str(if words.is_empty() { "free" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

/// Timeouts of a route's requests, and the size of its request buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestTimeouts {
    /// Response timeout: the longest wait for the first byte of a response.
    #[serde(rename = "answer")]
    pub response: Seconds,
    /// Drain time: how long a retired instance may finish its requests.
    pub drain: Seconds,
    /// Part of a request body that the router buffers before it chooses an instance; 0 turns buffering off.
    #[serde(default = "request_buffer")]
    pub request_buffer: Bytes,
}

fn request_buffer() -> Bytes {
    crate::role::REQUEST_BUFFER
}

impl Default for RequestTimeouts {
    fn default() -> Self {
        Self {
            response: crate::role::REQUEST_TIMEOUT,
            drain: crate::defaults::DRAIN_TIME,
            request_buffer: request_buffer(),
        }
    }
}

/// Outcomes of an app's requests at one router, counted since the router started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestCounts {
    /// Requests that wait now.
    pub waiting: u64,
    /// Requests that waited and then reached an instance.
    pub held: u64,
    /// Requests whose wait timed out, or that met a full queue.
    pub refused: u64,
    /// Requests over a limit.
    pub limited: u64,
}

impl std::ops::AddAssign for RequestCounts {
    fn add_assign(&mut self, other: Self) {
        self.waiting += other.waiting;
        self.held += other.held;
        self.refused += other.refused;
        self.limited += other.limited;
    }
}

/// Kinds of request failure, as a router detects them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestFailure {
    /// The instance closed or reset the connection before it responded: 502.
    Broken,
    /// The instance did not begin its response in time: 504.
    Slow,
    /// Within the wait, no instance was ready or accepted the request: 503.
    NoInstance,
    /// The response broke off before its end.
    Cut,
    /// The client disconnected after a wait of some seconds for the response.
    GivenUp,
    /// The application returned a status of 500 or more.
    ServerError,
    /// The request exceeded a limit of the app: 429.
    Limited,
}

/// A run of failed requests of one kind at one router. Two consecutive failures are at most [`FAILURE_GAP_MILLIS`]
/// apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRun {
    /// Number of failed requests.
    pub count: u64,
    /// Number of the app's requests that ended since the first failure, including the failures.
    pub of: u64,
    /// The time of the first failure.
    pub since: Moment,
    /// The time of the last failure.
    pub last: Moment,
    /// The status of the last failure; 0 if the failure has no status.
    pub status: u16,
    /// The instance that received the last failed request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<AllocationId>,
}

/// A run of failures ends after this time without a failure, in milliseconds.
pub const FAILURE_GAP_MILLIS: u64 = 60_000;
