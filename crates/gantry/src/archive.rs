//! The archive of a backup: a tar file whose last member, [`SUMS`], has the digest of every file before it.
//!
//! A line of the digests is `<digest> <path>`. The word `unreadable` stands in place of the digest of a file that could
//! not be read, and of a volume that is incomplete. The digests are collected in a file, because a volume may have
//! millions of files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use gantry_agent::StoredVolume;
use gantry_blobs::DigestHasher;
use gantry_image::{Archived, VolumeWriter};
use gantry_linux::walk;
use gantry_model::Digest;
use rustix::fs::OFlags;

use crate::damage::{Damage, Fault, digest_of_name};
use crate::new_file::create_private;

/// Name of the file with the digest of every other file; detects truncated and changed backups.
pub(crate) const SUMS: &str = "sums";

/// Stands in place of the digest of a file or a volume that could not be read.
const UNREADABLE: &str = "unreadable";

/// Maximum number of unreadable files of a volume that are named. A volume with more counts as incomplete.
const UNREADABLE_MAX: usize = 100;

/// A file being written. A write that failed stays known: `tar` cannot go on after a member that was cut.
struct Output {
    file: BufWriter<File>,
    failed: bool,
}

impl Output {
    /// Creates a file that only root may read.
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(create_private(path)?), failed: false })
    }

    fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).inspect_err(|error| self.failed |= error.kind() != io::ErrorKind::Interrupted)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().inspect_err(|error| self.failed |= error.kind() != io::ErrorKind::Interrupted)
    }
}

/// A backup archive being written, with the digests of its files.
pub(crate) struct Archive {
    tar: tar::Builder<Output>,
    sums: Output,
    damaged: Vec<Damage>,
}

