//! Pauses before retries.

use serde::{Deserialize, Serialize};

/// Longest pause before a retry, in milliseconds.
pub const BACKOFF_MAX: u64 = 3_600_000;

/// A random number, for one pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jitter(pub u16);

/// Pause in milliseconds after the failed attempt `attempt`, counted from 1. The pause doubles with each attempt, up to
/// [`BACKOFF_MAX`]. Up to a quarter is added at random, so that jobs that failed together do not return together.
#[must_use]
pub fn backoff(first: u64, attempt: u32, jitter: Jitter) -> u64 {
    let doublings = attempt.saturating_sub(1).min(32);
    let pause = first.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    pause + pause / 4 * u64::from(jitter.0) / u64::from(u16::MAX)
}
