//! Writes layers.

use std::io::{self, Read, Seek, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use gantry_blobs::DigestHasher;
use gantry_model::Digest;
use tar::{EntryType, Header};

use crate::manifest::{Descriptor, LAYER_GZIP};

/// A finished layer in a temporary file.
pub struct Layer {
    /// The file, positioned at its beginning. The operating system deletes the file when it is closed.
    pub file: std::fs::File,
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Digest of the tar stream.
    pub diff_id: Digest,
    /// Size of the compressed bytes.
    pub size: u64,
}

impl Layer {
    /// Returns the layer's descriptor for a manifest.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor { media_type: LAYER_GZIP.to_owned(), digest: self.digest.clone(), size: self.size, platform: None }
    }
}

/// Metadata of a file, folder or link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// User id of the owner.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Modification time in Unix seconds.
    pub mtime: u64,
}

/// A writer that hashes and counts the bytes written.
struct Hashing<W> {
    inner: W,
    hasher: DigestHasher,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: DigestHasher::default(), size: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

type Compressed = GzEncoder<Hashing<io::BufWriter<std::fs::File>>>;

/// Writes a layer as a compressed tar stream into a temporary file, and computes both digests. The output contains
/// nothing of the machine or the current time. The same entries in the same order therefore give the same digest.
pub struct LayerWriter {
    tar: tar::Builder<Hashing<Compressed>>,
}

impl LayerWriter {
    /// Begins a layer, with its temporary file in `scratch`.
    ///
    /// # Errors
    /// When the temporary file cannot be created.
    pub fn new(scratch: &Path) -> io::Result<Self> {
        let mut tar = tar::Builder::new(sink(scratch)?);
        tar.mode(tar::HeaderMode::Deterministic);
        Ok(Self { tar })
    }

    /// Turns a tar archive into a layer without changes.
    ///
    /// # Errors
    /// When the archive cannot be read, or the temporary file cannot be written.
    pub fn from_tar(mut archive: impl Read, scratch: &Path) -> io::Result<Layer> {
        let mut sink = sink(scratch)?;
        io::copy(&mut archive, &mut sink)?;
        finish(sink)
    }

    fn header(kind: EntryType, meta: Meta, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.mode & 0o7777);
        header.set_uid(u64::from(meta.uid));
        header.set_gid(u64::from(meta.gid));
        header.set_mtime(meta.mtime);
        header.set_size(size);
        header
    }

    /// Writes extended attributes for the entry that follows.
    ///
    /// # Errors
    /// When the temporary file cannot be written. All later calls then fail too.
    pub fn xattrs(&mut self, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
        if xattrs.is_empty() {
            return Ok(());
        }
        let records: Vec<(String, &[u8])> =
            xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice())).collect();
        self.tar.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    /// Writes a folder.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn folder(&mut self, path: &Path, meta: Meta) -> io::Result<()> {
        let mut header = Self::header(EntryType::Directory, meta, 0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// Writes a file of `size` bytes.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`], and when `content` is shorter than `size`.
    pub fn file(&mut self, path: &Path, meta: Meta, size: u64, content: impl Read) -> io::Result<()> {
        let mut header = Self::header(EntryType::Regular, meta, size);
        let mut content = content.take(size);
        self.tar.append_data(&mut header, path, &mut content)?;
        if content.limit() == 0 {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} shrank while it was read", path.display())))
    }

    /// Writes a symbolic link.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn symlink(&mut self, path: &Path, meta: Meta, target: &Path) -> io::Result<()> {
        let mut header = Self::header(EntryType::Symlink, meta, 0);
        self.tar.append_link(&mut header, path, target)
    }

    /// Writes a hard link to the file `target`, an earlier entry.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn hard_link(&mut self, path: &Path, meta: Meta, target: &Path) -> io::Result<()> {
        let mut header = Self::header(EntryType::Link, meta, 0);
        self.tar.append_link(&mut header, path, target)
    }

    /// Writes a named pipe.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn fifo(&mut self, path: &Path, meta: Meta) -> io::Result<()> {
        let mut header = Self::header(EntryType::Fifo, meta, 0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// Finishes the layer.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn finish(self) -> io::Result<Layer> {
        finish(self.tar.into_inner()?)
    }
}

fn sink(scratch: &Path) -> io::Result<Hashing<Compressed>> {
    let file = tempfile::tempfile_in(scratch)?;
    // Level 1, the fastest: a layer is written about as often as read, and mostly read on the machine that wrote it.
    Ok(Hashing::new(GzEncoder::new(Hashing::new(io::BufWriter::new(file)), Compression::fast())))
}

fn finish(plain: Hashing<Compressed>) -> io::Result<Layer> {
    let diff_id = plain.hasher.finish();
    let compressed = plain.inner.finish()?;
    let (digest, size) = (compressed.hasher.finish(), compressed.size);
    let mut file = compressed.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(Layer { file, digest, diff_id, size })
}
