//! Interim responses (RFC 9110, section 15.2), such as 103, on their way to an HTTP/1.1 client.
//!
//! hyper's server sends no interim responses, so they bypass hyper. The connection writes them when hyper has nothing
//! more to write, which is between two of its messages. hyper gets the final response only after the interim responses
//! are written.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWrite;

use crate::message::InterimSink;

/// Maximum number of pending bytes. Interim responses beyond this limit are dropped.
const PENDING_MAX: usize = 64 * 1024;

/// Interim responses of a connection.
#[derive(Default)]
pub(crate) struct InterimResponses {
    /// Interim responses are pending. Each flush reads this flag first.
    pending: AtomicBool,
    queue: Mutex<InterimQueue>,
}

#[derive(Default)]
struct InterimQueue {
    bytes: BytesMut,
    /// Waker of the request that waits until the interim responses are written.
    waiting: Option<Waker>,
}

impl InterimResponses {
    fn queue(&self) -> std::sync::MutexGuard<'_, InterimQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn are_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Resolves once all interim responses are written.
    pub(crate) async fn written(&self) {
        std::future::poll_fn(|cx| {
            if !self.are_pending() {
                return Poll::Ready(());
            }
            let mut queue = self.queue();
            if queue.bytes.is_empty() {
                return Poll::Ready(());
            }
            queue.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Writes the pending interim responses.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut queue = self.queue();
        while !queue.bytes.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &queue.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.bytes.advance(written);
        }
        self.pending.store(false, Ordering::Relaxed);
        if let Some(waiting) = queue.waiting.take() {
            waiting.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl InterimSink for InterimResponses {
    /// Adds an interim response, written with the next flush.
    fn add(&self, status: StatusCode, headers: &HeaderMap) {
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        for (name, value) in headers {
            for bytes in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(bytes);
            }
        }
        head.extend_from_slice(b"\r\n");
        let mut queue = self.queue();
        if queue.bytes.len() + head.len() <= PENDING_MAX {
            queue.bytes.extend_from_slice(&head);
            self.pending.store(true, Ordering::Relaxed);
        }
    }
}
