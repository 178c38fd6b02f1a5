//! Agreement on a version of the protocol.

use serde::{Deserialize, Serialize};

/// A version of the protocol. A version is raised when a side must know what the other side understands: new fields and
/// messages that a receiver may ignore need no new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProtocolVersion(pub u32);

/// The versions that a program speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// The oldest version.
    pub oldest: ProtocolVersion,
    /// The newest version.
    pub newest: ProtocolVersion,
}

/// The versions that this program speaks. Version 2 names allocations apart from slots. With version 3, an agent certainly
/// fences single copies, and fetches layers from other machines.
pub const SUPPORTED_VERSIONS: ProtocolRange = ProtocolRange { oldest: ProtocolVersion(1), newest: ProtocolVersion(3) };

/// The first version whose agents fetch layers from other machines, and whose servers name the sources.
pub const SHARES_LAYERS: ProtocolVersion = ProtocolVersion(3);

/// The newest agents keep the promises of every role.
const _: () = assert!(SUPPORTED_VERSIONS.newest.0 >= gantry_model::role::FENCE_PROTOCOL);

/// Two programs have no version in common.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the peer speaks versions {} to {} of the control protocol, this server {} to {}; update the older program one \
     release at a time",
    theirs.oldest.0, theirs.newest.0, ours.oldest.0, ours.newest.0
)]
pub struct VersionMismatch {
    /// The versions of this program.
    pub ours: ProtocolRange,
    /// The versions of the peer.
    pub theirs: ProtocolRange,
}

impl ProtocolRange {
    /// Returns the newest version that both programs speak.
    ///
    /// # Errors
    /// [`VersionMismatch`] if there is none.
    pub fn agree(self, theirs: Self) -> Result<ProtocolVersion, VersionMismatch> {
        let newest = self.newest.min(theirs.newest);
        if newest >= self.oldest && newest >= theirs.oldest {
            Ok(newest)
        } else {
            Err(VersionMismatch { ours: self, theirs })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(oldest: u32, newest: u32) -> ProtocolRange {
        ProtocolRange { oldest: ProtocolVersion(oldest), newest: ProtocolVersion(newest) }
    }

    #[test]
    fn agrees_on_the_newest_common_version() {
        for (ours, theirs, agreed) in [
            (range(1, 1), range(1, 1), Some(1)),
            (range(1, 2), range(2, 3), Some(2)),
            (range(2, 3), range(1, 2), Some(2)),
            (range(1, 3), range(1, 2), Some(2)),
            (range(1, 1), range(2, 2), None),
            (range(3, 4), range(1, 2), None),
        ] {
            assert_eq!(ours.agree(theirs).ok(), agreed.map(ProtocolVersion), "{ours:?} {theirs:?}");
            assert_eq!(theirs.agree(ours).ok(), agreed.map(ProtocolVersion), "{theirs:?} {ours:?}");
        }
    }

    #[test]
    fn a_mismatch_names_both_sides_and_the_remedy() {
        let text = range(3, 4).agree(range(1, 2)).expect_err("nothing in common").to_string();
        assert!(text.contains("versions 1 to 2") && text.contains("3 to 4") && text.contains("update"), "{text}");
    }
}
