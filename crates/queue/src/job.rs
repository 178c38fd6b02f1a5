//! The states of a job, and the one function that changes them.
//!
//! ```text
//!   submitted ─► delayed ─► held ─► ready ─► leased ─► ended: succeeded, failed, timed out
//!                  ▲                  ▲        │ │
//!                  │                  └─ lost ─┘ │
//!                  └────── failed, may retry ────┘
//!   every state before `ended` ─► ended: cancelled     delayed, held, ready ─► ended: expired
//! ```
//! - `delayed`: not before a moment. `held`: its key has no room. `ready`: the next machine with room takes the job.
//! - `leased`: one machine runs the job, under a fencing token. Only the token of the current lease completes the job, so
//!   exactly one completion is recorded.

use gantry_model::{MachineName, Moment};
use serde::{Deserialize, Serialize};

use crate::name::Fence;
use crate::order::Rank;
use crate::retry::{Jitter, backoff};
use crate::settings::JobSettings;

/// Lost leases after which a job is not run again: the job may be what ends its machines.
const LOST_MAX: u32 = 5;

/// A job, as far as the rules know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Settings.
    pub settings: JobSettings,
    /// Time of submission.
    pub submitted: Moment,
    /// Fencing token of the current or last lease.
    pub fence: Fence,
    /// Attempts that ended without success.
    pub failures: u32,
    /// Leases that were lost.
    pub lost: u32,
    /// State.
    pub state: JobState,
}

/// State of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// Waits for a moment.
    Delayed {
        /// The moment.
        due: Moment,
    },
    /// Waits until another job with the same key ends.
    Held {
        /// Place among the held jobs of the key.
        rank: Rank,
    },
    /// Waits for a machine.
    Ready {
        /// Place in the queue.
        rank: Rank,
    },
    /// Is with a machine.
    Leased {
        /// The machine.
        machine: MachineName,
        /// Begin of the lease.
        since: Moment,
        /// True if the job was cancelled and the machine has not stopped it yet.
        cancelling: bool,
    },
    /// Is over.
    Ended {
        /// End of the job.
        end: JobEnd,
        /// Time of the end.
        at: Moment,
    },
}

/// End of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEnd {
    /// The program exited with 0.
    Succeeded,
    /// The last attempt failed, and no retry is left.
    Failed,
    /// The last attempt exceeded its timeout, and no retry is left.
    TimedOut,
    /// A caller cancelled the job.
    Cancelled,
    /// The job did not start in time.
    Expired,
    /// The job lost its machine too often.
    Lost,
}

impl JobEnd {
    /// All ends.
    pub const ALL: [Self; 6] =
        [Self::Succeeded, Self::Failed, Self::TimedOut, Self::Cancelled, Self::Expired, Self::Lost];

    /// Reports whether the job is a dead letter: it did not succeed, and no caller ended it.
    #[must_use]
    pub fn is_dead(self) -> bool {
        !matches!(self, Self::Succeeded | Self::Cancelled)
    }
}

/// End of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The program exited with 0.
    Succeeded,
    /// The program exited with another status, was killed, or could not be started.
    Failed,
    /// The program exceeded its timeout.
    TimedOut,
}

/// Event in the life cycle of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// The delay is over. `room`: the job's key has room for one more.
    Due {
        /// True if the key has room, or the job has no key.
        room: bool,
    },
    /// The key of a held job has room.
    Admit,
    /// A machine takes the job.
    Claim {
        /// The machine.
        machine: MachineName,
    },
    /// A machine reports the end of an attempt.
    Complete {
        /// Token of the machine's lease.
        fence: Fence,
        /// End of the attempt.
        outcome: AttemptOutcome,
        /// For the pause before a retry.
        jitter: Jitter,
    },
    /// The lease was lost: the machine no longer names the job.
    Lose {
        /// Token of the lost lease.
        fence: Fence,
    },
    /// A caller cancels the job.
    Cancel,
}

/// Reason why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The event does not belong to the job's state.
    #[error("the job is in another state")]
    WrongState,
    /// The same completion was recorded before.
    #[error("this completion is recorded")]
    Repeated,
    /// Another lease has taken the place of this one. The attempt was an extra run.
    #[error("the lease was lost, and its completion does not count")]
    Superseded,
    /// The job has ended.
    #[error("the job has ended")]
    Ended,
}

impl Job {
    /// A submitted job. `room`: the job's key has room for one more.
    #[must_use]
    pub fn submitted(settings: JobSettings, now: Moment, room: bool) -> Self {
        let mut job = Self {
            state: JobState::Delayed { due: later(now, settings.delay.saturating_mul(1000)) },
            settings,
            submitted: now,
            fence: Fence(0),
            failures: 0,
            lost: 0,
        };
        if job.settings.delay == 0 {
            job.state = job.waiting(now, room);
        }
        job
    }

