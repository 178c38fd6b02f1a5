//! How a push begins: with what its client's history lacks.

use bytes::{Bytes, BytesMut};

const SHALLOW: &[u8] = b"shallow ";

/// The longest line (gitprotocol-common(5)).
const LINE_MAX: usize = 65_520;

/// Drops the `shallow` lines that a push from a shallow clone begins with (gitprotocol-pack(5)).
///
/// Build machines clone the newest commit alone. What it claims to lack is mostly here; but git takes the claim for the truth, and
/// refuses to move the branch after everything else was done. Without the claim it looks for itself, and misses what is not here
/// before anything is deployed.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// A line that has not come whole.
    held: BytesMut,
    passed: bool,
}

impl Opening {
    /// What of the next piece goes on.
    pub(crate) fn pass(&mut self, piece: Bytes) -> Bytes {
        if self.passed {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        while self.held.len() >= 4 {
            // The first line that is something else is the push's own, and so is all that follows.
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

    /// What is left when nothing more comes, or nothing more is looked at.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.passed = true;
        self.held.split().freeze()
    }
}

/// The length of the line that begins here, with the four digits that say it; none while they have not come, or for what is no
/// line with something in it.
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

    /// What goes on of a text that comes in pieces of this size.
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
    fn what_a_clone_lacks_is_dropped_however_it_is_cut() {
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
        fn whatever_is_no_such_line_goes_on_as_it_is(text in prop::collection::vec(any::<u8>(), 0..200), size in 1..50_usize) {
            prop_assume!(!text.windows(8).any(|window| window == b"shallow "));
            prop_assert_eq!(passed(&text, size), text);
        }
    }
}
