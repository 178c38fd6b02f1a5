//! Checks that a repository has every object of its branch, and repairs a damaged repository.
//!
//! Git and the hook sync every accepted commit (`layout`, `hook`), so a power loss damages none; failing disks and
//! other programs may. A branch that cannot be read goes back to the newest commit that the server knows and that is
//! whole. Where no commit is whole, the server sets the repository aside, and the next push sends everything again: git
//! is a cache of the developers' own repositories.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_model::AppName;

use crate::layout;

/// Timeout of the search for all objects of a branch. A repository that takes longer counts as whole: git itself
/// reports a missing object when a client asks for the object.
pub(crate) const CHECK_TIME: Duration = Duration::from_secs(60);

/// Limit of commits that are checked as replacements for a lost branch.
pub(crate) const CANDIDATES_MAX: usize = 20;

/// Damage that was found in a repository and repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Damaged files of Gantry's own, which were written again.
    Files(Vec<&'static str>),
    /// A branch that could not be read or lacked objects. The branch now points to another commit.
    Branch {
        /// Name of the branch.
        branch: String,
        /// The commit that the branch now points to.
        commit: String,
    },
    /// No commit of the repository can be used. The server keeps the repository aside, and the next push fills a new
    /// one.
    Anew {
        /// Path of the damaged repository.
        kept: PathBuf,
    },
}

impl std::fmt::Display for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(names) => write!(f, "{} was damaged and is written again", names.join(", ")),
            Self::Branch { branch, commit } => {
                let short = commit.get(..12).unwrap_or(commit);
                write!(f, "the branch {branch} was damaged and is at {short} again, the newest commit that is whole")
            }
            Self::Anew { kept } => write!(
                f,
                "its objects are damaged; it is kept as {}, and the next push from a full clone brings everything again",
                kept.display()
            ),
        }
    }
}

/// The repositories that were checked since the server started. Each repository is checked by one task at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct CheckedRepositories(Arc<Mutex<HashMap<AppName, Arc<tokio::sync::Mutex<bool>>>>>);

impl CheckedRepositories {
    /// Returns the flag of one app: true once its repository is checked.
    pub(crate) fn of(&self, app: &AppName) -> Arc<tokio::sync::Mutex<bool>> {
        Arc::clone(self.lock().entry(app.clone()).or_default())
    }

    /// Forgets the flag of an app whose repository is removed.
    pub(crate) fn forget(&self, app: &AppName) {
        self.lock().remove(app);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AppName, Arc<tokio::sync::Mutex<bool>>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Content of a ref's file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LooseRef {
    /// The file does not exist: the ref may be among the packed refs.
    None,
    /// The file contains the name of a commit.
    Commit,
    /// The file contains anything else.
    Damaged,
}

/// Reads the file of a branch.
pub(crate) fn read_loose_ref(repository: &Path, branch: &str) -> LooseRef {
    match std::fs::read(repository.join("refs/heads").join(branch)) {
        Ok(text) => judge(&text),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => LooseRef::None,
        // The path is a folder where a branch such as `main/next` was.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => LooseRef::None,
        Err(_) => LooseRef::Damaged,
    }
}

fn judge(text: &[u8]) -> LooseRef {
    let name = text.strip_suffix(b"\n").unwrap_or(text);
    let is_name = matches!(name.len(), 40 | 64) && name.iter().all(u8::is_ascii_hexdigit);
    if is_name { LooseRef::Commit } else { LooseRef::Damaged }
}

/// Removes all files below `refs` that contain no commit, and the list of packed refs if git cannot read the list. Each
/// such file makes every push fail.
pub(crate) fn clear_refs(repository: &Path) -> io::Result<()> {
    let mut folders = vec![repository.join("refs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file()
                && path.extension().is_none_or(|end| end != "lock")
                && std::fs::read(&path).is_ok_and(|text| judge(&text) == LooseRef::Damaged)
            {
                std::fs::remove_file(&path)?;
            }
        }
    }
    let packed = repository.join("packed-refs");
    match std::fs::read(&packed) {
        Ok(text) if !text.split(|byte| *byte == b'\n').all(is_packed_line) => std::fs::remove_file(&packed),
        _ => Ok(()),
    }
}

/// Recognizes a line of `packed-refs`: a comment, a ref, or the commit that the tag above leads to.
fn is_packed_line(line: &[u8]) -> bool {
    let is_name = |name: &[u8]| matches!(name.len(), 40 | 64) && name.iter().all(u8::is_ascii_hexdigit);
    match line.first() {
        None | Some(b'#') => true,
        Some(b'^') => is_name(&line[1..]),
        _ => line.iter().position(|byte| *byte == b' ').is_some_and(|at| is_name(&line[..at]) && line.len() > at + 1),
    }
}

/// Moves a repository aside, replacing an older one that was kept.
pub(crate) fn move_aside(repository: &Path) -> io::Result<PathBuf> {
    let kept = layout::set_aside(repository);
    gantry_linux::tree::remove(&kept)?;
    std::fs::rename(repository, &kept)?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_holds_a_commit_or_is_damaged() {
        let name = "ab".repeat(20);
        for good in [name.clone(), format!("{name}\n"), "0f".repeat(32)] {
            assert_eq!(judge(good.as_bytes()), LooseRef::Commit);
        }
        for bad in ["", "\n", "\0\0\0\0", &name[1..], "ref: refs/heads/x\n", &format!("{name}\n\n"), &"x".repeat(40)] {
            assert_eq!(judge(bad.as_bytes()), LooseRef::Damaged, "{bad:?}");
        }
    }

    #[test]
    fn parses_packed_refs_as_git_does() {
        let name = "ab".repeat(20);
        let good = format!("# pack-refs with: peeled fully-peeled sorted \n{name} refs/heads/main\n^{name}\n");
        assert!(good.as_bytes().split(|byte| *byte == b'\n').all(is_packed_line));
        for bad in [&name[..], "\0\0", "x refs/heads/main", &format!("{} refs/heads/main", &name[1..])] {
            assert!(!is_packed_line(bad.as_bytes()), "{bad:?}");
        }
    }
}
