//! Commands on messages, and their replies.

use gantry_model::AppName;
use gantry_queue::{
    COPIES_MAX, DeliveryRefusal, InvalidSettings, MessageQueueSettings, MessageRefusal, PAYLOAD_MAX, PushHeaders,
    Reservation, SubscriberChange,
};

use crate::{DELIVERIES_MAX, DeliveryId};

/// Maximum number of messages of all queues together.
pub const MESSAGES_MAX: u64 = 1_000_000;

/// Maximum number of queues of messages.
pub const MESSAGE_QUEUES_MAX: u64 = 10_000;

/// Number of a message. A number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A queue of messages: its project, and any name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageQueueName {
    /// The project.
    pub project: AppName,
    /// The name.
    pub name: String,
}

/// A message of a consumer or a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Number of the message.
    pub id: MessageId,
    /// Body of the message.
    pub body: String,
    /// Number of reservations.
    pub count: u32,
    /// The current reservation, if it is reserved.
    pub reservation: Option<Reservation>,
}

/// A queue of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageQueueInfo {
    /// Name of the queue.
    pub name: String,
    /// Settings of the queue.
    pub settings: MessageQueueSettings,
    /// Number of its messages.
    pub size: u64,
    /// Number of messages that were ever posted.
    pub total: u64,
}

/// A message to post.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// The body.
    pub body: String,
    /// Delay in seconds.
    pub delay: u64,
    /// Headers of the requests that push it.
    pub headers: PushHeaders,
}

/// Names the headers without their values, which may be secret.
impl std::fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMessage")
            .field("body", &self.body)
            .field("delay", &self.delay)
            .field("headers", &self.headers.keys())
            .finish()
    }
}

/// Proof that a consumer has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerToken {
    /// A reservation of a message of a pull queue.
    Reservation(Reservation),
    /// A delivery to a subscriber of a push queue, and its reservation.
    Delivery(DeliveryId, Reservation),
}

/// A command on messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageCommand {
    /// Creates a queue, or changes its settings.
    SetQueue(MessageQueueSettings),
    /// Creates a queue, or changes its settings; the subscribers of a known queue stay.
    Reconfigure(MessageQueueSettings),
    /// Changes the subscribers of a push queue.
    Subscribe(SubscriberChange),
    /// Removes a queue with its messages.
    RemoveQueue,
    /// Posts messages. The first message creates the queue.
    Post(Vec<NewMessage>),
    /// Reserves messages.
    Reserve {
        /// Maximum number of messages.
        most: u32,
        /// Time of the reservation in seconds; by default that of the queue.
        timeout: Option<u64>,
        /// True to delete the messages at once.
        delete: bool,
    },
    /// Deletes messages; all that may be deleted.
    Delete(Vec<(MessageId, Option<ConsumerToken>)>),
    /// Deletes all messages.
    Clear,
    /// Extends a reservation by a time in seconds.
    Touch(MessageId, Reservation, Option<u64>),
    /// Gives a message back.
    Release(MessageId, Reservation, u64),
}

/// Reply to a command on messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageReply {
    /// To `SetQueue`, `Reconfigure`, `Subscribe`, `RemoveQueue`, `Clear` and `Delete`.
    Done,
    /// To `Post`: the numbers, in order.
    Posted(Vec<MessageId>),
    /// To `Reserve`.
    Reserved(Vec<StoredMessage>),
    /// To `Touch`: the new reservation. To `Release`: the last one.
    Changed(Reservation),
    /// The command changed nothing, or not everything.
    Refused(MessageFault),
}

/// Reason why a command on messages is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageFault {
    /// There is no such queue.
    #[error("there is no such queue of messages")]
    UnknownQueue,
    /// There is no such message.
    #[error("there is no message {0}")]
    UnknownMessage(MessageId),
    /// The rules refuse it.
    #[error("message {0}: {1}")]
    Refused(MessageId, MessageRefusal),
    /// The subscriber does not have the message any more.
    #[error("message {0}: {1}")]
    NotDelivered(MessageId, DeliveryRefusal),
    /// Too many messages, queues or deliveries.
    #[error(
        "there are {MESSAGES_MAX} messages, {MESSAGE_QUEUES_MAX} queues of messages, or {DELIVERIES_MAX} messages for \
         subscribers, already"
    )]
    Full,
    /// The message is too large for the payload of a job.
    #[error(
        "the message has {size} bytes, and the subscriber {subscriber:?} is a code, whose payload has at most \
         {PAYLOAD_MAX} bytes; post a smaller message, such as the address of its content"
    )]
    PayloadTooLarge {
        /// Size of the message in bytes.
        size: usize,
        /// Name of the subscriber.
        subscriber: String,
    },
    /// Too many copies of a message.
    #[error(
        "a posted message has at most {COPIES_MAX} copies in queues behind its own; let fewer subscribers be queues, or \
         mend a loop of queues"
    )]
    TooManyCopies,
    /// The kind of a queue never changes.
    #[error("the queue is of the type {0}, and the type of a queue never changes; remove the queue first")]
    OtherKind(&'static str),
    /// The settings of the queue would be invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidSettings),
    /// Messages of a push queue are not reserved.
    #[error("the messages of a push queue go to its subscribers and cannot be reserved; use a queue of the type pull")]
    PushQueue,
}
