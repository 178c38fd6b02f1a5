//! The root that unpacked layers form, as overlayfs would show the root, but without a mount.
//!
//! The layers' content is foreign. Each lookup opens a single name below an open folder and follows no link by itself.
//! Links are resolved only among the layers, and the walk is bounded.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::diff::is_opaque;
use crate::layer::Meta;

/// Limit on the links followed for a path, as in the kernel.
const LINKS_MAX: usize = 40;

/// Limit on the names looked up for a path. A link to a long path through `..` needs many lookups.
const STEPS_MAX: usize = 4096;

/// Limit on the size of a text file.
const TEXT_MAX: u64 = 1 << 20;

/// Reads the text file `path` of an image from its unpacked layers, listed from the top down. Returns none if the image
/// has no such file, or the file is larger than 1 MiB.
pub(crate) fn read_text(layers: &[PathBuf], path: &Path) -> Option<String> {
    let mut text = Vec::new();
    MergedLayers::of(layers).ok()?.open(path)?.take(TEXT_MAX + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= TEXT_MAX).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// The result of a lookup, with links followed inside the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathLookup {
    /// The path does not exist.
    Nothing,
    /// A folder.
    Folder {
        /// Path without links.
        path: PathBuf,
        /// Metadata from the topmost layer that has the folder.
        meta: Meta,
    },
    /// Any other kind, such as a file.
    Other {
        /// Path without links.
        path: PathBuf,
    },
}

/// The unpacked layers that form a root.
#[derive(Debug)]
pub struct MergedLayers {
    /// The layers' folders, from the top down.
    roots: Vec<OwnedFd>,
}

