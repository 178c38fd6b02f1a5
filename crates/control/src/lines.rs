//! Messages as lines of JSON in the body of an HTTP/2 stream.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::link::LinkError;

/// Largest message. The plan of a machine with thousands of instances, or the routes of a large cluster, fit.
const MESSAGE_MAX: usize = 64 << 20;

/// Maximum number of messages that wait for the connection.
const QUEUE: usize = 16;

/// Longest time that a message may wait for the connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Body of one direction of a stream.
pub(crate) type LineBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Sends messages.
#[derive(Debug, Clone)]
pub struct LineSender(mpsc::Sender<Bytes>);

/// Creates a sender and the body that carries its messages.
pub(crate) fn channel() -> (LineSender, LineBody) {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    let lines = stream::unfold(receiver, async |mut receiver| {
        let line = receiver.recv().await?;
        Some((Ok(Frame::data(line)), receiver))
    });
    (LineSender(sender), StreamBody::new(lines).boxed_unsync())
}

/// A message as a line. Clones share the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLine(Bytes);

impl EncodedLine {
    /// Encodes a message.
    ///
    /// # Errors
    /// [`LinkError::Message`] if the message has no form in JSON.
    pub fn of(message: &impl Serialize) -> Result<Self, LinkError> {
        let mut line = serde_json::to_vec(message).map_err(LinkError::Message)?;
        line.push(b'\n');
        Ok(Self(line.into()))
    }
}

impl LineSender {
    /// Sends a message.
    ///
    /// # Errors
    /// [`LinkError`] if the connection has ended, or if the peer does not read.
    pub async fn send(&self, message: &(impl Serialize + Sync)) -> Result<(), LinkError> {
        self.send_line(EncodedLine::of(message)?).await
    }

    /// Sends a message that is already encoded.
    ///
    /// # Errors
    /// [`LinkError`] if the connection has ended, or if the peer does not read.
    pub async fn send_line(&self, line: EncodedLine) -> Result<(), LinkError> {
        match tokio::time::timeout(SEND_TIMEOUT, self.0.send(line.0)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(LinkError::Ended),
            Err(_) => Err(LinkError::Slow),
        }
    }
}

/// Receives messages.
#[derive(Debug)]
pub struct LineReceiver {
    body: Incoming,
    pending: BytesMut,
    /// Number of pending bytes without a line end.
    searched: usize,
}

impl LineReceiver {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, pending: BytesMut::new(), searched: 0 }
    }

    /// Receives the next message; none at the end of the stream. A dropped call loses nothing.
    ///
    /// # Errors
    /// [`LinkError`] if the connection breaks, or if the peer sends something else than a message.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        loop {
            if let Some(end) = self.pending[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(self.searched + end + 1);
                self.searched = 0;
                return serde_json::from_slice(&line).map(Some).map_err(LinkError::Message);
            }
            self.searched = self.pending.len();
            if self.pending.len() > MESSAGE_MAX {
                return Err(LinkError::TooLarge);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(LinkError::Connection)?.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
