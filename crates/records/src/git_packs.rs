//! The packs of accepted pushes, from which any server makes an app's repository.
//!
//! ```text
//! pack 1: all of commit 1 ◄─ pack 2: commit 2 without commit 1 ◄─ … ◄─ pack 32 ◄─ all of commit 33, alone
//! ```
//! A pack names no objects of earlier packs as the base of a delta, so git takes each pack by itself.

use gantry_model::Digest;
use serde::{Deserialize, Serialize};

/// A pack of an accepted push, in the blobs of the servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitPack {
    /// The pack.
    pub pack: Digest,
    /// The pushed commit. The packs up to this one have every object that the commit leads to.
    pub commit: String,
}

/// The packs from which any server makes an app's repository, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitPacks {
    /// The packs.
    pub packs: Vec<GitPack>,
}

/// Maximum number of packs of an app. The next pack has the whole history and takes the place of all others.
const PACKS_MAX: usize = 32;

impl GitPacks {
    /// Returns the commits whose objects the next pack leaves out. None of them means the whole history.
    #[must_use]
    pub fn known(&self) -> Vec<String> {
        match self.packs.len() {
            PACKS_MAX.. => Vec::new(),
            _ => self.packs.iter().map(|pack| pack.commit.clone()).collect(),
        }
    }

    /// Adds a pack that leaves out the objects of the `known` commits. Returns none if the packs of these commits are gone.
    #[must_use]
    pub fn with(&self, pack: GitPack, known: &[String]) -> Option<Self> {
        if known.is_empty() {
            return Some(Self { packs: vec![pack] });
        }
        let is_there = |commit: &String| self.packs.iter().any(|pack| pack.commit == *commit);
        if !known.iter().all(is_there) {
            return None;
        }
        Some(Self { packs: self.packs.iter().cloned().chain([pack]).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(number: usize) -> GitPack {
        let pack = Digest::from_hex(&format!("{number:064x}")).expect("a digest");
        GitPack { pack, commit: format!("{number:040x}") }
    }

    #[test]
    fn packs_build_upon_each_other_until_one_has_the_whole_history() {
        let mut packs = GitPacks::default();
        for number in 0..PACKS_MAX {
            packs = packs.with(pack(number), &packs.known()).expect("added");
            assert_eq!(packs.packs.len(), number + 1);
        }
        assert_eq!(packs.known(), Vec::<String>::new());
        let anew = packs.with(pack(99), &packs.known()).expect("added");
        assert_eq!(anew.packs, [pack(99)]);
        // A server with the new pack alone cannot use a push that builds upon the earlier packs.
        assert_eq!(anew.with(pack(100), &[pack(1).commit]), None);
        assert_eq!(anew.with(pack(100), &anew.known()).expect("added").packs, [pack(99), pack(100)]);
    }
}
