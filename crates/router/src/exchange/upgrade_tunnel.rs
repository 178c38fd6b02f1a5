//! A connection whose protocol was changed, usually to a websocket. The router copies bytes in both directions
//! until either side ends.
//!
//! A websocket lives for hours, and its instance leaves with the next deploy. The router then sends the client a close
//! frame between two frames of the instance. The moment is random within the drain, so that thousands of clients do not
//! reconnect at once. In a protocol that the router does not know, nothing can announce the end, and the connection
//! closes at that moment.

use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::watch;

use crate::upstream::switched::{SwitchedReader, SwitchedWriter};

/// Part of a drain within which websockets are closed.
const SPREAD: f64 = 0.8;

/// Longest time that the closing handshake may take (RFC 6455, section 7.1.1).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Size of a read buffer in bytes; small, because there may be thousands of tunnels.
const BUFFER: usize = 4096;

/// A close frame with status 1001, going away (RFC 6455, sections 5.5.1 and 7.4.1).
const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// Protocol of a tunnel, and the departure of its instance.
pub(crate) struct UpgradeTunnel {
    pub(crate) is_websocket: bool,
    /// The drain time, once the instance leaves the table.
    pub(crate) leaving: watch::Receiver<Option<Duration>>,
}

impl UpgradeTunnel {
    /// Copies bytes until either side ends; adds the bytes sent to the client to `sent`. The client may be another
    /// machine's router.
    pub(crate) async fn copy_until_end(
        self,
        client: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
        instance: (SwitchedReader, SwitchedWriter),
        sent: &mut u64,
    ) {
        let (from_client, to_client) = client;
        let (from_instance, to_instance) = instance;
        let (mut up, mut down) = (pin!(up(from_client, to_instance)), pin!(self.down(from_instance, to_client, sent)));
        let (mut up_ended, mut down_ended) = (false, false);
        while !(up_ended && down_ended) {
            tokio::select! {
                ended = &mut up, if !up_ended => match ended {
                    Ok(()) => up_ended = true,
                    Err(_) => break,
                },
                ended = &mut down, if !down_ended => match ended {
                    Ok(()) => down_ended = true,
                    Err(_) => break,
                },
                // Until then, the close frame of the other side passes through.
                () = tokio::time::sleep(CLOSE_TIMEOUT), if up_ended || down_ended => break,
            }
        }
    }

    async fn down(
        self,
        mut from: SwitchedReader,
        mut to: impl AsyncWrite + Unpin,
        sent: &mut u64,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut frames = FrameTracker::default();
        let Self { is_websocket, leaving: told } = self;
        let leave = leave(told);
        tokio::pin!(leave);
        let mut leaving = false;
        loop {
            tokio::select! {
                read = from.read(&mut buffer) => {
                    let bytes = &buffer[..read?];
                    if bytes.is_empty() {
                        return to.shutdown().await;
                    }
                    to.write_all(bytes).await?;
                    to.flush().await?;
                    *sent += bytes.len() as u64;
                    if is_websocket {
                        frames.pass(bytes);
                    }
                }
                () = &mut leave, if !leaving => leaving = true,
            }
            if leaving && !is_websocket {
                return to.shutdown().await;
            }
            if leaving && frames.is_between() {
                to.write_all(&GOING_AWAY).await?;
                return to.flush().await;
            }
        }
    }
}

async fn up(from: impl AsyncRead + Unpin, mut to: SwitchedWriter) -> std::io::Result<()> {
    tokio::io::copy_buf(&mut BufReader::with_capacity(BUFFER, from), &mut to).await?;
    to.shutdown().await
}

/// Resolves at the random moment at which this tunnel closes. An instance that returns to the table cancels the moment.
async fn leave(mut leaving: watch::Receiver<Option<Duration>>) {
    loop {
        let drain = *leaving.borrow_and_update();
        let moment = async {
            match drain {
                Some(drain) => tokio::time::sleep(drain.mul_f64(rand::random_range(0.0..SPREAD))).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = moment => return,
            changed = leaving.changed() => if changed.is_err() { std::future::pending().await },
        }
    }
}

/// Websocket frame parser (RFC 6455, section 5.2); finds only the frame ends.
#[derive(Default)]
pub(crate) struct FrameTracker {
    head: Vec<u8>,
    /// Remaining bytes of the frame's payload.
    left: u64,
}

impl FrameTracker {
    pub(crate) fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len() as u64);
                self.left -= passed;
                bytes = &bytes[usize::try_from(passed).unwrap_or(bytes.len())..];
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if let Some(length) = payload(&self.head) {
                self.left = length;
                self.head.clear();
            }
        }
    }
}

/// Returns the length of the payload, once the head is complete.
fn payload(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let (extended, length) = match second & 0x7f {
        126 => (2, number(head.get(2..4)?)),
        127 => (8, number(head.get(2..10)?)),
        length => (0, u64::from(length)),
    };
    (head.len() == 2 + extended + mask).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x82];
        match length {
            0..126 => bytes.push(mask | u8::try_from(length).expect("small")),
            126..65536 => {
                bytes.push(mask | 126);
                bytes.extend(u16::try_from(length).expect("small").to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + if masked { 4 } else { 0 } + length, 0xff);
        bytes
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "a test has no set of tasks")]
    async fn spreads_departures_over_the_drain() {
        let (table, receiver) = watch::channel(None);
        let begun = tokio::time::Instant::now();
        let told: Vec<_> = (0..200)
            .map(|_| {
                let leaving = receiver.clone();
                tokio::spawn(async move {
                    leave(leaving).await;
                    begun.elapsed()
                })
            })
            .collect();
        let drain = Duration::from_secs(30);
        table.send_replace(Some(drain));
        let mut per_tenth = [0; 10];
        for told in told {
            let after = told.await.expect("told").div_duration_f64(drain.mul_f64(SPREAD));
            assert!(after <= 1.001, "after the drain");
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10")]
            let tenth = (after * 10.0) as usize;
            per_tenth[tenth.min(9)] += 1;
        }
        assert!(per_tenth.iter().all(|count| (3..50).contains(count)), "{per_tenth:?} of 200");
    }

    proptest! {
        #[test]
        fn finds_frame_ends_in_any_pieces(
            frames in prop::collection::vec((prop_oneof![0..3usize, 120..130usize, 65530..65540usize], any::<bool>()), 1..5),
            cut in 1..5000usize,
        ) {
            let mut seen = FrameTracker::default();
            for (length, masked) in frames {
                let bytes = frame(length, masked);
                let (last, rest) = bytes.split_last().expect("never empty");
                for piece in rest.chunks(cut) {
                    seen.pass(piece);
                    prop_assert!(!seen.is_between());
                }
                seen.pass(&[*last]);
                prop_assert!(seen.is_between());
            }
        }
    }
}
