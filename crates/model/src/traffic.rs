//! What is to become of an app's requests, as its owners said, and what became of them.

use serde::{Deserialize, Serialize};

use crate::Seconds;

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
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        f.write_str(if words.is_empty() { "free" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

/// How long things may take that concern the requests of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// For the first byte of an answer.
    pub answer: Seconds,
    /// For what is under way when an instance retires.
    pub drain: Seconds,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: crate::role::REQUEST_TIMEOUT, drain: Seconds(30) }
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