/// The result of looking up a single name in a folder.
enum NameLookup {
    Nothing,
    Folder(Vec<OwnedFd>, Meta),
    Link(PathBuf),
    /// A file of another kind, with the layer's folder that contains it.
    Other(OwnedFd),
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl MergedLayers {
    /// Opens the unpacked layers, listed from the top down.
    ///
    /// # Errors
    /// When a layer cannot be opened.
    pub fn of(layers: &[PathBuf]) -> io::Result<Self> {
        let roots = layers.iter().map(|layer| rustix::fs::open(layer, FOLDER, Mode::empty()));
        Ok(Self { roots: roots.collect::<Result<_, _>>()? })
    }

    /// Looks up a path. As for a process with this root, `..` and links stay inside.
    ///
    /// # Errors
    /// When a layer cannot be read, or the links form a circle.
    pub fn lookup(&self, path: &Path) -> io::Result<PathLookup> {
        self.find(path).map(|(looked, _)| looked)
    }

    /// Opens a regular file.
    fn open(&self, path: &Path) -> Option<File> {
        let (PathLookup::Other { path }, Some(layer)) = self.find(path).ok()? else { return None };
        // Without NONBLOCK, opening a pipe would wait for the other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(layer, path.file_name()?, flags, Mode::empty()).ok()?);
        file.metadata().ok()?.is_file().then_some(file)
    }

    /// Looks up a path. For a result other than a folder, also returns the layer's folder that contains it.
    fn find(&self, path: &Path) -> io::Result<(PathLookup, Option<OwnedFd>)> {
        let mut rest = Vec::new();
        push(&mut rest, path);
        let (mut at, mut links, mut steps) = (PathBuf::new(), 0, STEPS_MAX);
        let mut meta = None;
        let mut folder: Option<Vec<OwnedFd>> = None;
        while let Some(name) = rest.pop() {
            if name == ".." {
                at.pop();
                (folder, meta) = self.walk(&at, &mut steps)?;
                continue;
            }
            match step(folder.as_ref().unwrap_or(&self.roots), &name, &mut steps)? {
                NameLookup::Nothing => return Ok((PathLookup::Nothing, None)),
                NameLookup::Folder(below, is) => {
                    at.push(name);
                    (folder, meta) = (Some(below), Some(is));
                }
                NameLookup::Other(layer) if rest.is_empty() => {
                    return Ok((PathLookup::Other { path: at.join(name) }, Some(layer)));
                }
                NameLookup::Other(_) => return Ok((PathLookup::Nothing, None)),
                NameLookup::Link(target) => {
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
            (None, None) => return Ok((PathLookup::Nothing, None)),
        };
        Ok((PathLookup::Folder { path: at, meta }, None))
    }

    /// Opens the folders of a path that has no links.
    fn walk(&self, path: &Path, steps: &mut usize) -> io::Result<(Option<Vec<OwnedFd>>, Option<Meta>)> {
        let (mut folder, mut meta) = (None::<Vec<OwnedFd>>, None);
        for name in path {
            match step(folder.as_ref().unwrap_or(&self.roots), name, steps)? {
                NameLookup::Folder(below, is) => (folder, meta) = (Some(below), Some(is)),
                _ => return Err(Errno::NOENT.into()),
            }
        }
        Ok((folder, meta))
    }
}

/// Looks up a single name in the folder that the layers' `folders` form.
fn step(folders: &[OwnedFd], name: &OsStr, steps: &mut usize) -> io::Result<NameLookup> {
    *steps = steps.checked_sub(1).ok_or(Errno::LOOP)?;
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
            // A folder in an upper layer hides a file of another kind in this layer.
            (_, Some(_)) => break,
            (FileType::CharacterDevice, None) if stat.st_rdev == 0 => return Ok(NameLookup::Nothing),
            (FileType::Symlink, None) => {
                let target = readlinkat(folder, name, Vec::new())?;
                return Ok(NameLookup::Link(OsString::from_vec(target.into_bytes()).into()));
            }
            (_, None) => return Ok(NameLookup::Other(folder.try_clone()?)),
        }
    }
    Ok(found.map_or(NameLookup::Nothing, |(folders, meta)| NameLookup::Folder(folders, meta)))
}

fn meta_of(stat: &Stat) -> Meta {
    let mtime = u64::try_from(stat.st_mtime).unwrap_or(0);
    Meta { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime }
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
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{XattrFlags, mknodat, setxattr};

    use super::*;
    use crate::tree::OPAQUE_XATTR;

    /// Creates layers with the given files, from the top down. A text that begins with `->` creates a link.
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
    fn a_whiteout_of_an_upper_layer_hides_the_file() {
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
    fn large_files_and_devices_are_not_read() {
        let large = "x".repeat(1 << 20);
        let (_folder, paths) = layers(&[&[("etc/passwd", &large)]]);
        assert_eq!(passwd(&paths).map(|text| text.len()), Some(1 << 20));
        let (_folder, paths) = layers(&[&[("etc/passwd", &format!("{large}x"))]]);
        assert_eq!(passwd(&paths), None);
        let (_folder, paths) = layers(&[&[("etc/passwd/x", "")]]);
        assert_eq!(passwd(&paths), None);
        // The link leads down 500 levels, then up and down 500 times. Each `..` walks the path again, so that the
        // lookups exceed their limit.
        let deep = "d/".repeat(500);
        let (_folder, paths) =
            layers(&[&[(&format!("{deep}x"), ""), ("etc/passwd", &format!("->/{deep}{}x", "../d/".repeat(500)))]]);
        assert_eq!(passwd(&paths), None);
    }

    fn lookup(merged: &MergedLayers, path: &str) -> (String, u32) {
        match merged.lookup(Path::new(path)) {
            Ok(PathLookup::Folder { path, meta }) => (format!("folder {}", path.display()), meta.mode),
            Ok(PathLookup::Other { path }) => (format!("other {}", path.display()), 0),
            Ok(PathLookup::Nothing) => ("nothing".to_owned(), 0),
            Err(error) => (format!("error {error}"), 0),
        }
    }

    #[test]
    fn resolves_paths_as_inside_the_container() {
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
        let merged = MergedLayers::of(&[top, low]).expect("opened");
        for (path, expected, mode) in [
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
            assert_eq!(lookup(&merged, path), (expected.to_owned(), mode), "{path}");
        }
        assert!(lookup(&merged, "round").0.starts_with("error"), "a circle ends");
    }
}
