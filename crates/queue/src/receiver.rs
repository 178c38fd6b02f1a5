//! The URL of a receiver: where a push queue or a job's callback posts to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest URL, in bytes.
const URL_MAX: usize = 2000;

/// An `http` or `https` URL with a host, and without a user name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReceiverUrl(String);

/// Leaves out the query, which may contain a secret.
impl fmt::Debug for ReceiverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReceiverUrl").field(&self.masked().0).finish()
    }
}

/// Reason why a text is no URL of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReceiver {
    /// Another scheme, or none.
    #[error("the URL must begin with http:// or https://")]
    Scheme,
    /// The URL is too long.
    #[error("the URL has {0} bytes; the limit is {URL_MAX}")]
    Length(usize),
    /// A space, a control character, or a letter that must be escaped.
    #[error("the URL contains a space, or a character that must be written with %")]
    Character,
    /// There is no host.
    #[error("the URL names no host")]
    Host,
    /// The port is no number.
    #[error("the port of the URL is not a number from 1 to 65535")]
    Port,
    /// The URL has a user name or password, which would be shown and logged.
    #[error("the URL contains a user name; send a secret as a header or in the query")]
    User,
}

impl ReceiverUrl {
    /// Returns the URL as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host with its port: receivers of one host share its limits.
    #[must_use]
    pub fn host(&self) -> String {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("http", &self.0));
        let authority = authority(rest).to_ascii_lowercase();
        let port = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        if port_of(&authority).is_some() { authority } else { format!("{authority}:{port}") }
    }

    /// The URL for people: without its query, which may contain a secret.
    #[must_use]
    pub fn masked(&self) -> Self {
        match self.0.find(['?', '#']) {
            Some(end) => Self(format!("{}?***", &self.0[..end])),
            None => self.clone(),
        }
    }
}

/// The part of a URL after the scheme that names host and port.
fn authority(rest: &str) -> &str {
    rest.split(['/', '?', '#', '\\']).next().unwrap_or_default()
}

/// The text after the colon of an authority. The colons of an IPv6 address are in brackets.
fn port_of(authority: &str) -> Option<&str> {
    let after = authority.rfind(']').map_or(0, |end| end + 1);
    authority[after..].split_once(':').map(|(_, port)| port)
}

impl TryFrom<String> for ReceiverUrl {
    type Error = InvalidReceiver;

    fn try_from(text: String) -> Result<Self, InvalidReceiver> {
        if text.len() > URL_MAX {
            return Err(InvalidReceiver::Length(text.len()));
        }
        let (scheme, rest) = text.split_once("://").ok_or(InvalidReceiver::Scheme)?;
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(InvalidReceiver::Scheme);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidReceiver::Character);
        }
        let authority = authority(rest);
        if authority.contains('@') {
            return Err(InvalidReceiver::User);
        }
        let port = port_of(authority);
        if authority.len() == port.map_or(0, |port| port.len() + 1) {
            return Err(InvalidReceiver::Host);
        }
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err(InvalidReceiver::Port);
        }
        Ok(Self(text))
    }
}

impl std::str::FromStr for ReceiverUrl {
    type Err = InvalidReceiver;

    fn from_str(text: &str) -> Result<Self, InvalidReceiver> {
        text.to_owned().try_into()
    }
}

impl From<ReceiverUrl> for String {
    fn from(url: ReceiverUrl) -> Self {
        url.0
    }
}

impl fmt::Display for ReceiverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked().0)
    }
}
