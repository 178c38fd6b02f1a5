//! Report on an image: the size of each layer, bytes that upper layers hide, and files that no program needs.
//!
//! The layers are read from the bottom up, without unpacking them. Their bytes are foreign: the number of names, the
//! bytes of names and the time are bounded.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::time::Instant;

use flate2::read::MultiGzDecoder;
use tar::EntryType;

use crate::archive::members;
use crate::tree::{OPAQUE, WHITEOUT};

/// Maximum number of files of an image.
const FILES_MAX: usize = 1_000_000;

/// Maximum number of bytes of all names together.
const NAMES_MAX: usize = 128 << 20;

/// Largest files that a report names.
const LARGEST: usize = 15;

/// A layer in a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerReport {
    /// Size of all files in bytes.
    pub size: u64,
    /// Number of files.
    pub files: u64,
    /// Bytes of this layer that upper layers replace or remove. They are transferred and stored all the same.
    pub hidden: u64,
}

/// Files that an image mostly does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Surplus {
    /// Package lists, and caches of package managers.
    PackageCache,
    /// Documentation, manual pages and translations.
    Documentation,
    /// Compilers, header files and static libraries.
    Compilers,
    /// Caches of a user, and compiled Python files.
    Caches,
    /// Repositories of version control.
    Repositories,
}

/// A file in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Path in the image.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Index of the layer, from the bottom.
    pub layer: usize,
}

/// The report of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The layers, from the bottom up.
    pub layers: Vec<LayerReport>,
    /// Size of the files that a program mostly does not need, by kind. Hidden files do not count.
    pub surplus: BTreeMap<Surplus, u64>,
    /// The largest files that are not hidden, largest first.
    pub largest: Vec<FileReport>,
}

/// The layers read so far.
pub struct Reporter {
    layers: Vec<LayerReport>,
    /// Size and layer of each file that is not hidden.
    files: HashMap<Box<[u8]>, (u64, usize)>,
    names: usize,
    deadline: Instant,
}

impl Reporter {
    /// Begins a report that must be complete at `deadline`.
    #[must_use]
    pub fn new(deadline: Instant) -> Self {
        Self { layers: Vec::new(), files: HashMap::new(), names: 0, deadline }
    }

    /// Reads the next layer, from the bottom up. Blocks.
    ///
    /// # Errors
    /// When the layer is damaged, has too many files, or the deadline has passed.
    pub fn layer(&mut self, layer: File) -> io::Result<()> {
        let mut packed = BufReader::with_capacity(256 << 10, layer);
        let start = packed.fill_buf()?;
        let plain: Box<dyn Read> = match start {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(packed)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(packed)?),
            _ => Box::new(packed),
        };
        let plain = Timed { inner: plain, deadline: self.deadline };
        let mut contents = LayerContents::default();
        members(plain, |error| error, |member| contents.add(member))?;
        self.apply(contents)
    }

    /// Lays a layer over those below.
    fn apply(&mut self, contents: LayerContents) -> io::Result<()> {
        let number = self.layers.len();
        self.layers.push(LayerReport::default());
        for (path, hides_itself) in contents.hides {
            // Each removal looks at all files.
            check(self.deadline)?;
            self.hide(&path, hides_itself);
        }
        for path in contents.replaces {
            if let Some((size, layer)) = self.files.remove(&path) {
                self.layers[layer].hidden += size;
            }
        }
        for (path, size) in contents.files {
            self.names += path.len();
            if self.files.len() >= FILES_MAX || self.names > NAMES_MAX {
                return Err(io::Error::other(format!("the image has more than {FILES_MAX} files")));
            }
            self.layers[number].size += size;
            self.layers[number].files += 1;
            if let Some((size, layer)) = self.files.insert(path, (size, number)) {
                self.layers[layer].hidden += size;
            }
        }
        Ok(())
    }

    /// Hides a path, or only what is below it.
    fn hide(&mut self, path: &[u8], hides_itself: bool) {
        let below =
            |name: &[u8]| path.is_empty() || name.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'));
        let layers = &mut self.layers;
        self.files.retain(|name, (size, layer)| {
            let hidden = below(name) || (hides_itself && **name == *path);
            if hidden {
                layers[*layer].hidden += *size;
            }
            !hidden
        });
    }

    /// The report.
    #[must_use]
    pub fn finish(self) -> Report {
        let mut surplus = BTreeMap::new();
        for (path, (size, _)) in &self.files {
            if let Some(kind) = surplus_kind(&String::from_utf8_lossy(path)) {
                *surplus.entry(kind).or_default() += size;
            }
        }
        let mut files: Vec<_> = self.files.into_iter().collect();
        files.sort_unstable_by(|(path, (size, _)), (other, (than, _))| than.cmp(size).then_with(|| path.cmp(other)));
        let file = |(path, (size, layer)): (Box<[u8]>, (u64, usize))| FileReport {
            path: format!("/{}", String::from_utf8_lossy(&path)),
            size,
            layer,
        };
        Report { layers: self.layers, surplus, largest: files.into_iter().take(LARGEST).map(file).collect() }
    }
}

