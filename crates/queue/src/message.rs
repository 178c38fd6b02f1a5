//! Messages of queues for applications, and their reservations by consumers of pull queues. The messages of push queues
//! are never reserved: see the module `delivery`.
//!
//! ```text
//!   posted ─► waiting ─► reserved ─► deleted
//!                ▲          │ │
//!                └ released ┘ └─ reserved too often ─► the queue of dead letters
//! ```
//! - A message is available once its `due` moment is over: the end of its delay, or of its reservation.
//! - Messages go in the order in which they were posted. A message that comes back keeps its place, which is the front.
//! - Only the current reservation touches, releases or deletes a reserved message. Its number grows with each change.

use gantry_model::Moment;
use serde::{Deserialize, Serialize};

use crate::push::{MessageQueueKind, PushSettings};
use crate::settings::{InvalidSettings, in_range};

/// Largest body of a message, in bytes.
pub const MESSAGE_MAX: usize = 256 << 10;

/// Longest delay of a message in seconds.
const DELAY_MAX: u64 = 604_800;

/// Time of a reservation in seconds: least and most.
const RESERVATION: (u64, u64) = (30, 86_400);

/// Settings of a queue of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageQueueSettings {
    /// Kind of the queue.
    pub kind: MessageQueueKind,
    /// Subscribers and retries of a push queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<PushSettings>,
    /// Time of a reservation that names none, in seconds.
    pub timeout: u64,
    /// Time after which a message is removed, in seconds.
    pub expiration: u64,
    /// Queue for messages that were reserved too often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetterPolicy>,
}

/// Dead-letter policy: the destination of messages that were reserved too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterPolicy {
    /// The queue, of the same project.
    pub queue: String,
    /// Maximum number of reservations of a message.
    pub most: u32,
}

impl Default for MessageQueueSettings {
    fn default() -> Self {
        Self { kind: MessageQueueKind::Pull, push: None, timeout: 60, expiration: 604_800, dead_letter: None }
    }
}

impl MessageQueueSettings {
    /// Checks every number against its limits.
    ///
    /// # Errors
    /// [`InvalidSettings`] names the first number that is out of its limits.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        check_reservation(self.timeout)?;
        in_range("message_expiration", self.expiration, 30, 2_592_000)?;
        match (&self.push, self.kind.is_push()) {
            (Some(push), true) => push.check()?,
            (None, false) => {}
            (None, true) => return Err(InvalidSettings::PushMissing),
            (Some(_), false) => return Err(InvalidSettings::PushOfPullQueue),
        }
        if self.kind.is_push() && self.dead_letter.is_some() {
            return Err(InvalidSettings::DeadLettersOfPushQueue);
        }
        self.dead_letter.as_ref().map_or(Ok(()), |policy| in_range("max_reservations", policy.most.into(), 1, 1000))
    }
}

/// Checks the time of a reservation, in seconds.
///
/// # Errors
/// [`InvalidSettings`].
pub fn check_reservation(seconds: u64) -> Result<(), InvalidSettings> {
    in_range("timeout", seconds, RESERVATION.0, RESERVATION.1)
}

/// Checks the delay of a message, in seconds.
///
/// # Errors
/// [`InvalidSettings`].
pub fn check_delay(seconds: u64) -> Result<(), InvalidSettings> {
    in_range("delay", seconds, 0, DELAY_MAX)
}

/// Number of a reservation. Each change of a message makes the numbers before it invalid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reservation(pub u64);

/// A message, as far as the rules know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The moment from which the message is available: the end of its delay or of its reservation.
    pub due: Moment,
    /// True from a reservation until its release.
    pub reserved: bool,
    /// The current reservation, or the last one.
    pub reservation: Reservation,
    /// Number of reservations.
    pub count: u32,
    /// The moment at which the message is removed.
    pub expires: Moment,
}

/// Event in the life cycle of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageEvent {
    /// A consumer takes the message, for a time in seconds.
    Reserve(u64),
    /// The consumer needs more time, in seconds.
    Touch(Reservation, u64),
    /// The consumer gives the message back, to be available after a delay in seconds.
    Release(Reservation, u64),
}

/// Reason why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageRefusal {
    /// The reservation has ended, or another one has taken its place.
    #[error("the reservation has ended, or is not the current reservation of the message")]
    NotReserved,
    /// The message is reserved, and no reservation was named.
    #[error("the message is reserved; name the reservation")]
    Reserved,
    /// The message is not available.
    #[error("the message is not available now")]
    Unavailable,
}

impl Message {
    /// A message that is posted now.
    #[must_use]
    pub fn posted(settings: &MessageQueueSettings, delay: u64, now: Moment) -> Self {
        let due = later(now, delay);
        let expires = later(due, settings.expiration);
        Self { due, reserved: false, reservation: Reservation::default(), count: 0, expires }
    }

    /// The message after an event.
    ///
    /// # Errors
    /// [`MessageRefusal`]: the event changes nothing.
    pub fn after(&self, event: MessageEvent, now: Moment) -> Result<Self, MessageRefusal> {
        let reservation = Reservation(self.reservation.0 + 1);
        match event {
            MessageEvent::Reserve(_) if self.due > now || self.expires <= now => Err(MessageRefusal::Unavailable),
            MessageEvent::Reserve(seconds) => {
                Ok(Self { due: later(now, seconds), reserved: true, reservation, count: self.count + 1, ..*self })
            }
            MessageEvent::Touch(named, seconds) => {
                self.check_reserved(named, now)?;
                Ok(Self { due: later(now, seconds), reservation, ..*self })
            }
            MessageEvent::Release(named, delay) => {
                self.check_reserved(named, now)?;
                Ok(Self { due: later(now, delay), reserved: false, reservation, ..*self })
            }
        }
    }

    /// Checks whether a caller may delete the message. A reserved message needs its reservation.
    ///
    /// # Errors
    /// [`MessageRefusal`].
    pub fn check_delete(&self, named: Option<Reservation>, now: Moment) -> Result<(), MessageRefusal> {
        match named {
            Some(named) => self.check_reserved(named, now),
            None if self.is_reserved(now) => Err(MessageRefusal::Reserved),
            None => Ok(()),
        }
    }

    /// Reports whether the message was reserved as often as the policy allows.
    #[must_use]
    pub fn is_dead(&self, settings: &MessageQueueSettings) -> bool {
        settings.dead_letter.as_ref().is_some_and(|policy| self.count >= policy.most)
    }

    fn is_reserved(&self, now: Moment) -> bool {
        self.reserved && self.due > now
    }

    fn check_reserved(&self, named: Reservation, now: Moment) -> Result<(), MessageRefusal> {
        let current = self.is_reserved(now) && named == self.reservation;
        if current { Ok(()) } else { Err(MessageRefusal::NotReserved) }
    }
}

fn later(moment: Moment, seconds: u64) -> Moment {
    Moment(moment.0.saturating_add(seconds.saturating_mul(1000)))
}
