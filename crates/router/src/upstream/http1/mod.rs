//! HTTP/1.1 to an instance, in the task of the request itself: no other task, channel or copy of the headers stands
//! between a client and its response.
//!
//! A connection carries one request at a time. [`Http1Connection::ask`] sends the request and returns the response's head.
//! [`Http1Body`] is the body that follows, and returns the connection at its end.

mod ask;
pub(crate) mod chunks;
mod connection;
pub(crate) mod head;
mod response;
mod upload;

pub(crate) use connection::Http1Connection;
pub(crate) use response::{Http1Body, UpgradedStream};
