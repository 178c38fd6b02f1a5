//! Deliveries: requests to receivers of others, each repeated until it is acknowledged or given up.
//!
//! ```text
//!   waiting ─ send ─► sent ─ acknowledged ─► delivered
//!      ▲               │ └── accepted ─► accepted ─ the receiver deletes ─► delivered
//!      │               ▼                    │ its time is over
//!      └──── failed, tries left ◄───────────┘ ── no tries left ─► failed
//! ```
//! - A delivery is sent at least once. A server that dies between sending and recording sends again, once the time of
//!   [`SEND_LEASE`] is over; such a try does not count.
//! - Only the current reservation records an answer. Its number grows with each try.

use gantry_model::Moment;

use crate::message::Reservation;
use crate::retry::{Jitter, backoff};

/// Time in which the answer to a request is recorded, in milliseconds. It is longer than the request's own deadline.
pub const SEND_LEASE: u64 = 30_000;

/// A delivery, as far as the rules know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// State.
    pub state: DeliveryState,
    /// The last reservation.
    pub reservation: Reservation,
    /// Answered tries.
    pub attempts: u32,
}

/// State of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// Waits for a moment.
    Waiting {
        /// The moment.
        due: Moment,
    },
    /// A request is under way.
    Sent {
        /// The moment from which the request counts as lost.
        until: Moment,
    },
    /// The receiver takes care of it.
    Accepted {
        /// The moment until which the receiver may acknowledge.
        until: Moment,
    },
    /// Acknowledged.
    Delivered,
    /// No try succeeded.
    Failed,
}

/// Answer of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverAnswer {
    /// The receiver has it.
    Acknowledged,
    /// The receiver acknowledges it later.
    Accepted,
    /// Another answer, or none.
    Failed,
}

/// Pauses between tries, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryPause {
    /// The same pause each time.
    Fixed(u64),
    /// A pause that doubles each time, with jitter.
    Doubling(u64),
}

/// Rules of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryRules {
    /// Receivers of which one is enough; they are tried in turn, without a pause between them.
    pub receivers: u32,
    /// Maximum number of retries, each with every receiver.
    pub retries: u32,
    /// Pause before a retry.
    pub pause: RetryPause,
    /// Time for a receiver that accepts, in milliseconds.
    pub accepted: u64,
}

/// Rules of the callback of a job: 13 tries within about two hours.
pub const CALLBACK_RULES: DeliveryRules =
    DeliveryRules { receivers: 1, retries: 12, pause: RetryPause::Doubling(2000), accepted: 0 };

/// Event in the life cycle of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryEvent {
    /// A sender takes the delivery.
    Send,
    /// The receiver answered a request, or did not.
    Answer(Reservation, ReceiverAnswer, Jitter),
    /// A receiver that accepted it acknowledges.
    Acknowledge(Reservation),
}

/// Reason why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryRefusal {
    /// The delivery is not due.
    #[error("the delivery is not due")]
    NotDue,
    /// The reservation has ended, or another one has taken its place.
    #[error("the reservation has ended, or is another one")]
    NotReserved,
}

impl Delivery {
    /// A delivery that begins at a moment.
    #[must_use]
    pub fn at(due: Moment) -> Self {
        Self { state: DeliveryState::Waiting { due }, reservation: Reservation::default(), attempts: 0 }
    }

    /// The moment at which the next try is due; none once the delivery is over.
    #[must_use]
    pub fn due(&self) -> Option<Moment> {
        match self.state {
            DeliveryState::Waiting { due } => Some(due),
            DeliveryState::Sent { until } | DeliveryState::Accepted { until } => Some(until),
            DeliveryState::Delivered | DeliveryState::Failed => None,
        }
    }

    /// The delivery after an event. `Send` of a delivery without tries left gives it up instead.
    ///
    /// # Errors
    /// [`DeliveryRefusal`]: the event changes nothing.
    pub fn after(&self, event: DeliveryEvent, rules: &DeliveryRules, now: Moment) -> Result<Self, DeliveryRefusal> {
        match event {
            DeliveryEvent::Send => self.sent(rules, now),
            DeliveryEvent::Answer(named, answer, jitter) => {
                if named != self.reservation || !matches!(self.state, DeliveryState::Sent { .. }) {
                    return Err(DeliveryRefusal::NotReserved);
                }
                Ok(self.answered(answer, jitter, rules, now))
            }
            DeliveryEvent::Acknowledge(named) => {
                let (DeliveryState::Sent { until } | DeliveryState::Accepted { until }) = self.state else {
                    return Err(DeliveryRefusal::NotReserved);
                };
                if named != self.reservation || until <= now {
                    return Err(DeliveryRefusal::NotReserved);
                }
                Ok(Self { state: DeliveryState::Delivered, ..*self })
            }
        }
    }

    fn sent(&self, rules: &DeliveryRules, now: Moment) -> Result<Self, DeliveryRefusal> {
        if self.due().is_none_or(|due| due > now) {
            return Err(DeliveryRefusal::NotDue);
        }
        if matches!(self.state, DeliveryState::Accepted { .. }) && self.is_exhausted(rules) {
            return Ok(Self { state: DeliveryState::Failed, ..*self });
        }
        let state = DeliveryState::Sent { until: later(now, SEND_LEASE) };
        Ok(Self { state, reservation: Reservation(self.reservation.0 + 1), ..*self })
    }

    fn answered(&self, answer: ReceiverAnswer, jitter: Jitter, rules: &DeliveryRules, now: Moment) -> Self {
        let mut next = Self { attempts: self.attempts.saturating_add(1), ..*self };
        next.state = match answer {
            ReceiverAnswer::Acknowledged => DeliveryState::Delivered,
            ReceiverAnswer::Accepted => DeliveryState::Accepted { until: later(now, rules.accepted) },
            ReceiverAnswer::Failed if next.is_exhausted(rules) => DeliveryState::Failed,
            // The next receiver of the round.
            ReceiverAnswer::Failed if !next.attempts.is_multiple_of(rules.receivers.max(1)) => {
                DeliveryState::Waiting { due: now }
            }
            ReceiverAnswer::Failed => {
                let pause = match rules.pause {
                    RetryPause::Fixed(pause) => pause,
                    RetryPause::Doubling(first) => backoff(first, next.attempts, jitter),
                };
                DeliveryState::Waiting { due: later(now, pause) }
            }
        };
        next
    }

    /// Reports whether every receiver was tried as often as the rules allow.
    fn is_exhausted(&self, rules: &DeliveryRules) -> bool {
        self.attempts >= rules.receivers.max(1).saturating_mul(rules.retries.saturating_add(1))
    }
}

fn later(moment: Moment, millis: u64) -> Moment {
    Moment(moment.0.saturating_add(millis))
}
