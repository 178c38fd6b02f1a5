//! A file of an image, found in its layers as overlayfs would show it, before anything is mounted.
//!
//! The layers are foreign: a link is resolved among the layers alone, every name is opened below a descriptor and without
//! following, and the walk is bounded in links, names and depth.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fgetxattr, openat, readlinkat, statat};

use crate::tree::OPAQUE_XATTR;

/// Links on the way to a file, as the kernel has it.
const LINKS_MAX: usize = 40;

/// Names that are still to be resolved.
const NAMES_MAX: usize = 1024;

/// Folders below each other; each holds a descriptor for each layer that has it.
const DEPTH_MAX: usize = 16;

/// The largest text that is read.
const TEXT_MAX: u64 = 1 << 20;

/// Reads the text file `path` of an image whose unpacked layers these are, from the top down. None where the image has no such
/// file, or one of more than a mebibyte.
pub(crate) fn read_text(layers: &[PathBuf], path: &Path) -> Option<String> {
    let mut text = Vec::new();
    open(layers, path)?.take(TEXT_MAX + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= TEXT_MAX).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// A folder of the image: the same folder of each layer that has a part of it, from the top down.
struct Folder(Vec<OwnedFd>);

/// What a name of a folder is.
enum Entry {
    Folder(Folder),
    File(File),
    Link(PathBuf),
}

fn open(layers: &[PathBuf], path: &Path) -> Option<File> {
    let root = layers.iter().map(|layer| folder(CWD, layer.as_os_str())).collect::<rustix::io::Result<_>>().ok()?;
    let mut folders = vec![Folder(root)];
    let mut names: VecDeque<OsString> = VecDeque::new();
    lead(&mut names, path);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            // The root is its own parent.
            folders.truncate(folders.len().saturating_sub(1).max(1));
            continue;
        }
        match folders.last()?.entry(&name)? {
            Entry::Folder(folder) if folders.len() < DEPTH_MAX => folders.push(folder),
            Entry::File(file) if names.is_empty() => return Some(file),
            Entry::Link(target) if links < LINKS_MAX && names.len() < NAMES_MAX => {
                links += 1;
                if target.is_absolute() {
                    folders.truncate(1);
                }
                lead(&mut names, &target);
            }
            _ => return None,
        }
    }
    None
}

/// Puts the names of `path` before those that are left.
fn lead(names: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        if let Component::Normal(_) | Component::ParentDir = part {
            names.push_front(part.as_os_str().to_owned());
        }
    }
}

impl Folder {
    fn entry(&self, name: &OsStr) -> Option<Entry> {
        let mut found = Vec::new();
        for layer in &self.0 {
            let Ok(stat) = statat(layer, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let folder = folder(layer, name).ok()?;
                    let opaque = is_opaque(&folder);
                    found.push(folder);
                    if opaque {
                        break;
                    }
                }
                // What is no folder hides what lies below it, and is hidden by a folder above; so is a whiteout.
                _ if !found.is_empty() => break,
                FileType::RegularFile => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    return Some(Entry::File(openat(layer, name, flags, Mode::empty()).ok()?.into()));
                }
                FileType::Symlink => {
                    let target = readlinkat(layer, name, Vec::new()).ok()?.into_bytes();
                    return Some(Entry::Link(OsString::from_vec(target).into()));
                }
                _ => return None,
            }
        }
        (!found.is_empty()).then_some(Entry::Folder(Folder(found)))
    }
}

fn folder(parent: impl std::os::fd::AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0; 4];
    matches!(fgetxattr(folder, OPAQUE_XATTR, &mut value[..]), Ok(1) if value[0] == b'y')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{XattrFlags, mknodat, setxattr};

    use super::*;

    /// Layers from the top down, each with these files; a text that begins with `->` is a link.
    fn layers(of: &[&[(&str, &str)]]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut paths = Vec::new();
        for (number, files) in of.iter().enumerate() {
            let layer = folder.path().join(number.to_string());
            std::fs::create_dir(&layer).expect("made");
            for (name, text) in *files {
                let path = layer.join(name);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                match text.strip_prefix("->") {
                    Some(target) => symlink(target, path).expect("a link"),
                    None => std::fs::write(path, text).expect("written"),
                }
            }
            paths.push(layer);
        }
        (folder, paths)
    }

    fn passwd(layers: &[PathBuf]) -> Option<String> {
        read_text(layers, Path::new("/etc/passwd"))
    }

    #[test]
    fn a_link_is_resolved_among_the_layers() {
        for target in ["/nix/store/p/passwd", "../nix/store/p/passwd", "/../nix/./store/q/../p/passwd", "/store/passwd"]
        {
            let (_folder, layers) = layers(&[
                &[("etc/passwd", &format!("->{target}"))],
                &[("nix/store/q/x", ""), ("store", "->nix/store/p")],
                &[("nix/store/p/passwd", "the image's"), ("etc/passwd", "hidden")],
            ]);
            assert_eq!(passwd(&layers).as_deref(), Some("the image's"), "{target}");
        }
        for target in ["/etc/passwd", "passwd", "/nix", "/nowhere", "", "../../../../etc/hostname"] {
            let link = if target.is_empty() { "->." } else { &format!("->{target}") };
            let (_folder, layers) = layers(&[&[("etc/passwd", link), ("nix/x", "")]]);
            assert_eq!(passwd(&layers), None, "{target}");
        }
    }

    #[test]
    fn what_an_upper_layer_takes_away_is_gone() {
        let (_folder, paths) = layers(&[&[("etc/x", "")], &[("etc/passwd", "lower")]]);
        assert_eq!(passwd(&paths).as_deref(), Some("lower"));
        let top = std::fs::File::open(paths[0].join("etc")).expect("a folder");
        mknodat(&top, "passwd", FileType::CharacterDevice, Mode::empty(), 0).expect("a whiteout");
        assert_eq!(passwd(&paths), None);

        let (_folder, paths) = layers(&[&[("etc/x", "")], &[("etc/passwd", "lower")]]);
        setxattr(paths[0].join("etc"), OPAQUE_XATTR, b"y", XattrFlags::empty()).expect("opaque");
        assert_eq!(passwd(&paths), None);

        let (_folder, paths) = layers(&[&[("etc", "a file now")], &[("etc/passwd", "lower")]]);
        assert_eq!(passwd(&paths), None);
        let (_folder, paths) = layers(&[&[("etc/passwd", "upper")], &[("etc", "a file once")]]);
        assert_eq!(passwd(&paths).as_deref(), Some("upper"));
    }

    #[test]
    fn what_is_too_large_or_no_file_is_not_read() {
        let large = "x".repeat(1 << 20);
        let (_folder, paths) = layers(&[&[("etc/passwd", &large)]]);
        assert_eq!(passwd(&paths).map(|text| text.len()), Some(1 << 20));
        let (_folder, paths) = layers(&[&[("etc/passwd", &format!("{large}x"))]]);
        assert_eq!(passwd(&paths), None);
        let (_folder, paths) = layers(&[&[("etc/passwd/x", "")]]);
        assert_eq!(passwd(&paths), None);
        let deep = "d/".repeat(DEPTH_MAX) + "passwd";
        let (_folder, paths) = layers(&[&[(&deep, "deep"), ("etc/passwd", &format!("->/{deep}"))]]);
        assert_eq!(passwd(&paths), None);
    }
}
