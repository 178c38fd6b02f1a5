//! HTTP/1.1 connection between two requests.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Connection to an instance, between two requests.
pub(crate) struct Http1Connection {
    pub(super) from: OwnedReadHalf,
    pub(super) to: OwnedWriteHalf,
    /// Send buffer; empty, kept for its memory. The read buffer `received` is kept likewise.
    pub(super) out: Vec<u8>,
    pub(super) received: BytesMut,
}

impl Http1Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let (from, to) = stream.into_split();
        Self { from, to, out: Vec::new(), received: BytesMut::new() }
    }

    /// Returns false once the instance closed the connection, or sent bytes without a request.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.from.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
