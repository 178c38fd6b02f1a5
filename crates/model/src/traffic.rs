//! What is to become of an app's requests, as its owners said, and what became of them.

use serde::{Deserialize, Serialize};

use crate::{Bytes, InstanceId, Moment, Seconds, TrustedProxies};

/// What is to become of an app's requests. By default they reach it, however many they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// They wait, as they do while no instance is ready.
    pub paused: bool,
    /// They are answered with 503 and this.
    pub maintenance: Option<String>,
    /// The most in a second, at each router; the others are answered with 429.
    pub rate: Option<u32>,
    /// The most at once, open websockets included, at each router; the others are answered with 429.
    pub concurrent: Option<u32>,
    /// Proxies that this app trusts besides those of the cluster.
    #[serde(skip_serializing_if = "TrustedProxies::is_empty")]
    pub trusted_proxies: TrustedProxies,
}

impl Traffic {
    /// Nothing was said.
    #[must_use]
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Traffic {
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

/// How long things may take that concern the requests of a route, and how much of a request's body is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// For the first byte of an answer.
    pub answer: Seconds,
    /// For what is under way when an instance retires.
    pub drain: Seconds,
    /// The most of a request's body that the router collects before it chooses an instance; 0 collects nothing.
    #[serde(default = "request_buffer")]
    pub request_buffer: Bytes,
}

fn request_buffer() -> Bytes {
    crate::role::REQUEST_BUFFER
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: crate::role::REQUEST_TIMEOUT, drain: Seconds(30), request_buffer: request_buffer() }
    }
}

/// What became of an app's requests at one router, since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// That wait now.
    pub waiting: u64,
    /// That waited and then reached an instance.
    pub held: u64,
    /// That waited in vain, or found too many waiting.
    pub refused: u64,
    /// That were over a limit.
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

/// Why a request failed, as a router saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestFailure {
    /// The instance closed or reset the connection before it answered: 502.
    Broken,
    /// The instance began no answer in time: 504.
    Slow,
    /// No instance was ready, or took the request, within the wait: 503.
    NoInstance,
    /// The answer broke off before its end.
    Cut,
    /// The client went away after it had waited for an answer for some seconds.
    GivenUp,
    /// The application itself answered with a status of 500 or more.
    ServerError,
    /// The request was over a limit of the app's: 429.
    Limited,
}

/// A run of failed requests of one kind at one router: no two of them are further apart than [`FAILURE_GAP_MILLIS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRun {
    /// The failed requests.
    pub count: u64,
    /// All requests of the app that ended since the first failure, that one included.
    pub of: u64,
    /// The time of the first failure.
    pub since: Moment,
    /// The time of the last failure.
    pub last: Moment,
    /// The status of the last failure; 0 if there was none.
    pub status: u16,
    /// The instance that the last failed request was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
}

/// A run of failures ends once no request failed for this long, in milliseconds.
pub const FAILURE_GAP_MILLIS: u64 = 60_000;
