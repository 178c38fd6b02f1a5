//! Commands on messages, and their replies.

use gantry_model::AppName;
use gantry_queue::{MessageQueueSettings, MessageRefusal, Reservation};

/// Most messages of all queues together.
pub const MESSAGES_MAX: u64 = 1_000_000;

/// Most queues of messages.
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
    /// Its number.
    pub id: MessageId,
    /// Its body.
    pub body: String,
    /// Number of reservations.
    pub count: u32,
    /// The current reservation, if it is reserved.
    pub reservation: Option<Reservation>,
}

/// A queue of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageQueueInfo {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: MessageQueueSettings,
    /// Number of its messages.
    pub size: u64,
    /// Number of messages that were ever posted.
    pub total: u64,
}

/// A command on messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageCommand {
    /// Creates a queue, or changes its settings.
    SetQueue(MessageQueueSettings),
    /// Removes a queue with its messages.
    RemoveQueue,
    /// Posts messages, each with its delay in seconds. The first message creates the queue.
    Post(Vec<(String, u64)>),
    /// Reserves messages.
    Reserve {
        /// Most messages.
        most: u32,
        /// Time of the reservation in seconds; by default that of the queue.
        timeout: Option<u64>,
        /// True to delete the messages at once.
        delete: bool,
    },
    /// Deletes messages; all that may be deleted.
    Delete(Vec<(MessageId, Option<Reservation>)>),
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
    /// To `SetQueue`, `RemoveQueue`, `Clear` and `Delete`.
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
    /// Too many messages or queues.
    #[error("there are {MESSAGES_MAX} messages, or {MESSAGE_QUEUES_MAX} queues of messages, already")]
    Full,
}
