//! Frames that wait to be sent on a lane. Whatever the requests of a thread add before the task of the lane runs goes out
//! together: in one frame of HTTP/2, one record of TLS and one system call.

use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut, Bytes, BytesMut};
use h2::SendStream;

use crate::http2::body::poll_room;
use crate::tunnel::frames::{self, FrameKind};

/// Largest piece that goes out at once.
const PIECE_MAX: usize = 64 << 10;

/// Frames that wait to be sent.
#[derive(Default)]
pub(crate) struct FrameQueue {
    frames: BytesMut,
    /// Waker of the task that sends, while the task waits for a frame.
    sender: Option<Waker>,
}

impl FrameQueue {
    /// Adds a frame, whose payload `write` writes.
    pub(crate) fn put(&mut self, kind: FrameKind, is_last: bool, exchange: u64, write: impl FnOnce(&mut BytesMut)) {
        frames::put(&mut self.frames, kind, is_last, exchange, write);
        self.wake();
    }

    /// Wakes the task that sends.
    pub(crate) fn wake(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    /// Adds a frame that grants room for `bytes` bytes.
    pub(crate) fn put_credit(&mut self, exchange: u64, bytes: u32) {
        self.put(FrameKind::Credit, false, exchange, |out| out.put_u32(bytes));
    }

    /// Returns the number of bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Sends what the receiver takes. Resolves once no frame is left; the next frame wakes the task.
    pub(crate) fn poll_send(
        &mut self,
        to: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        while !self.frames.is_empty() {
            let wanted = self.frames.len().min(PIECE_MAX);
            let room = ready!(poll_room(to, wanted, cx))?;
            let piece = self.frames.split_to(room.min(wanted)).freeze();
            to.send_data(piece, false)?;
        }
        self.sender = Some(cx.waker().clone());
        Poll::Ready(Ok(()))
    }
}
