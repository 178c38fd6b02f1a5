//! Byte stream of a client connection, between the socket (or TLS) and hyper.
//!
//! - Version: a new connection has to show soon which HTTP version it speaks. hyper's own detection hands over the first
//!   24 bytes apart from the rest of a head, so that hyper doubles the read buffer of every connection.
//! - Coalesced writes: several small pieces are copied into one buffer. For a head and its body, one `send` of a copy is
//!   cheaper than a `writev` of two pieces. The difference is 0.3 us of 20 on the machine of `docs/benchmarks.md`.
//! - Interim responses go out with a flush (`client::interim`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::client::interim::InterimResponses;

/// First bytes of an HTTP/2 connection (RFC 9113, section 3.4). No HTTP/1 request begins so.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Maximum number of bytes to copy into one write.
const COALESCED_MAX: usize = 4096;

/// HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

/// Client connection.
pub(crate) struct ClientStream<S> {
    stream: S,
    /// Bytes read by [`Self::version`].
    first: [u8; PREFACE.len()],
    /// Part of `first` that HTTP has not read.
    unread: std::ops::Range<usize>,
    interims: Arc<InterimResponses>,
    /// Buffer of coalesced writes; keeps the capacity of the largest write so far. None if the stream below has a
    /// buffer of its own.
    coalesced: Option<Vec<u8>>,
}

impl<S> ClientStream<S> {
    pub(crate) fn new(stream: S, interims: Arc<InterimResponses>, coalesces: bool) -> Self {
        Self { stream, first: [0; PREFACE.len()], unread: 0..0, interims, coalesced: coalesces.then(Vec::new) }
    }
}

impl<S: AsyncRead + Unpin> ClientStream<S> {
    /// Reads until the HTTP version is known. The bytes stay in the stream.
    pub(crate) async fn version(&mut self) -> io::Result<HttpVersion> {
        loop {
            let known = self.unread.end;
            let length = self.stream.read(&mut self.first[known..]).await?;
            self.unread.end += length;
            // A connection that ends early is left to HTTP/1, which closes it.
            if length == 0 || !PREFACE.starts_with(&self.first[..self.unread.end]) {
                return Ok(HttpVersion::Http1);
            }
            if self.unread.end == PREFACE.len() {
                return Ok(HttpVersion::Http2);
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unread.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let length = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.first[this.unread.start..][..length]);
        this.unread.start += length;
        // The rest of the head follows in the same read.
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Pending => Poll::Ready(Ok(())),
            ready => ready,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, coalesced, .. } = &mut *self;
        match (pieces, coalesced) {
            ([piece], _) => Pin::new(stream).poll_write(cx, piece),
            (_, Some(all)) if pieces.iter().map(|piece| piece.len()).sum::<usize>() <= COALESCED_MAX => {
                all.clear();
                pieces.iter().for_each(|piece| all.extend_from_slice(piece));
                Pin::new(stream).poll_write(cx, all)
            }
            _ => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Writes the pending interim responses first. hyper flushes when it has nothing more to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, interims, .. } = &mut *self;
        if interims.are_pending() {
            ready!(interims.poll_write(stream, cx))?;
        }
        Pin::new(stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn stream(bytes: usize) -> (tokio::io::DuplexStream, ClientStream<tokio::io::DuplexStream>) {
        let (client, server) = tokio::io::duplex(bytes);
        (client, ClientStream::new(server, Arc::default(), true))
    }

    #[tokio::test]
    async fn the_version_is_known_from_the_first_bytes_and_every_byte_is_read() {
        let http2 = [PREFACE, &b"frames"[..]].concat();
        for (sent, version) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], HttpVersion::Http1),
            (b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", HttpVersion::Http1),
            (b"PO", HttpVersion::Http1),
            (b"PRI", HttpVersion::Http1),
            (b"", HttpVersion::Http1),
            (&http2, HttpVersion::Http2),
        ] {
            for cut in [1, 3, 100] {
                let (mut client, mut server) = stream(64);
                let sending = async {
                    for piece in sent.chunks(cut) {
                        client.write_all(piece).await.expect("sent");
                        tokio::task::yield_now().await;
                    }
                    client.shutdown().await.expect("shut down");
                };
                let reading = async {
                    let found = server.version().await.expect("read");
                    let mut rest = Vec::new();
                    server.read_to_end(&mut rest).await.expect("read");
                    (found, rest)
                };
                let ((), (found, read)) = tokio::join!(sending, reading);
                assert_eq!((found, &read[..]), (version, sent), "{} by {cut}", sent.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn the_first_read_has_the_whole_head() {
        let (mut client, mut server) = stream(1024);
        let head = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "a".repeat(200));
        client.write_all(head.as_bytes()).await.expect("sent");
        assert_eq!(server.version().await.expect("read"), HttpVersion::Http1);
        let mut buffer = vec![0; 1024];
        assert_eq!(server.read(&mut buffer).await.expect("read"), head.len());
        client.write_all(b"more").await.expect("sent");
        assert_eq!(server.read(&mut buffer).await.expect("read"), 4);
    }

    #[tokio::test]
    async fn small_pieces_are_sent_in_one_write() {
        let (_client, mut server) = stream(1 << 20);
        // The buffer keeps what was copied last.
        for (length, copied) in [(10, 20), (2048, 4096), (2049, 4096)] {
            let piece = vec![7; length];
            let pieces = [IoSlice::new(&piece), IoSlice::new(&piece)];
            assert_eq!(server.write_vectored(&pieces).await.expect("sent"), 2 * length);
            assert_eq!(server.coalesced.as_ref().map(Vec::len), Some(copied), "{length}");
        }
    }
}
