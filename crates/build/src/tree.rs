//! Paths of a source tree: a fingerprint of each path, and the targets of symbolic links within the tree.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use gantry_blobs::DigestHasher;

use crate::times::Fingerprint;

/// Maximum number of links to follow on a path, as in the kernel.
const LINKS_MAX: usize = 40;

/// Kind of an entry of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TreeEntryKind {
    /// A file, with its executable bit.
    File(bool),
    /// A folder, or a submodule.
    Folder,
    /// A symbolic link.
    Link,
}

/// Destination of a path, with links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathTarget {
    /// No such path in the tree, and no broken link on the way.
    Nowhere,
    /// A file.
    File(PathBuf),
    /// A folder.
    Folder(PathBuf),
    /// A link with this target, to a path that the tree does not have.
    Broken(PathBuf),
    /// A link with this target, or a path, out of the tree.
    Outside(PathBuf),
    /// More than [`LINKS_MAX`] links.
    Endless,
}

/// All paths of a source tree.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    entries: HashMap<Fingerprint, (TreeEntryKind, Fingerprint)>,
    links: BTreeMap<PathBuf, PathBuf>,
}

/// Computes the fingerprint of a path.
pub(crate) fn fingerprint_of(path: &Path) -> Fingerprint {
    half(DigestHasher::of(path.as_os_str().as_bytes()))
}

/// Takes the first half of a digest.
pub(crate) fn half(digest: gantry_model::Digest) -> Fingerprint {
    // A digest is hexadecimal, so this cannot fail.
    Fingerprint::from_str_radix(&digest.hex()[..32], 16).unwrap_or_default()
}

impl Tree {
    /// Adds a file with the fingerprint of its content.
    pub(crate) fn file(&mut self, path: &Path, executable: bool, content: Fingerprint) {
        // The executable bit is part of the fingerprint.
        self.add(path, TreeEntryKind::File(executable), content.wrapping_add(1 + u128::from(executable)));
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &Path, target: &Path) {
        self.add(path, TreeEntryKind::Link, fingerprint_of(target).wrapping_add(3));
        self.links.insert(path.to_owned(), target.to_owned());
    }

    /// Adds a folder.
    pub(crate) fn folder(&mut self, path: &Path) {
        self.add(path, TreeEntryKind::Folder, 0);
    }

    fn add(&mut self, path: &Path, kind: TreeEntryKind, content: Fingerprint) {
        let print = fingerprint_of(path);
        if let Some(known) = self.entries.get_mut(&print) {
            // The path is already known: an entry below created the folder, or the archive has the path twice. In the
            // second case, the last file or link wins.
            if kind != TreeEntryKind::Folder {
                *known = (kind, content);
            }
            return;
        }
        self.entries.insert(print, (kind, content));
        // As on a disk: a folder changes when the folder gains or loses a name.
        if let Some(parent) = path.parent() {
            if !self.entries.contains_key(&fingerprint_of(parent)) {
                self.add(parent, TreeEntryKind::Folder, 0);
            }
            if let Some((_, names)) = self.entries.get_mut(&fingerprint_of(parent)) {
                *names = names.wrapping_add(print);
            }
        }
    }

    /// Fingerprint of each entry, by fingerprint of the path.
    pub(crate) fn fingerprints(&self) -> HashMap<Fingerprint, Fingerprint> {
        self.entries.iter().map(|(path, (_, content))| (*path, *content)).collect()
    }

    /// Kind of the entry at a path, with no links followed.
    pub(crate) fn kind(&self, path: &Path) -> Option<TreeEntryKind> {
        self.entries.get(&fingerprint_of(path)).map(|(kind, _)| *kind)
    }

