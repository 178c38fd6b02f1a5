//! Layers in the making.

use std::io::{self, Read, Seek, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use gantry_blobs::Hasher;
use gantry_model::Digest;
use tar::{EntryType, Header};

use crate::manifest::{Descriptor, LAYER_GZIP};

/// A finished layer in a temporary file.
pub struct Layer {
    /// The file, at its beginning; gone when it is dropped.
    pub file: std::fs::File,
    /// Of the compressed bytes.
    pub digest: Digest,
    /// Of the tar stream.
    pub diff_id: Digest,
    /// Compressed.
    pub size: u64,
}

impl Layer {
    /// As a manifest names it.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor { media_type: LAYER_GZIP.to_owned(), digest: self.digest.clone(), size: self.size, platform: None }
    }
}

/// What a file, folder or link is, apart from its name and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Unix seconds.
    pub mtime: u64,
}

/// Hashes what passes through.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default(), size: 0 }
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

/// Writes a layer: tar, compressed, both hashed, into a temporary file. Nothing of the machine or of the time goes into
/// it, so the same entries in the same order give the same digest.
pub struct LayerWriter {
    tar: tar::Builder<Hashing<Compressed>>,
}

impl LayerWriter {
    /// Begins a layer, with its temporary file in `scratch`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(scratch: &Path) -> io::Result<Self> {
        let mut tar = tar::Builder::new(sink(scratch)?);
        tar.mode(tar::HeaderMode::Deterministic);
        Ok(Self { tar })
    }

    /// An archive as it is, as a layer.
    ///
    /// # Errors
    /// When it cannot be read or the temporary file not be written.
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

    /// Extended attributes of the entry that follows.
    ///
    /// # Errors
    /// When the temporary file cannot be written; so do all that follow.
    pub fn xattrs(&mut self, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
        if xattrs.is_empty() {
            return Ok(());
        }
        let records: Vec<(String, &[u8])> =
            xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice())).collect();
        self.tar.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    /// A folder.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn folder(&mut self, path: &Path, meta: Meta) -> io::Result<()> {
        let mut header = Self::header(EntryType::Directory, meta, 0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// A file of `size` bytes.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`], and when `content` has another size.
    pub fn file(&mut self, path: &Path, meta: Meta, size: u64, content: impl Read) -> io::Result<()> {
        let mut header = Self::header(EntryType::Regular, meta, size);
        let mut content = content.take(size);
        self.tar.append_data(&mut header, path, &mut content)?;
        if content.limit() == 0 {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} shrank while it was read", path.display())))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn symlink(&mut self, path: &Path, meta: Meta, target: &Path) -> io::Result<()> {
        let mut header = Self::header(EntryType::Symlink, meta, 0);
        self.tar.append_link(&mut header, path, target)
    }

    /// Another name for the file `target`, which came before.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn hard_link(&mut self, path: &Path, meta: Meta, target: &Path) -> io::Result<()> {
        let mut header = Self::header(EntryType::Link, meta, 0);
        self.tar.append_link(&mut header, path, target)
    }

    /// A named pipe.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn fifo(&mut self, path: &Path, meta: Meta) -> io::Result<()> {
        let mut header = Self::header(EntryType::Fifo, meta, 0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// Ends the layer.
    ///
    /// # Errors
    /// As [`LayerWriter::xattrs`].
    pub fn finish(self) -> io::Result<Layer> {
        finish(self.tar.into_inner()?)
    }
}

fn sink(scratch: &Path) -> io::Result<Hashing<Compressed>> {
    let file = tempfile::tempfile_in(scratch)?;
    // Level 1: a layer is read as often as it is written, and mostly on the machine that wrote it.
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
