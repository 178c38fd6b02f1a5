//! Push queues: the receivers of their messages, and the report about a message that no receiver takes.
//!
//! - `multicast`: every subscriber gets each message.
//! - `unicast`: one subscriber gets each message. After a failure the next one is tried at once; a round of all of them
//!   counts as one try.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::delivery::{Delivery, DeliveryRules, RetryPause};
use crate::settings::{InvalidSettings, in_range};
use crate::subscriber_url::SubscriberUrl;

/// Maximum number of subscribers of a queue.
pub const SUBSCRIBERS_MAX: usize = 100;

/// Longest name of a subscriber, in bytes.
const NAME_MAX: usize = 200;

/// Maximum number of headers of a subscriber or of a message, and their size in bytes.
const HEADERS_MAX: usize = 30;
const HEADERS_SIZE_MAX: usize = 4 << 10;

/// Largest size of all names, URLs and headers of a queue's subscribers, in bytes.
const SIZE_MAX: usize = 128 << 10;

/// Headers of the connection and of the body, which are Gantry's.
const RESERVED: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "accept-encoding",
];

/// Kind of a queue of messages. The kind of a queue never changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageQueueKind {
    /// Consumers reserve messages.
    #[default]
    Pull,
    /// Each message is pushed to one subscriber.
    Unicast,
    /// Each message is pushed to every subscriber.
    Multicast,
}

impl MessageQueueKind {
    /// The kind's word in the API.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Unicast => "unicast",
            Self::Multicast => "multicast",
        }
    }

    /// Reports whether messages are pushed.
    #[must_use]
    pub fn is_push(self) -> bool {
        self != Self::Pull
    }
}

/// Headers of a request, by their names.
pub type PushHeaders = BTreeMap<String, String>;

/// A receiver of messages.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    /// Name of the subscriber, unique in the queue.
    pub name: String,
    /// Destination of the messages.
    pub url: SubscriberUrl,
    /// Headers of the requests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: PushHeaders,
}

/// Names the headers without their values, which may be secret.
impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("headers", &self.headers.keys())
            .finish()
    }
}

impl Subscriber {
    fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.name.len() + String::from(self.url.clone()).len() + headers
    }
}

/// A change to the subscribers of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriberChange {
    /// Adds subscribers. A subscriber with a known name replaces the known subscriber.
    Add(Vec<Subscriber>),
    /// Replaces all subscribers.
    Replace(Vec<Subscriber>),
    /// Removes the subscribers with these names.
    Remove(Vec<String>),
}

/// Settings of a push queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PushSettings {
    /// The subscribers, in the order of their creation.
    pub subscribers: Vec<Subscriber>,
    /// Maximum number of retries of a message.
    pub retries: u32,
    /// Pause between two tries, in seconds. A receiver that answered 202 has this time to delete the message.
    pub retries_delay: u64,
    /// Queue for reports about messages that no try delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_queue: Option<String>,
}

impl Default for PushSettings {
    fn default() -> Self {
        Self { subscribers: Vec::new(), retries: 3, retries_delay: 60, error_queue: None }
    }
}

/// Reason why subscribers or headers are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPush {
    /// Too few or too many subscribers.
    #[error("a push queue has 1 to {SUBSCRIBERS_MAX} subscribers, this one {0}")]
    Subscribers(usize),
    /// The subscribers are too large.
    #[error("the names, URLs and headers of all subscribers have {0} bytes; the limit is {SIZE_MAX}")]
    Size(usize),
    /// The name cannot be a header's value.
    #[error("{0:?} is not a name of a subscriber; use 1 to {NAME_MAX} visible characters of ASCII, without spaces")]
    Name(String),
    /// Two subscribers have one name.
    #[error("two subscribers have the name {0:?}; names are unique")]
    Twice(String),
    /// Two subscribers are one queue.
    #[error("the subscriber {0:?} is a queue that another subscriber already names; name each queue once")]
    SameQueue(String),
    /// The name or the value of a header is invalid.
    #[error("the header {0:?} has an invalid name or value")]
    Header(String),
    /// The messages would come back.
    #[error(
        "the messages of this queue would come back to it through its subscribers' queues, without an end; leave out the \
         subscriber {0:?}"
    )]
    Loop(String),
    /// Gantry sets this header itself.
    #[error("the header {0:?} is set by Gantry; leave it out")]
    Reserved(String),
    /// Too many or too large headers.
    #[error("{count} headers of {size} bytes; at most {HEADERS_MAX} of together {HEADERS_SIZE_MAX} bytes")]
    Headers {
        /// Number of headers.
        count: usize,
        /// Their size in bytes.
        size: usize,
    },
}

