//! Writes a volume as a tar stream: owners as the container sees them, modes, times, extended attributes, links, and
//! sparse files without their holes. GNU tar, bsdtar and [`unpack_volume`](crate::unpack_volume) read the stream.
//!
//! A container may write to the volume meanwhile. A file that shrinks is filled up with zeros, and a file that grows is
//! cut, so that the stream stays well-formed. The result counts such files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use gantry_blobs::DigestHasher;
use gantry_linux::walk::{self, Node};
use gantry_model::Digest;
use rustix::fs::{FileType, Stat};
use tar::{Builder, EntryType, Header};

use crate::tree::volume_may_carry;
use crate::unpack::{BASE64, Bounds, LIBARCHIVE, SCHILY};

/// Size of a block of a tar stream.
const BLOCK: usize = 512;

/// Level of the compression: zstd's default.
const LEVEL: i32 = 3;

/// A finished archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Archived {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of all files together, without holes.
    pub bytes: u64,
    /// Files that changed while they were read.
    pub changed: u64,
}

/// Writes the folder `top` as a tar stream, compressed with zstd if `compress` is set.
///
/// # Errors
/// The first error of the folder or of `out`, with the path.
pub fn export(top: &OwnedFd, out: impl Write, compress: bool) -> io::Result<Archived> {
    let write = |out: &mut dyn Write| -> io::Result<Archived> {
        let mut tar = Builder::new(out);
        let mut writer = VolumeWriter::new(&mut tar, Path::new(""));
        walk::walk(top, &mut |node| match writer.node(node)? {
            Some((_, Err(error))) => Err(error),
            _ => Ok(()),
        })?;
        let archived = writer.archived;
        tar.finish()?;
        Ok(archived)
    };
    let mut out = io::BufWriter::with_capacity(64 << 10, out);
    let archived = if compress {
        let mut encoder = zstd::Encoder::new(&mut out, LEVEL)?;
        let archived = write(&mut encoder)?;
        encoder.finish()?;
        archived
    } else {
        write(&mut out)?
    };
    out.flush()?;
    Ok(archived)
}

/// Writes the nodes of a walk through a volume into a tar stream.
pub struct VolumeWriter<'a, W: Write> {
    tar: &'a mut Builder<W>,
    prefix: &'a Path,
    /// First path of each file that has several hard links.
    links: HashMap<(u64, u64), PathBuf>,
    /// The entries written so far.
    pub archived: Archived,
}

impl<'a, W: Write> VolumeWriter<'a, W> {
    /// Writes into `tar`, with all paths below `prefix`.
    pub fn new(tar: &'a mut Builder<W>, prefix: &'a Path) -> Self {
        Self { tar, prefix, links: HashMap::new(), archived: Archived::default() }
    }

    /// Writes a node. Returns the path and the digest of a regular file that is no further hard link. A file that cannot
    /// be read to its end gets zeros in place of the rest, so that the stream stays well-formed, and has the error in
    /// place of the digest. Sockets and devices are left out: a socket is useless after its process ends, and a container
    /// cannot create device nodes.
    ///
    /// # Errors
    /// Any error of the node, before anything of the node is written; any error of the stream; too many entries.
    pub fn node(&mut self, node: &Node<'_>) -> io::Result<Option<(PathBuf, io::Result<Digest>)>> {
        if self.archived.entries == Bounds::default().entries {
            return Err(io::Error::other(format!("the volume has more than {} files", Bounds::default().entries)));
        }
        let path = match self.prefix.join(node.path) {
            root if root.as_os_str().is_empty() => PathBuf::from("./"),
            path => path,
        };
        self.archived.entries += 1;
        match node.kind() {
            FileType::Directory => {
                self.describe(&node.stat, walk::xattrs(node.open()?, volume_may_carry)?, Vec::new())?;
                self.empty(EntryType::Directory, &node.stat, &path, None)?;
            }
            FileType::RegularFile if node.stat.st_nlink > 1 => {
                let key = (node.stat.st_dev, node.stat.st_ino);
                if let Some(first) = self.links.get(&key).cloned() {
                    self.empty(EntryType::Link, &node.stat, &path, Some(first.as_os_str()))?;
                } else {
                    self.links.insert(key, path.clone());
                    return self.file(node, &path).map(|digest| Some((path, digest)));
                }
            }
            FileType::RegularFile => return self.file(node, &path).map(|digest| Some((path, digest))),
            FileType::Symlink => {
                let target = node.target()?;
                self.describe(&node.stat, Vec::new(), Vec::new())?;
                self.empty(EntryType::Symlink, &node.stat, &path, Some(target.as_os_str()))?;
            }
            FileType::Fifo => {
                self.describe(&node.stat, Vec::new(), Vec::new())?;
                self.empty(EntryType::Fifo, &node.stat, &path, None)?;
            }
            _ => self.archived.entries -= 1,
        }
        Ok(None)
    }

    /// Writes an entry without content.
    fn empty(&mut self, kind: EntryType, stat: &Stat, path: &Path, link: Option<&OsStr>) -> io::Result<()> {
        let mut header = header(kind, stat, 0);
        match link {
            // As text and not as a path: a path loses its doubled and trailing slashes.
            Some(target) if header.set_link_name_literal(target.as_bytes()).is_err() => {
                self.tar.append_link(&mut header, path, target)
            }
            _ => self.tar.append_data(&mut header, path, io::empty()),
        }
    }

