//! The order of the jobs of a queue.

use std::str::FromStr;

use gantry_model::Moment;
use serde::{Deserialize, Serialize};

/// Head start of one level of priority, in milliseconds. A job waits behind jobs of the next higher priority that are
/// submitted within this time after it, and goes before all later ones.
const HEAD_START: i64 = 15 * 60 * 1000;

/// Priority of a job; 2 goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Priority {
    /// 0.
    #[default]
    Low,
    /// 1.
    Normal,
    /// 2.
    High,
}

/// A number is no priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a priority; choose 0, 1, or 2, which goes first")]
pub struct UnknownPriority(String);

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(text: &str) -> Result<Self, UnknownPriority> {
        let number: u8 = text.parse().map_err(|_| UnknownPriority(text.to_owned()))?;
        number.try_into()
    }
}

impl TryFrom<u8> for Priority {
    type Error = UnknownPriority;

    fn try_from(number: u8) -> Result<Self, UnknownPriority> {
        match number {
            0 => Ok(Self::Low),
            1 => Ok(Self::Normal),
            2 => Ok(Self::High),
            _ => Err(UnknownPriority(number.to_string())),
        }
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => 0,
            Priority::Normal => 1,
            Priority::High => 2,
        }
    }
}

/// Place of a job in the order of its queue: lower ranks first.
///
/// The rank never changes while the job waits, so an index keeps the order. The rank is the time since which the job
/// waits, less a head start for each level of priority. No stream of urgent jobs delays a job for longer than the head
/// start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub i64);

impl Rank {
    /// The rank of a job that waits since `since`.
    #[must_use]
    pub fn of(since: Moment, priority: Priority) -> Self {
        let since = i64::try_from(since.0).unwrap_or(i64::MAX);
        Self(since.saturating_sub(HEAD_START * i64::from(u8::from(priority))))
    }
}