/// Names in a layer.
#[derive(Default)]
struct LayerContents {
    files: Vec<(Box<[u8]>, u64)>,
    /// Paths of lower layers that this layer hides, and whether the path itself is hidden or only what is below.
    hides: Vec<(Vec<u8>, bool)>,
    /// Folders and links, which take the place of a file of a lower layer.
    replaces: Vec<Box<[u8]>>,
    names: usize,
}

impl LayerContents {
    fn add(&mut self, member: &tar::Entry<'_, impl Read>) -> io::Result<()> {
        let path = clean(&member.path_bytes());
        self.names += path.len();
        if self.files.len() + self.hides.len() + self.replaces.len() >= FILES_MAX || self.names > NAMES_MAX {
            return Err(io::Error::other(format!("a layer has more than {FILES_MAX} files")));
        }
        let (folder, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], &path[..]),
        };
        if name == OPAQUE.as_bytes() {
            self.hides.push((folder.to_vec(), false));
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT.as_bytes()) {
            let separator = if folder.is_empty() { &b""[..] } else { b"/" };
            self.hides.push(([folder, separator, hidden].concat(), true));
        } else if matches!(member.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            self.files.push((path.into(), member.size()));
        } else {
            self.replaces.push(path.into());
        }
        Ok(())
    }
}

/// A path without `.` and empty parts.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    parts.join(&b'/')
}

/// The kind of a file that a program mostly does not need.
fn surplus_kind(path: &str) -> Option<Surplus> {
    let below = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    let part = |part_name: &str| path.split('/').any(|part| part == part_name);
    if below(&["var/cache/", "var/lib/apt/lists/", "var/lib/dnf/", "var/log/"]) {
        Some(Surplus::PackageCache)
    } else if below(&["usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/"]) {
        Some(Surplus::Documentation)
    } else if part(".git") || part(".hg") || part(".svn") {
        Some(Surplus::Repositories)
    } else if below(&["usr/include/", "usr/lib/gcc/", "usr/libexec/gcc/"]) || path.ends_with(".a") {
        Some(Surplus::Compilers)
    } else if part(".cache") || part(".npm") || part("__pycache__") {
        Some(Surplus::Caches)
    } else {
        None
    }
}

/// A reader that fails after a deadline.
struct Timed<R> {
    inner: R,
    deadline: Instant,
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.deadline)?;
        self.inner.read(buffer)
    }
}

/// Fails after a deadline.
fn check(deadline: Instant) -> io::Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the image is too large to be read in time"))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::time::Duration;

    use super::*;

    fn layer(files: &[(&str, usize)]) -> File {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, size) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(*size as u64);
            archive.append_data(&mut header, path, io::repeat(7).take(*size as u64)).expect("appended");
        }
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&archive.into_inner().expect("an archive")).expect("written");
        file.rewind().expect("rewound");
        file
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn hidden_bytes_belong_to_the_layer_that_has_them() {
        let mut reporter = Reporter::new(soon());
        reporter
            .layer(layer(&[("./bin/a", 100), ("var/cache/apt/x", 50), ("opt/one/y", 30), ("opt/two", 8)]))
            .expect("read");
        reporter.layer(layer(&[("bin/a", 120), ("var/cache/.wh.apt", 0), ("usr/share/doc/z", 5)])).expect("read");
        reporter.layer(layer(&[("opt/.wh..wh..opq", 0), ("opt/three", 9)])).expect("read");
        let report = reporter.finish();
        let told = |layer: &LayerReport| (layer.size, layer.files, layer.hidden);
        assert_eq!(report.layers.iter().map(told).collect::<Vec<_>>(), [(188, 4, 188), (125, 2, 0), (9, 1, 0)]);
        assert_eq!(report.surplus, BTreeMap::from([(Surplus::Documentation, 5)]));
        let largest: Vec<_> = report.largest.iter().map(|file| (file.path.as_str(), file.layer)).collect();
        assert_eq!(largest, [("/bin/a", 1), ("/opt/three", 2), ("/usr/share/doc/z", 1)]);
    }

    #[test]
    fn damage_and_a_deadline_end_a_report() {
        let mut reporter = Reporter::new(soon());
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[0x1f, 0x8b, 7, 7, 7]).expect("written");
        file.rewind().expect("rewound");
        assert!(reporter.layer(file).is_err());
        let late = Reporter::new(Instant::now()).layer(layer(&[("a", 1)])).expect_err("too late");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn classifies_files_that_no_program_needs() {
        for (path, kind) in [
            ("var/lib/apt/lists/x", Some(Surplus::PackageCache)),
            ("usr/share/man/man1/x", Some(Surplus::Documentation)),
            ("usr/lib/x86_64-linux-gnu/libc.a", Some(Surplus::Compilers)),
            ("app/__pycache__/x.pyc", Some(Surplus::Caches)),
            ("app/.git/objects/x", Some(Surplus::Repositories)),
            ("app/main.py", None),
        ] {
            assert_eq!(surplus_kind(path), kind, "{path}");
        }
    }
}
