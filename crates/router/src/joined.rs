//! Coalesced writes: copies several small pieces into one buffer. For a head and its body, one `send` of a copy is
//! cheaper than a `writev` of two pieces. The difference is 0.3 us of 20 on the machine of `docs/benchmarks.md`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of bytes to copy.
const SMALL: usize = 4096;

pub(crate) struct Joined<S> {
    stream: S,
    /// Buffer of the coalesced bytes; keeps the capacity of the largest write so far.
    all: Vec<u8>,
}

impl<S> Joined<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, all: Vec::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Joined<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Joined<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [piece] = pieces {
            return Pin::new(&mut self.stream).poll_write(cx, piece);
        }
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() > SMALL {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        }
        let Self { stream, all } = &mut *self;
        all.clear();
        pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        Pin::new(stream).poll_write(cx, all)
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
