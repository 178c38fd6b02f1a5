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
    /// Number of bytes that the stream has taken so far.
    taken: u64,
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

    /// Returns the position of the next frame among all bytes of the lane.
    pub(crate) fn position(&self) -> u64 {
        self.taken + self.frames.len() as u64
    }

    /// Returns whether the stream has taken no byte of the frame at `position`.
    pub(crate) fn is_unsent(&self, position: u64) -> bool {
        self.taken <= position
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
            let length = piece.len() as u64;
            to.send_data(piece, false)?;
            self.taken += length;
        }
        self.sender = Some(cx.waker().clone());
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;

    #[test]
    fn a_frame_is_unsent_until_its_first_byte_is_taken() {
        let mut queue = FrameQueue::default();
        let first = queue.position();
        queue.put_credit(1, 7);
        let second = queue.position();
        queue.put_credit(2, 7);
        assert!(queue.is_unsent(first) && queue.is_unsent(second));
        for taken in 1..=queue.len() as u64 {
            queue.frames.advance(1);
            queue.taken += 1;
            assert!(!queue.is_unsent(first));
            assert_eq!(queue.is_unsent(second), taken <= second);
        }
    }
}
