//! Commands on deliveries: messages of push queues, and callbacks of jobs.

use std::collections::BTreeMap;

use gantry_model::{AppName, Moment};
use gantry_queue::{Delivery, Jitter, JobId, PushHeaders, ReceiverAnswer, Reservation, SubscriberUrl};

use crate::{MessageId, MessageQueueName, NewJob, NewMessage};

/// Maximum number of deliveries of push queues that wait.
pub const DELIVERIES_MAX: u64 = 1_000_000;

/// Maximum number of projects with a signing key.
pub const SIGNING_KEYS_MAX: u64 = 10_000;

/// Number of a delivery. A number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

impl std::fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A command on deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryCommand {
    /// Takes deliveries that are due, host by host.
    Take {
        /// Maximum number of deliveries.
        most: u32,
        /// Maximum number of deliveries of a host that `rooms` does not name.
        most_per_host: u32,
        /// Maximum number of deliveries of some hosts: those with requests under way.
        rooms: BTreeMap<String, u32>,
        /// The host after which to begin; the next take goes on after the last one.
        after: String,
    },
    /// Records the answer to a request.
    Answer {
        /// The delivery.
        id: DeliveryId,
        /// The reservation of the try.
        reservation: Reservation,
        /// The answer.
        answer: ReceiverAnswer,
        /// Status of the response; none without a response.
        status: Option<u16>,
        /// The error, for people.
        note: Option<String>,
        /// For the pause before a retry.
        jitter: Jitter,
    },
    /// Puts a message of a push queue into another queue, or queues its job. The same transaction records the answer: a
    /// repeated command changes nothing.
    Forward {
        /// The delivery.
        id: DeliveryId,
        /// The reservation of the try.
        reservation: Reservation,
        /// The message or job that the delivery queues.
        forwarded: Forwarded,
        /// For the pause before a retry.
        jitter: Jitter,
    },
    /// Reads the key that signs the callbacks of a project, and makes it at first need.
    SigningKey {
        /// The project.
        project: AppName,
        /// A random key without a previous one, in case that a new key is needed.
        fresh: SigningKey,
        /// True to replace the key. The previous key stays valid for a while.
        rotate: bool,
    },
    /// Removes the key of a project that was destroyed: another one of the same name does not inherit it.
    ForgetKey(AppName),
}

/// A message of a push queue, as its subscriber gets the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarded {
    /// For another queue of messages.
    Message(MessageQueueName, NewMessage),
    /// As the payload of a job.
    Job(Box<NewJob>),
}

/// Reply to a command on deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryReply {
    /// To `Take`.
    Taken(TakenDeliveries),
    /// To `Answer` and `Forward`: false if the reservation is over.
    Answered(bool),
    /// To `SigningKey`; none if there are too many. To `ForgetKey`: none.
    Key(Option<SigningKey>),
}

/// Deliveries for a sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenDeliveries {
    /// The deliveries.
    pub deliveries: Vec<TakenDelivery>,
    /// The last host that was looked at; empty after the last host of all.
    pub last: String,
}

/// A delivery that a sender has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenDelivery {
    /// Number of the delivery.
    pub id: DeliveryId,
    /// The reservation of this try.
    pub reservation: Reservation,
    /// The host to whose limit the delivery counts.
    pub host: String,
    /// The request.
    pub work: DeliveryWork,
}

/// Content of a delivery.
#[derive(Clone, PartialEq, Eq)]
pub enum DeliveryWork {
    /// A message of a push queue.
    Push {
        /// Name of the queue.
        queue: MessageQueueName,
        /// The message.
        message: MessageId,
        /// Name of the subscriber.
        subscriber: String,
        /// URL of the subscriber.
        url: SubscriberUrl,
        /// Headers of the subscriber, and over them those of the message.
        headers: PushHeaders,
        /// The body.
        body: String,
    },
    /// The result of a job.
    Callback(JobId),
}

/// Names the headers of a request without their values, which may be secret.
impl std::fmt::Debug for DeliveryWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Push { queue, message, subscriber, url, headers, body } => f
                .debug_struct("Push")
                .field("queue", queue)
                .field("message", message)
                .field("subscriber", subscriber)
                .field("url", url)
                .field("headers", &headers.keys())
                .field("body", body)
                .finish(),
            Self::Callback(job) => f.debug_tuple("Callback").field(job).finish(),
        }
    }
}

/// A delivery with all its recorded fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDelivery {
    /// Number of the delivery.
    pub id: DeliveryId,
    /// Name of the subscriber of the last or next request; none for a callback.
    pub subscriber: Option<String>,
    /// URL of that subscriber, if there still is one.
    pub url: Option<SubscriberUrl>,
    /// State and tries.
    pub delivery: Delivery,
    /// Status of the last response.
    pub status: Option<u16>,
    /// The last error.
    pub note: Option<String>,
    /// Time of the last answer.
    pub tried: Option<Moment>,
}

/// The key that signs the callbacks of a project.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The key.
    pub current: String,
    /// The previous key, and the time at which it was replaced.
    pub previous: Option<(String, Moment)>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_leaves_out_the_signing_key() {
        let fresh = SigningKey { current: "new-key".to_owned(), previous: Some(("old-key".to_owned(), Moment(0))) };
        let project = AppName::parse("shop").expect("a name");
        let reply = format!("{:?}", DeliveryReply::Key(Some(fresh.clone())));
        let command = format!("{:?}", DeliveryCommand::SigningKey { project, fresh, rotate: true });
        assert!(command.contains("shop"), "{command}");
        for text in [command, reply] {
            assert!(!text.contains("new-key") && !text.contains("old-key"), "{text}");
        }
    }
    #[test]
    fn debug_leaves_out_the_secrets_of_a_push() {
        let headers = PushHeaders::from([("authorization".to_owned(), "header-secret".to_owned())]);
        let message = NewMessage { headers: headers.clone(), ..NewMessage::default() };
        let work = DeliveryWork::Push {
            queue: MessageQueueName { project: AppName::parse("shop").expect("a name"), name: "orders".to_owned() },
            message: MessageId(1),
            subscriber: "mail".to_owned(),
            url: "https://receiver.example/hook?token=url-secret".parse().expect("a URL"),
            headers,
            body: String::new(),
        };
        for text in [format!("{message:?}"), format!("{work:?}")] {
            assert!(text.contains("authorization"), "{text}");
            assert!(!text.contains("header-secret") && !text.contains("url-secret"), "{text}");
        }
    }
}