impl Archive {
    /// Creates the archive. The file of the digests has no name: nothing of it stays after a kill.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".sums");
        let sums = Output::create(Path::new(&beside))?;
        std::fs::remove_file(&beside)?;
        Ok(Self { tar: tar::Builder::new(Output::create(path)?), sums, damaged: Vec::new() })
    }

    /// Adds a file with this content.
    pub(crate) fn add_bytes(&mut self, name: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        let digest = self.add(header_of(bytes.len() as u64), name, bytes)?;
        Ok(writeln!(self.sums, "{digest} {}", escaped(name))?)
    }

    fn add(&mut self, mut header: tar::Header, name: &Path, bytes: impl Read) -> io::Result<Digest> {
        let mut hashed = Hashed { bytes, hasher: DigestHasher::default() };
        self.tar.append_data(&mut header, name, &mut hashed)?;
        Ok(hashed.hasher.finish())
    }

    /// Adds a file with its size at this moment. A log may grow or shrink during the read: further bytes are left out,
    /// missing bytes become zeros. A file that is gone was temporary or garbage-collected, and no record references
    /// such a file.
    pub(crate) fn add_file(&mut self, name: &Path, path: &Path) -> anyhow::Result<()> {
        // A pipe must not block, and a link leads elsewhere.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match File::options().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&file.metadata()?);
        let size = header.size()?;
        let mut file = LenientReader { file, error: None };
        let digest = self.add(header, name, (&mut file).chain(io::repeat(0)).take(size))?;
        let changed = digest_of_name(name).is_some_and(|promised| promised != digest.hex()).then_some(Fault::Changed);
        let unreadable = file.error.map(|error| Fault::Unreadable(error.to_string()));
        match &unreadable {
            Some(_) => writeln!(self.sums, "{UNREADABLE} {}", escaped(name))?,
            None => writeln!(self.sums, "{digest} {}", escaped(name))?,
        }
        let damage = |fault| Damage { file: name.display().to_string(), fault, needed_by: Vec::new() };
        self.damaged.extend(unreadable.or(changed).map(damage));
        Ok(())
    }

    /// Adds a folder with everything below, without unfinished uploads and pushes, and without the lists of parts that the
    /// server makes from blobs.
    pub(crate) fn add_folder(&mut self, folder: &Path, name: &Path) -> anyhow::Result<()> {
        let mut folders = vec![(folder.to_owned(), name.to_owned())];
        while let Some((folder, name)) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            self.tar.append_dir(&name, &folder)?;
            for entry in entries.flatten() {
                let (path, name) = (entry.path(), name.join(entry.file_name()));
                let Ok(kind) = entry.file_type() else { continue };
                let is_left_out =
                    is_on_its_way(&entry.file_name().to_string_lossy()) || name == Path::new("blobs/parts");
                if kind.is_dir() && !is_left_out {
                    folders.push((path, name));
                } else if kind.is_file() {
                    self.add_file(&name, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a volume; returns what was written, or `None` if the volume is gone. The agent does not replace or remove
    /// the volume meanwhile. A container may change the volume at any time.
    pub(crate) fn add_volume(&mut self, data: &Path, volume: &StoredVolume) -> anyhow::Result<Option<Archived>> {
        let name = volume.path();
        let kept = gantry_agent::keep_volumes(data, &volume.app);
        let top = match kept.and_then(|kept| Ok((kept, walk::top(&data.join(&name))?))) {
            Ok((_kept, top)) => top,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                self.incomplete(&name, &error)?;
                return Ok(Some(Archived::default()));
            }
        };
        let Self { tar, sums, damaged } = self;
        let mut writer = VolumeWriter::new(tar, &name);
        let mut unreadable = 0;
        let walked = walk::walk(&top, &mut |node| match writer.node(node)? {
            Some((path, Ok(digest))) => writeln!(sums, "{digest} {}", escaped(&path)),
            Some((_, Err(_))) if unreadable == UNREADABLE_MAX => {
                Err(io::Error::other(format!("more than {UNREADABLE_MAX} files cannot be read")))
            }
            Some((path, Err(error))) => {
                unreadable += 1;
                let fault = Fault::Unreadable(error.to_string());
                damaged.push(Damage { file: escaped(&path), fault, needed_by: Vec::new() });
                writeln!(sums, "{UNREADABLE} {}", escaped(&path))
            }
            None => Ok(()),
        });
        let archived = writer.archived;
        match walked {
            Err(error) if self.tar.get_ref().failed || self.sums.failed => Err(error.into()),
            Err(error) => {
                self.incomplete(&name, &error)?;
                Ok(Some(archived))
            }
            Ok(()) => Ok(Some(archived)),
        }
    }

    /// Notes that a volume is not, or not whole, in the archive.
    fn incomplete(&mut self, name: &Path, error: &io::Error) -> anyhow::Result<()> {
        let fault = Fault::Unreadable(error.to_string());
        self.damaged.push(Damage { file: name.display().to_string(), fault, needed_by: Vec::new() });
        Ok(writeln!(self.sums, "{UNREADABLE} {}", escaped(name))?)
    }

    /// Completes the archive, and returns the damage that was found. The digests come last, so that a truncated archive
    /// has none.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<Damage>> {
        let Self { mut tar, sums, damaged } = self;
        let mut sums = sums.finish()?;
        let size = sums.stream_position()?;
        sums.rewind()?;
        tar.append_data(&mut header_of(size), SUMS, sums.take(size))?;
        tar.into_inner()?.finish()?.sync_all()?;
        Ok(damaged)
    }
}

/// A line of the digests of a backup.
pub(crate) struct BackupDigest {
    /// The digest; `None` if the file could not be read.
    pub(crate) digest: Option<Digest>,
    /// Path of the file in the archive.
    pub(crate) path: PathBuf,
}

/// Reads the digests of an unpacked backup, line by line.
pub(crate) fn read_sums(folder: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<BackupDigest>>> {
    let file = File::open(folder.join(SUMS)).context("it was cut off: the digests at its end are missing")?;
    Ok(BufReader::new(file).lines().map(|line| {
        let line = line?;
        let (digest, path) = line.split_once(' ').with_context(|| format!("its digests have the line {line:?}"))?;
        let digest = match digest {
            UNREADABLE => None,
            text => match text.parse() {
                Ok(digest) => Some(digest),
                Err(_) => bail!("its digests have the line {line:?}"),
            },
        };
        Ok(BackupDigest { digest, path: unescaped(path) })
    }))
}

/// A path on one line. Bytes that are no text, control characters and backslashes become `\xNN`.
pub(crate) fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() || letter == '\\' {
                let mut bytes = [0; 4];
                text.extend(letter.encode_utf8(&mut bytes).bytes().map(|byte| format!("\\x{byte:02x}")));
            } else {
                text.push(letter);
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// The path of a line.
pub(crate) fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once("\\x") {
        bytes.extend_from_slice(plain.as_bytes());
        let byte = escape.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &escape[2..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = escape;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// A file reader that treats a read error as the end of the file: a backup without one file is worth more than no
/// backup.
struct LenientReader {
    file: File,
    error: Option<io::Error>,
}

impl Read for LenientReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.error = Some(error);
                Ok(0)
            }
            result => result,
        }
    }
}

/// A reader that hashes the bytes passing through.
struct Hashed<R> {
    bytes: R,
    hasher: DigestHasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

fn header_of(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header
}

/// Reports whether a folder belongs to an unfinished upload or push.
fn is_on_its_way(folder: &str) -> bool {
    folder == "uploads" || folder.starts_with("tmp_objdir-")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn every_path_is_one_line_and_comes_back() {
        for (bytes, expected) in [
            (&b"volumes/db/data/base/1"[..], "volumes/db/data/base/1"),
            ("git/shop.git/refs/heads/größe".as_bytes(), "git/shop.git/refs/heads/größe"),
            (b"a b\nc", "a b\\x0ac"),
            (b"a\\x41", "a\\x5cx41"),
            (b"\xff\xc3", "\\xff\\xc3"),
        ] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(escaped(path), expected);
            assert_eq!(unescaped(expected), path, "{expected}");
        }
        // A line of an earlier version may have a backslash.
        assert_eq!(unescaped("odd\\xzz\\y"), Path::new("odd\\xzz\\y"));
    }

    #[test]
    fn an_archive_lists_the_digest_of_every_file_of_a_volume() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let inner = data.join("volumes/db/data/deep");
        std::fs::create_dir_all(&inner).expect("made");
        std::fs::write(inner.join("one\nline"), "content").expect("written");
        std::fs::write(inner.join(".wh.plain"), "").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", inner.join("link")).expect("linked");
        let volumes = gantry_agent::stored_volumes(&data);
        let path = folder.path().join("backup.tar");
        let mut archive = Archive::create(&path).expect("made");
        let archived = archive.add_volume(&data, &volumes[0]).expect("written").expect("there");
        assert_eq!(archived.entries, 5);
        let gone = StoredVolume { name: "gone".parse().expect("a name"), ..volumes[0].clone() };
        assert_eq!(archive.add_volume(&data, &gone).expect("passed over"), None);
        assert_eq!(archive.finish().expect("finished"), []);
        let into = folder.path().join("into");
        std::fs::create_dir(&into).expect("made");
        let file = File::open(&path).expect("there");
        gantry_image::unpack_volume(file, &into, gantry_image::Bounds::default()).expect("unpacked");
        for sum in read_sums(&into).expect("digests") {
            let sum = sum.expect("a line");
            let content = std::fs::read(into.join(&sum.path)).expect("there");
            assert_eq!(sum.digest, Some(DigestHasher::of(&content)), "{}", sum.path.display());
        }
        assert_eq!(read_sums(&into).expect("digests").count(), 2);
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 3, "a file of the digests stayed");
    }

    #[test]
    fn a_volume_that_cannot_be_read_is_named_and_marked() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        // Deeper than a walk goes.
        let deep: PathBuf = (0..300).map(|_| "d").collect();
        std::fs::create_dir_all(data.join("volumes/db/data").join(deep)).expect("made");
        let path = folder.path().join("backup.tar");
        let mut archive = Archive::create(&path).expect("made");
        archive.add_volume(&data, &gantry_agent::stored_volumes(&data)[0]).expect("written");
        archive.add_bytes(Path::new("after"), b"after").expect("written");
        let damaged = archive.finish().expect("finished");
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].to_string().starts_with("volumes/db/data cannot be read: d/d/"), "{}", damaged[0]);
        let into = folder.path().join("into");
        std::fs::create_dir(&into).expect("made");
        let file = File::open(&path).expect("there");
        gantry_image::unpack_volume(file, &into, gantry_image::Bounds::default()).expect("unpacked");
        let sums: Vec<BackupDigest> = read_sums(&into).expect("digests").map(|sum| sum.expect("a line")).collect();
        assert!(sums[0].digest.is_none() && sums[0].path == Path::new("volumes/db/data"));
        assert!(sums[1].digest.is_some() && into.join("after").exists());
    }
}
