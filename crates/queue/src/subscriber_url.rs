//! The URL of a subscriber: a receiver of requests, or one of the forms of IronMQ for a queue or a code of the same project.

use std::fmt;

use gantry_model::{AppName, NameError, RoleName};
use serde::{Deserialize, Serialize};

use crate::receiver::{InvalidReceiver, ReceiverUrl};

/// Schemes of the two forms without a host.
const QUEUE: &str = "ironmq";
const CODE: &str = "ironworker";

/// Longest name of a queue of messages, in bytes.
pub const MESSAGE_QUEUE_NAME_MAX: usize = 256;

/// The URL of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SubscriberUrl {
    /// `http://…` or `https://…`: each message is a request.
    Http(ReceiverUrl),
    /// `ironmq:///NAME`: each message goes into another queue of the project.
    Queue(String),
    /// `ironworker:///CODE`: each message is the payload of a job of a code of the project.
    Code(RoleName),
}

/// Reason why a text is no URL of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubscriberUrl {
    /// Another scheme, or none.
    #[error("the URL must begin with http://, https://, ironmq:/// or ironworker:///")]
    Scheme,
    /// The URL of a receiver of requests is invalid.
    #[error(transparent)]
    Receiver(#[from] InvalidReceiver),
    /// The URL names a project, a token or a host.
    #[error(
        "the URL must name a queue or a code of the same project, as {0}:///NAME, and no project, token or host; for another \
         project, write the https URL of its webhook"
    )]
    OtherProject(&'static str),
    /// The name cannot be that of a queue.
    #[error(
        "{QUEUE}:///NAME needs the name of a queue: 1 to {MESSAGE_QUEUE_NAME_MAX} bytes without ?, #, %, spaces and a last slash"
    )]
    QueueName,
    /// The name cannot be that of a code.
    #[error(transparent)]
    CodeName(#[from] NameError),
}

impl SubscriberUrl {
    /// The key of the receiver of a project: deliveries to receivers with one key share its limits.
    #[must_use]
    pub fn host(&self, project: &AppName) -> String {
        match self {
            Self::Http(url) => url.host(),
            Self::Queue(name) => format!("{QUEUE}://{project}/{name}"),
            Self::Code(name) => format!("{CODE}://{project}/{name}"),
        }
    }

    /// The URL for people: without its query, which may contain a secret.
    #[must_use]
    pub fn masked(&self) -> Self {
        match self {
            Self::Http(url) => Self::Http(url.masked()),
            Self::Queue(_) | Self::Code(_) => self.clone(),
        }
    }
}

impl TryFrom<String> for SubscriberUrl {
    type Error = InvalidSubscriberUrl;

    fn try_from(text: String) -> Result<Self, InvalidSubscriberUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidSubscriberUrl::Scheme)?;
        let name = |scheme: &'static str| rest.strip_prefix('/').ok_or(InvalidSubscriberUrl::OtherProject(scheme));
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Ok(Self::Http(text.try_into()?)),
            QUEUE => queue_name(name(QUEUE)?).map(Self::Queue),
            CODE => Ok(Self::Code(RoleName::parse(name(CODE)?)?)),
            _ => Err(InvalidSubscriberUrl::Scheme),
        }
    }
}

fn queue_name(text: &str) -> Result<String, InvalidSubscriberUrl> {
    let is_refused = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '%');
    match text.len() {
        1..=MESSAGE_QUEUE_NAME_MAX if !text.contains(is_refused) && !text.ends_with('/') => Ok(text.to_owned()),
        _ => Err(InvalidSubscriberUrl::QueueName),
    }
}

impl std::str::FromStr for SubscriberUrl {
    type Err = InvalidSubscriberUrl;

    fn from_str(text: &str) -> Result<Self, InvalidSubscriberUrl> {
        text.to_owned().try_into()
    }
}

impl From<SubscriberUrl> for String {
    fn from(url: SubscriberUrl) -> Self {
        match url {
            SubscriberUrl::Http(url) => url.into(),
            SubscriberUrl::Queue(name) => format!("{QUEUE}:///{name}"),
            SubscriberUrl::Code(name) => format!("{CODE}:///{name}"),
        }
    }
}

impl fmt::Display for SubscriberUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(self.masked()))
    }
}
