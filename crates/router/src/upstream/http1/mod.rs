//! HTTP/1.1 to an instance, in the task of the request itself: no other task, channel or copy of the headers stands
//! between a client and its response.
//!
//! A connection carries one request at a time. [`Http1Connection::send_request`] sends the request and returns the head of
//! the response. [`Http1Body`] is the body that follows, and returns the connection at its end.

pub(crate) mod chunks;
mod connection;
pub(crate) mod head;
mod response;
mod round_trip;
mod upload;

pub(crate) use connection::Http1Connection;
pub(crate) use response::{Http1Body, UpgradedStream};
