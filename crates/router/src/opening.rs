//! Preface timeout: a new connection has to show soon which HTTP version it speaks. From then on HTTP's own timeouts
//! apply.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// First bytes of an HTTP/2 connection (RFC 9113, section 3.4). No HTTP/1 request begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) struct Opening<S> {
    stream: S,
    /// Number of preface bytes received.
    preface: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Opening<S> {
    pub(crate) fn within(patience: Duration, stream: S) -> Self {
        Self { stream, preface: 0, deadline: Some(Box::pin(tokio::time::sleep(patience))) }
    }
}

impl<S> Opening<S> {
    /// Returns whether the bytes continue the preface without completing it.
    fn is_undecided(&mut self, bytes: &[u8]) -> bool {
        let is_next = !bytes.is_empty() && PREFACE[self.preface..].starts_with(bytes);
        self.preface += if is_next { bytes.len() } else { 0 };
        is_next && self.preface < PREFACE.len()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            if self.deadline.is_some() && !self.is_undecided(&buffer.filled()[before..]) {
                self.deadline = None;
            }
            return Poll::Ready(result);
        }
        if let Some(deadline) = &mut self.deadline {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_and_a_word_keeps_it() {
        let patience = Duration::from_secs(30);
        let (_client, server) = tokio::io::duplex(64);
        let error = Opening::within(patience, server).read_u8().await.expect_err("ended");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Opening::within(patience, server);
        client.write_all(b"a").await.expect("sent");
        assert_eq!(server.read_u8().await.expect("read"), b'a');
        assert!(tokio::time::timeout(patience * 2, server.read_u8()).await.is_err(), "it waits for the next");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_begins_and_does_not_say_which_http_is_ended_too() {
        let patience = Duration::from_secs(30);
        for (said, ends) in [(&b"P"[..], true), (b"PRI * HTTP/2.0\r\n", true), (b"PO", false), (PREFACE, false)] {
            let (mut client, server) = tokio::io::duplex(64);
            let mut server = Opening::within(patience, server);
            for byte in said {
                client.write_u8(*byte).await.expect("sent");
                assert_eq!(server.read_u8().await.expect("read"), *byte);
            }
            let waited = tokio::time::timeout(patience * 2, server.read_u8()).await;
            assert_eq!(waited.is_ok(), ends, "{}", said.escape_ascii());
        }
    }
}
