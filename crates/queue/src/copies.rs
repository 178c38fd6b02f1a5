//! Copies of a message in queues behind its own. Each copy carries the number of further copies that it may make. A
//! multicast divides the number among its copies. So all copies of a posted message have one limit, even if the queues
//! form a loop.
//!
//! The number is kept among the headers of a stored message, under a name that users cannot set and subscribers never see.

use crate::message::MessageQueueSettings;
use crate::push::{MessageQueueKind, PushHeaders};

/// Maximum number of copies of a posted message in queues behind its own.
pub const COPIES_MAX: u64 = 1000;

/// Name of the number among the headers of a stored message.
const HEADER: &str = "Iron-Copies-Left";

/// Takes the number of further copies out of the headers of a stored message.
pub fn take_copies_left(headers: &mut PushHeaders) -> u64 {
    let left = headers.remove(HEADER).and_then(|left| left.parse().ok());
    left.unwrap_or(COPIES_MAX)
}

/// Notes the number of further copies among the headers of a message.
pub fn set_copies_left(headers: &mut PushHeaders, left: u64) {
    headers.insert(HEADER.to_owned(), left.to_string());
}

/// Returns the number of further copies that each copy of a message may make; none if the message may not be copied to
/// its subscribers' queues. `left` is the number of the message.
#[must_use]
pub fn copies_of_each(settings: &MessageQueueSettings, left: u64) -> Option<u64> {
    let targets = match (settings.kind, &settings.push) {
        (MessageQueueKind::Multicast, Some(push)) => push.queues().count() as u64,
        _ => 1,
    };
    (left / targets.max(1)).checked_sub(1)
}
