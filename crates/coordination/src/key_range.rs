//! Ranges of keys, as etcd v3 has them.

use crate::Key;

/// A range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    /// One key.
    One(Key),
    /// All keys from the first up to, but without, the second.
    Between(Key, Key),
    /// All keys from this one on.
    From(Key),
}

impl KeyRange {
    /// The range of all keys with a prefix.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        match prefix_end(prefix) {
            Some(end) => Self::Between(prefix.to_vec(), end),
            None => Self::From(prefix.to_vec()),
        }
    }

    /// The range of etcd's pair `key`, `range_end`: an empty end means one key, and a zero byte all keys from `key` on.
    #[must_use]
    pub fn of_pair(key: Key, end: Key) -> Self {
        match end.as_slice() {
            [] => Self::One(key),
            [0] => Self::From(key),
            _ => Self::Between(key, end),
        }
    }

    /// Reports whether a key is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(own) => own == key,
            Self::Between(first, end) => key >= first.as_slice() && key < end.as_slice(),
            Self::From(first) => key >= first.as_slice(),
        }
    }

    /// The lowest key that the range may contain.
    #[must_use]
    pub fn first(&self) -> &Key {
        match self {
            Self::One(first) | Self::Between(first, _) | Self::From(first) => first,
        }
    }
}

/// The lowest key above every key with this prefix; none if there is no such key.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Key> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
