//! The beginning of a push: the commits that a shallow clone lacks.

use bytes::{Bytes, BytesMut};

const SHALLOW: &[u8] = b"shallow ";

/// Limit of a line's length (gitprotocol-common(5)).
const LINE_MAX: usize = 65_520;

/// Drops the `shallow` lines at the beginning of a push from a shallow clone (gitprotocol-pack(5)).
///
/// Build machines clone only the newest commit. The server mostly has the commits that such a clone claims to lack. But
/// git believes the claim, and refuses to move the branch after all other work is done. Without the claim git checks
/// for itself, and reports a missing commit before anything is deployed.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// Beginning of a line that has not fully arrived.
    held: BytesMut,
    passed: bool,
}

impl Opening {
    /// Takes the next piece of input, and returns the bytes to pass on to git.
    pub(crate) fn pass(&mut self, piece: Bytes) -> Bytes {
        if self.passed {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        while self.held.len() >= 4 {
            // The first other line ends the `shallow` lines; all bytes from there on are passed on.
            let Some(length) = length(&self.held).filter(|length| *length >= 4 + SHALLOW.len()) else {
                return self.rest();
            };
            let begins = &self.held[4..self.held.len().min(4 + SHALLOW.len())];
            if !SHALLOW.starts_with(begins) {
                return self.rest();
            }
            if self.held.len() < length {
                break;
            }
            let _ = self.held.split_to(length);
        }
        Bytes::new()
    }

    /// Returns the bytes still held back, when the input or its `shallow` lines end.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.passed = true;
        self.held.split().freeze()
    }
}

/// Returns the length of the line at the start of `bytes`, including its four length digits. Returns none while the
/// digits have not arrived, or if no line with content starts here.
fn length(bytes: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(bytes.get(..4)?).ok()?;
    let length = usize::from_str_radix(digits, 16).ok()?;
    (5..=LINE_MAX).contains(&length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &str) -> String {
        format!("{:04x}{text}", text.len() + 4)
    }

    /// Returns the bytes passed on for a text that arrives in pieces of this size.
    fn passed(text: &[u8], size: usize) -> Vec<u8> {
        let mut opening = Opening::default();
        let mut all = Vec::new();
        for piece in text.chunks(size) {
            all.extend_from_slice(&opening.pass(Bytes::copy_from_slice(piece)));
        }
        all.extend_from_slice(&opening.rest());
        all
    }

    #[test]
    fn shallow_lines_are_dropped_at_every_chunk_size() {
        let shallow = line(&format!("shallow {}", "a".repeat(40)));
        let push = format!("{}0000PACK...{shallow}", line("x y refs/heads/main\0 report-status"));
        for text in [push.clone(), format!("{shallow}{push}"), format!("{shallow}{shallow}{push}")] {
            for size in 1..text.len() {
                assert_eq!(passed(text.as_bytes(), size), push.as_bytes(), "{size}");
            }
        }
        for same in ["0000", "0001", "zzzz", "00", "ffffx", "0006x", "0004", "0008shallow x", "hello, this is no push"]
        {
            for size in 1..=same.len() {
                assert_eq!(passed(same.as_bytes(), size), same.as_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn other_bytes_pass_unchanged(text in prop::collection::vec(any::<u8>(), 0..200), size in 1..50_usize) {
            prop_assume!(!text.windows(8).any(|window| window == b"shallow "));
            prop_assert_eq!(passed(&text, size), text);
        }
    }
}