    fn file(&mut self, node: &Node<'_>, path: &Path) -> io::Result<io::Result<Digest>> {
        let file = File::from(node.open()?);
        let before = file.metadata()?;
        let size = before.len();
        let xattrs = walk::xattrs(&file, volume_may_carry)?;
        let has_holes = before.blocks() * 512 < size && !path.as_os_str().as_bytes().contains(&b'\n');
        let pieces = if has_holes { walk::pieces(&file, size)? } else { vec![(0, size)] };
        let mut content = Content::new(&file, pieces.clone());
        if pieces == [(0, size)] {
            self.describe(&node.stat, xattrs, Vec::new())?;
            let mut header = header(EntryType::Regular, &node.stat, size);
            self.tar.append_data(&mut header, path, &mut content)?;
        } else {
            let map = map(&pieces, size);
            let stored = map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>();
            let sparse = vec![
                ("GNU.sparse.major".to_owned(), b"1".to_vec()),
                ("GNU.sparse.minor".to_owned(), b"0".to_vec()),
                ("GNU.sparse.name".to_owned(), path.as_os_str().as_bytes().to_vec()),
                ("GNU.sparse.realsize".to_owned(), size.to_string().into_bytes()),
            ];
            self.describe(&node.stat, xattrs, sparse)?;
            // GNU tar takes a sparse map of format 1.0 for one only after a header of POSIX's form.
            let mut header = filled(Header::new_ustar(), EntryType::Regular, &node.stat, stored);
            let name = Path::new("GNUSparseFile.0").join(self.archived.entries.to_string());
            self.tar.append_data(&mut header, name, map.as_slice().chain(&mut content))?;
        }
        let after = file.metadata()?;
        let same = (before.len(), before.mtime(), before.mtime_nsec(), before.ctime(), before.ctime_nsec())
            == (after.len(), after.mtime(), after.mtime_nsec(), after.ctime(), after.ctime_nsec());
        self.archived.changed += u64::from(!same);
        self.archived.bytes += content.bytes;
        Ok(match content.error.take() {
            Some(error) => Err(error),
            None => Ok(content.digest(size)),
        })
    }

    /// Writes an extended header for the next entry, if its metadata need one.
    fn describe(
        &mut self,
        stat: &Stat,
        xattrs: Vec<(String, Vec<u8>)>,
        mut records: Vec<(String, Vec<u8>)>,
    ) -> io::Result<()> {
        records.extend(time(stat).map(|time| ("mtime".to_owned(), time.into_bytes())));
        for (name, value) in xattrs {
            // Some readers, and ours among them, end a record at its first newline.
            if value.contains(&b'\n') {
                records.push((format!("{LIBARCHIVE}{name}"), BASE64.encode(value).into_bytes()));
            } else {
                records.push((format!("{SCHILY}{name}"), value));
            }
        }
        self.tar.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
    }
}

fn header(kind: EntryType, stat: &Stat, size: u64) -> Header {
    filled(Header::new_gnu(), kind, stat, size)
}

fn filled(mut header: Header, kind: EntryType, stat: &Stat, size: u64) -> Header {
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

/// Modification time for an extended header, if the plain header cannot hold the time.
fn time(stat: &Stat) -> Option<String> {
    const SECOND: i128 = 1_000_000_000;
    let nanos = i128::from(stat.st_mtime) * SECOND + i128::from(stat.st_mtime_nsec);
    if nanos >= 0 && nanos % SECOND == 0 {
        return None;
    }
    let sign = if nanos < 0 { "-" } else { "" };
    Some(format!("{sign}{}.{:09}", nanos.abs() / SECOND, nanos.abs() % SECOND))
}

/// The map of a sparse file, as GNU tar's format 1.0 puts it before the data. An empty last piece marks the size.
fn map(pieces: &[(u64, u64)], size: u64) -> Vec<u8> {
    let end = pieces.last().is_none_or(|(offset, length)| offset + length < size).then_some((size, 0));
    let all: Vec<(u64, u64)> = pieces.iter().copied().chain(end).collect();
    let mut text = format!("{}\n", all.len());
    for (offset, length) in all {
        text += &format!("{offset}\n{length}\n");
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// Reads the pieces of a file, and hashes the whole file with its holes. Gives exactly as many bytes as the pieces have:
/// zeros in place of bytes that are gone or cannot be read.
struct Content<'a> {
    file: &'a File,
    pieces: std::vec::IntoIter<(u64, u64)>,
    /// Start and length of the rest of the current piece.
    piece: (u64, u64),
    hasher: DigestHasher,
    /// Number of bytes hashed so far.
    hashed: u64,
    /// Number of bytes read so far.
    bytes: u64,
    /// The first error of the file.
    error: Option<io::Error>,
}

impl<'a> Content<'a> {
    fn new(file: &'a File, pieces: Vec<(u64, u64)>) -> Self {
        let hasher = DigestHasher::default();
        Self { file, pieces: pieces.into_iter(), piece: (0, 0), hasher, hashed: 0, bytes: 0, error: None }
    }

    fn hash_hole(&mut self, until: u64) {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while self.hashed < until {
            let count = usize::try_from(until - self.hashed).unwrap_or(usize::MAX).min(ZEROS.len());
            self.hasher.update(&ZEROS[..count]);
            self.hashed += count as u64;
        }
    }

    /// Digest of the file, which has `size` bytes.
    fn digest(mut self, size: u64) -> Digest {
        self.hash_hole(size);
        self.hasher.finish()
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.1 == 0 {
            let Some(piece) = self.pieces.next() else { return Ok(0) };
            self.piece = piece;
            self.hash_hole(piece.0);
        }
        let (at, left) = self.piece;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match self.file.read_at(&mut buffer[..most], at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Ok(count) if count > 0 => count,
            rest => {
                self.error = self.error.take().or(rest.err());
                buffer[..most].fill(0);
                most
            }
        };
        self.hasher.update(&buffer[..count]);
        self.hashed += count as u64;
        self.bytes += count as u64;
        self.piece = (at + count as u64, left - count as u64);
        Ok(count)
    }
}