    /// Follows the links of a path. The tree is at `/app` when the image runs, so an absolute target below `/app` is in
    /// the tree.
    pub(crate) fn follow(&self, path: &Path) -> PathTarget {
        let mut rest: Vec<OsString> = Vec::new();
        push(&mut rest, path);
        let mut at = PathBuf::new();
        // The target of the last link, and the number of path parts after the link.
        let mut last: Option<(&Path, usize)> = None;
        let mut followed = 0;
        let missing = |last: Option<(&Path, usize)>, left: usize| match last {
            Some((target, after)) if left >= after => PathTarget::Broken(target.to_owned()),
            _ => PathTarget::Nowhere,
        };
        while let Some(part) = rest.pop() {
            if part == ".." {
                if !at.pop() {
                    return PathTarget::Outside(last.map_or(path, |(target, _)| target).to_owned());
                }
                continue;
            }
            let next = at.join(part);
            match self.kind(&next) {
                Some(TreeEntryKind::Link) => {
                    followed += 1;
                    if followed > LINKS_MAX {
                        return PathTarget::Endless;
                    }
                    let Some(target) = self.links.get(&next) else { return missing(last, rest.len()) };
                    last = Some((target, rest.len()));
                    let inside = match target.strip_prefix("/app") {
                        Ok(inside) => {
                            at = PathBuf::new();
                            inside
                        }
                        Err(_) if target.is_absolute() => return PathTarget::Outside(target.clone()),
                        Err(_) => target,
                    };
                    push(&mut rest, inside);
                }
                Some(TreeEntryKind::File(_)) if !rest.is_empty() => return missing(last, rest.len()),
                Some(_) => at = next,
                None => return missing(last, rest.len()),
            }
        }
        match self.kind(&at) {
            Some(TreeEntryKind::File(_)) => PathTarget::File(at),
            _ => PathTarget::Folder(at),
        }
    }
}

/// Pushes the parts of a path onto a stack, with the first part on top.
fn push(rest: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    rest.extend(parts);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for path in ["bin/build", "deploy/Procfile", "deploy/container/compile"] {
            tree.file(Path::new(path), true, 7);
        }
        for (path, target) in [
            ("container", "deploy/container"),
            ("Procfile", "./deploy/Procfile"),
            ("app.json", "/app/deploy/Procfile"),
            ("again", "Procfile"),
            ("up", "../../etc/passwd"),
            ("etc", "/etc"),
            ("gone", "nowhere/file"),
            ("through", "bin/build/x"),
            ("round", "round"),
        ] {
            tree.link(Path::new(path), Path::new(target));
        }
        tree
    }

    #[test]
    fn links_are_followed_within_the_tree() {
        let tree = tree();
        let follow = |path: &str| tree.follow(Path::new(path));
        for path in ["Procfile", "app.json", "again", "deploy/Procfile"] {
            assert_eq!(follow(path), PathTarget::File("deploy/Procfile".into()), "{path}");
        }
        assert_eq!(follow("container/compile"), PathTarget::File("deploy/container/compile".into()));
        assert_eq!(follow("container"), PathTarget::Folder("deploy/container".into()));
        for path in ["nothing", "container/files", "bin/build/x"] {
            assert_eq!(follow(path), PathTarget::Nowhere, "{path}");
        }
        assert_eq!(follow("up"), PathTarget::Outside("../../etc/passwd".into()));
        assert_eq!(follow("etc/passwd"), PathTarget::Outside("/etc".into()));
        assert_eq!(follow("gone"), PathTarget::Broken("nowhere/file".into()));
        assert_eq!(follow("through"), PathTarget::Broken("bin/build/x".into()));
        assert_eq!(follow("round"), PathTarget::Endless);
    }

    #[test]
    fn a_fingerprint_follows_from_content_mode_and_names() {
        let print = |tree: &Tree, path: &str| tree.fingerprints()[&fingerprint_of(Path::new(path))];
        let one = tree();
        let mut other = tree();
        assert_eq!(one.fingerprints(), other.fingerprints());
        other.file(Path::new("bin/build"), false, 7);
        assert_ne!(print(&one, "bin/build"), print(&other, "bin/build"));
        assert_eq!(print(&one, "bin"), print(&other, "bin"), "no name came or went");
        other.file(Path::new("bin/more"), false, 7);
        assert_ne!(print(&one, "bin"), print(&other, "bin"));
        assert_eq!(print(&one, ""), print(&other, ""));
    }
}
