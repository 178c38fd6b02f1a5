//! The root that unpacked layers make together, as overlayfs shows it: looked at without mounting it.
//!
//! What is in a layer is foreign: each step opens one name below an open folder, and follows no link by itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::diff::is_opaque;
use crate::layer::Meta;

/// As many links are followed on one path as the kernel follows.
const LINKS_MAX: usize = 40;

/// What is at a path, links followed inside the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// Nothing.
    Nothing,
    /// A folder.
    Folder {
        /// Its path without links.
        path: PathBuf,
        /// As the topmost layer that has it has it.
        meta: Meta,
    },
    /// Anything else, such as a file.
    Other {
        /// Its path without links.
        path: PathBuf,
    },
}

/// The layers of a root.
#[derive(Debug)]
pub struct Merged {
    /// From the top down.
    roots: Vec<OwnedFd>,
}

/// What one name in a folder is.
enum Step {
    Nothing,
    Folder(Vec<OwnedFd>, Meta),
    Link(PathBuf),
    Other,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Merged {
    /// Of unpacked layers, from the top down.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn of(layers: &[PathBuf]) -> io::Result<Self> {
        let roots = layers.iter().map(|layer| rustix::fs::open(layer, FOLDER, Mode::empty()));
        Ok(Self { roots: roots.collect::<Result<_, _>>()? })
    }

    /// Looks at a path; `..` and links stay inside, as for a process whose root this is.
    ///
    /// # Errors
    /// When a layer cannot be read, or links lead in a circle.
    pub fn look(&self, path: &Path) -> io::Result<Looked> {
        let mut rest = Vec::new();
        push(&mut rest, path);
        let (mut at, mut links) = (PathBuf::new(), 0);
        let mut meta = None;
        let mut folder: Option<Vec<OwnedFd>> = None;
        while let Some(name) = rest.pop() {
            if name == ".." {
                at.pop();
                (folder, meta) = self.walk(&at)?;
                continue;
            }
            match step(folder.as_ref().unwrap_or(&self.roots), &name)? {
                Step::Nothing => return Ok(Looked::Nothing),
                Step::Folder(below, is) => {
                    at.push(name);
                    (folder, meta) = (Some(below), Some(is));
                }
                Step::Other if rest.is_empty() => return Ok(Looked::Other { path: at.join(name) }),
                Step::Other => return Ok(Looked::Nothing),
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        (at, folder, meta) = (PathBuf::new(), None, None);
                    }
                    push(&mut rest, &target);
                }
            }
        }
        let meta = match (meta, self.roots.first()) {
            (Some(meta), _) => meta,
            (None, Some(root)) => meta_of(&rustix::fs::fstat(root)?),
            (None, None) => return Ok(Looked::Nothing),
        };
        Ok(Looked::Folder { path: at, meta })
    }

    /// The folders of a path without links.
    fn walk(&self, path: &Path) -> io::Result<(Option<Vec<OwnedFd>>, Option<Meta>)> {
        let (mut folder, mut meta) = (None::<Vec<OwnedFd>>, None);
        for name in path {
            match step(folder.as_ref().unwrap_or(&self.roots), name)? {
                Step::Folder(below, is) => (folder, meta) = (Some(below), Some(is)),
                _ => return Err(Errno::NOENT.into()),
            }
        }
        Ok((folder, meta))
    }
}

/// One name in the folder that these make together.
fn step(folders: &[OwnedFd], name: &OsStr) -> io::Result<Step> {
    let mut found: Option<(Vec<OwnedFd>, Meta)> = None;
    for folder in folders {
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => continue,
            Err(error) => return Err(error.into()),
        };
        match (FileType::from_raw_mode(stat.st_mode), &mut found) {
            (FileType::Directory, found) => {
                let below = openat(folder, name, FOLDER, Mode::empty())?;
                let opaque = is_opaque(&below);
                found.get_or_insert_with(|| (Vec::new(), meta_of(&stat))).0.push(below);
                if opaque {
                    break;
                }
            }
            // Below a folder, whatever else is hidden.
            (_, Some(_)) => break,
            (FileType::CharacterDevice, None) if stat.st_rdev == 0 => return Ok(Step::Nothing),
            (FileType::Symlink, None) => {
                let target = readlinkat(folder, name, Vec::new())?;
                return Ok(Step::Link(OsString::from_vec(target.into_bytes()).into()));
            }
            (_, None) => return Ok(Step::Other),
        }
    }
    Ok(found.map_or(Step::Nothing, |(folders, meta)| Step::Folder(folders, meta)))
}

fn meta_of(stat: &Stat) -> Meta {
    let mtime = u64::try_from(stat.st_mtime).unwrap_or(0);
    Meta { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime }
}

/// The parts of a path, the first on top.
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
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn look(merged: &Merged, path: &str) -> (String, u32) {
        match merged.look(Path::new(path)) {
            Ok(Looked::Folder { path, meta }) => (format!("folder {}", path.display()), meta.mode),
            Ok(Looked::Other { path }) => (format!("other {}", path.display()), 0),
            Ok(Looked::Nothing) => ("nothing".to_owned(), 0),
            Err(error) => (format!("error {error}"), 0),
        }
    }

    #[test]
    fn a_path_is_looked_at_as_a_container_would_see_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let [top, low] = ["top", "low"].map(|name| folder.path().join(name));
        for path in ["top/usr/lib", "low/usr/bin", "low/tmp", "low/gone", "low/opt/a", "top/etc", "secret"] {
            std::fs::create_dir_all(folder.path().join(path)).expect("made");
        }
        std::fs::set_permissions(low.join("tmp"), std::fs::Permissions::from_mode(0o1777)).expect("set");
        std::fs::write(low.join("usr/bin/sh"), "").expect("written");
        std::fs::write(low.join("etc"), "").expect("written");
        for (path, target) in [
            ("low/bin", "usr/bin"),
            ("low/abs", "/usr/bin"),
            ("low/up", "../../../tmp"),
            ("low/out", "/secret"),
            ("low/round", "round"),
            ("low/usr/back", "../opt/a/../a"),
        ] {
            symlink(target, folder.path().join(path)).expect("a link");
        }
        let device = (rustix::fs::CWD, top.join("gone"));
        rustix::fs::mknodat(device.0, &device.1, FileType::CharacterDevice, Mode::empty(), 0).expect("a whiteout");
        let merged = Merged::of(&[top, low]).expect("opened");
        for (path, wanted, mode) in [
            ("", "folder ", 0o755),
            ("tmp", "folder tmp", 0o1777),
            ("/usr/lib", "folder usr/lib", 0o755),
            ("usr/bin", "folder usr/bin", 0o755),
            ("bin", "folder usr/bin", 0o755),
            ("bin/sh", "other usr/bin/sh", 0),
            ("abs/sh", "other usr/bin/sh", 0),
            ("up", "folder tmp", 0o1777),
            ("usr/back", "folder opt/a", 0o755),
            ("etc", "folder etc", 0o755),
            ("out", "nothing", 0),
            ("../secret", "nothing", 0),
            ("gone", "nothing", 0),
            ("bin/sh/x", "nothing", 0),
            ("none/x", "nothing", 0),
        ] {
            assert_eq!(look(&merged, path), (wanted.to_owned(), mode), "{path}");
        }
        assert!(look(&merged, "round").0.starts_with("error"), "a circle ends");
    }
}