    /// Moment at which the job expires, unless it has started.
    #[must_use]
    pub fn expiry(&self) -> Option<Moment> {
        self.settings.expires.map(|seconds| later(self.submitted, seconds.saturating_mul(1000)))
    }

    /// Reports whether the job takes up room of its key: it is ready or leased.
    #[must_use]
    pub fn takes_room(&self) -> bool {
        matches!(self.state, JobState::Ready { .. } | JobState::Leased { .. })
    }

    /// Reports whether the job has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, JobState::Ended { .. })
    }

    /// The job after an event. A job that expires does so instead of `Due`, `Admit` and `Claim`.
    ///
    /// # Errors
    /// [`Refusal`]: the event changes nothing.
    pub fn after(&self, event: JobEvent, now: Moment) -> Result<Self, Refusal> {
        let mut next = self.clone();
        if let JobEvent::Complete { fence, .. } | JobEvent::Lose { fence } = &event {
            self.check_lease(*fence)?;
        }
        let starts = matches!(event, JobEvent::Due { .. } | JobEvent::Admit | JobEvent::Claim { .. });
        let expires = starts && self.failures == 0 && self.expiry().is_some_and(|expiry| expiry <= now);
        next.state = match (&self.state, event) {
            (JobState::Ended { .. }, _) => return Err(Refusal::Ended),
            (JobState::Delayed { .. } | JobState::Held { .. } | JobState::Ready { .. }, _) if expires => {
                JobState::Ended { end: JobEnd::Expired, at: now }
            }
            (JobState::Delayed { due }, JobEvent::Due { room }) => self.waiting(*due, room),
            (JobState::Held { rank }, JobEvent::Admit) => JobState::Ready { rank: *rank },
            (JobState::Ready { .. }, JobEvent::Claim { machine }) => {
                next.fence = Fence(self.fence.0 + 1);
                JobState::Leased { machine, since: now, cancelling: false }
            }
            (JobState::Leased { cancelling, .. }, JobEvent::Complete { outcome, jitter, .. }) => {
                next.failures += u32::from(outcome != AttemptOutcome::Succeeded);
                next.completed(outcome, *cancelling, now, jitter)
            }
            (JobState::Leased { cancelling, .. }, JobEvent::Lose { .. }) => {
                next.fence = Fence(self.fence.0 + 1);
                next.lost += 1;
                match (cancelling, next.lost > LOST_MAX) {
                    (true, _) => JobState::Ended { end: JobEnd::Cancelled, at: now },
                    (false, true) => JobState::Ended { end: JobEnd::Lost, at: now },
                    // The job was there before all others that wait now.
                    (false, false) => JobState::Ready { rank: Rank::of(self.submitted, self.settings.priority) },
                }
            }
            (JobState::Leased { machine, since, .. }, JobEvent::Cancel) => {
                JobState::Leased { machine: machine.clone(), since: *since, cancelling: true }
            }
            (_, JobEvent::Cancel) => JobState::Ended { end: JobEnd::Cancelled, at: now },
            _ => return Err(Refusal::WrongState),
        };
        Ok(next)
    }

    /// Refuses the token of a lease that is not the current one.
    fn check_lease(&self, fence: Fence) -> Result<(), Refusal> {
        match (&self.state, fence == self.fence) {
            (JobState::Leased { .. }, true) => Ok(()),
            // A lost lease raises the token, so an equal token outside a lease was completed.
            (_, true) => Err(Refusal::Repeated),
            (_, false) => Err(Refusal::Superseded),
        }
    }

    fn waiting(&self, since: Moment, room: bool) -> JobState {
        let rank = Rank::of(since, self.settings.priority);
        if room { JobState::Ready { rank } } else { JobState::Held { rank } }
    }

    /// The state after a completed attempt.
    fn completed(&self, outcome: AttemptOutcome, cancelling: bool, now: Moment, jitter: Jitter) -> JobState {
        let end = match outcome {
            _ if cancelling => JobEnd::Cancelled,
            AttemptOutcome::Succeeded => JobEnd::Succeeded,
            _ if self.failures <= self.settings.retries.most => {
                let first = u64::from(self.settings.retries.delay) * 1000;
                return JobState::Delayed { due: later(now, backoff(first, self.failures, jitter)) };
            }
            AttemptOutcome::Failed => JobEnd::Failed,
            AttemptOutcome::TimedOut => JobEnd::TimedOut,
        };
        JobState::Ended { end, at: now }
    }
}

fn later(moment: Moment, millis: u64) -> Moment {
    Moment(moment.0.saturating_add(millis))
}