/// Checks the headers of a subscriber or of a message.
///
/// # Errors
/// [`InvalidPush`] names the first header that is refused.
pub fn check_headers(headers: &PushHeaders) -> Result<(), InvalidPush> {
    let size = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > HEADERS_MAX || size > HEADERS_SIZE_MAX {
        return Err(InvalidPush::Headers { count: headers.len(), size });
    }
    for (name, value) in headers {
        let shown = || name.chars().take(100).collect::<String>();
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) || !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(InvalidPush::Header(shown()));
        }
        let lower = name.to_ascii_lowercase();
        if RESERVED.contains(&lower.as_str()) || lower.starts_with("iron-") {
            return Err(InvalidPush::Reserved(shown()));
        }
    }
    Ok(())
}

impl PushSettings {
    /// Checks the subscribers and every number.
    ///
    /// # Errors
    /// [`InvalidSettings`] names the first fault.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        in_range("retries", self.retries.into(), 0, 100)?;
        in_range("retries_delay", self.retries_delay, 3, 86_400)?;
        if !(1..=SUBSCRIBERS_MAX).contains(&self.subscribers.len()) {
            return Err(InvalidPush::Subscribers(self.subscribers.len()).into());
        }
        let mut names = BTreeSet::new();
        for Subscriber { name, headers, .. } in &self.subscribers {
            let shown = || name.chars().take(100).collect::<String>();
            if !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(InvalidPush::Name(shown()).into());
            }
            if !names.insert(name) {
                return Err(InvalidPush::Twice(shown()).into());
            }
            check_headers(headers)?;
        }
        let mut targets = BTreeSet::new();
        if let Some((name, _)) = self.queues().find(|(_, queue)| !targets.insert(*queue)) {
            return Err(InvalidPush::SameQueue(name.to_owned()).into());
        }
        match self.subscribers.iter().map(Subscriber::size).sum() {
            size if size > SIZE_MAX => Err(InvalidPush::Size(size).into()),
            _ => Ok(()),
        }
    }

    /// Applies a change to the subscribers.
    pub fn change(&mut self, change: SubscriberChange) {
        match change {
            SubscriberChange::Add(added) => {
                for subscriber in added {
                    match self.subscribers.iter_mut().find(|known| known.name == subscriber.name) {
                        Some(known) => *known = subscriber,
                        None => self.subscribers.push(subscriber),
                    }
                }
            }
            SubscriberChange::Replace(subscribers) => self.subscribers = subscribers,
            SubscriberChange::Remove(names) => self.subscribers.retain(|known| !names.contains(&known.name)),
        }
    }

    /// The queues of the project that get the messages: of each, the subscriber and the name of the queue.
    pub fn queues(&self) -> impl Iterator<Item = (&str, &str)> {
        self.subscribers.iter().filter_map(|subscriber| match &subscriber.url {
            SubscriberUrl::Queue(queue) => Some((subscriber.name.as_str(), queue.as_str())),
            SubscriberUrl::Http(_) | SubscriberUrl::Code(_) => None,
        })
    }

    /// The first subscriber that is a code.
    #[must_use]
    pub fn code(&self) -> Option<&Subscriber> {
        self.subscribers.iter().find(|subscriber| matches!(subscriber.url, SubscriberUrl::Code(_)))
    }

    /// The rules of the deliveries of a queue of this kind.
    #[must_use]
    pub fn rules(&self, kind: MessageQueueKind) -> DeliveryRules {
        let receivers = match kind {
            MessageQueueKind::Unicast => u32::try_from(self.subscribers.len()).unwrap_or(u32::MAX).max(1),
            _ => 1,
        };
        let pause = self.retries_delay.saturating_mul(1000);
        DeliveryRules { receivers, retries: self.retries, pause: RetryPause::Fixed(pause), accepted: pause }
    }

    /// The subscriber of a unicast message for the next try. `start` spreads messages over the subscribers.
    #[must_use]
    pub fn next_receiver(&self, start: u64, delivery: &Delivery) -> Option<&Subscriber> {
        self.receiver(start, delivery.attempts)
    }

    /// The subscriber of a unicast message whose try was the last; before the first try, the one of that try.
    #[must_use]
    pub fn last_receiver(&self, start: u64, delivery: &Delivery) -> Option<&Subscriber> {
        self.receiver(start, delivery.attempts.saturating_sub(1))
    }

    fn receiver(&self, start: u64, attempt: u32) -> Option<&Subscriber> {
        let count = self.subscribers.len() as u64;
        let place = start.wrapping_add(attempt.into()).checked_rem(count)?;
        self.subscribers.get(usize::try_from(place).ok()?)
    }
}

/// A subscriber that did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PushFailure {
    /// Name of the subscriber.
    pub name: String,
    /// URL of the subscriber.
    pub url: String,
    /// Status of the last response; 0 without one.
    pub code: u16,
    /// The last error.
    pub msg: String,
}

/// The message for the queue of errors, about a message that was not delivered.
#[must_use]
pub fn error_report(id: u64, body: &str, headers: &PushHeaders, failures: &[PushFailure]) -> String {
    serde_json::json!({
        "source_msg_id": id.to_string(),
        "body": body,
        "headers": headers,
        "subscribers": failures,
    })
    .to_string()
}
