//! Uploaded code: an archive of a folder becomes one layer, without a build.
//!
//! ```text
//! zip, tar or tar.gz ─► entries (checked, bounded) ─► layer: /app, in the order of names, owned by `app`
//! ```
//! The archive is foreign: each name, kind and size is checked before a byte of it reaches the layer. The layer has
//! neither the archive's times nor its owners, so that the same files give the same layer, whatever archive had them.
//!
//! The files pass through one temporary file. No file is created under a name that the archive chose.

mod command;
mod entries;
mod tarball;
#[cfg(test)]
mod tests;
mod zip;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use gantry_image::Layer;

pub use command::{TopFile, command_of_file, default_command, words_of};
use entries::Entries;

/// Largest upload, in bytes.
pub const UPLOAD_MAX: u64 = 256 << 20;

/// Limit on all files of a code together, in bytes.
pub const UNPACKED_MAX: u64 = 1 << 30;

/// Limit on the files, folders and links of a code.
pub const ENTRIES_MAX: usize = 50_000;

/// Limit on the bytes of a decompressed tar stream: files and headers.
const STREAM_MAX: u64 = UNPACKED_MAX + (256 << 20);

/// Reason why an archive is no code.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The bytes are no archive of a known kind.
    #[error("the upload is not a zip, tar or tar.gz archive; pack the folder with `tar -czf code.tgz -C FOLDER .`")]
    NotAnArchive,
    /// The archive has no file.
    #[error("the archive has no file; put the program at the top of the folder, and upload it again")]
    Empty,
    /// The archive is cut off or damaged.
    #[error("the archive cannot be read: {0}; pack the folder again, or upload the folder itself")]
    Damaged(String),
    /// The archive uses a feature that is not supported.
    #[error("{path:?} {why}; leave the entry out, or pack the folder again")]
    Unsupported {
        /// Name of the entry.
        path: String,
        /// The feature.
        why: &'static str,
    },
    /// A name leads out of the folder, or cannot be a name.
    #[error(
        "{path:?} cannot be the name of a file: {why}; rename it, or pack the folder with `tar -czf code.tgz -C FOLDER .`"
    )]
    Name {
        /// The name.
        path: String,
        /// The violated rule.
        why: &'static str,
    },
    /// Two entries claim one name.
    #[error("the archive has {0:?} twice; remove one of the two, or pack the folder into a new archive")]
    Twice(String),
    /// An entry is below a file or a link.
    #[error(
        "{path:?} is below {parent:?}, which is not a folder; leave out the link or the file that stands in its way"
    )]
    Below {
        /// Name of the entry.
        path: String,
        /// The file or link.
        parent: String,
    },
    /// The files are too large together.
    #[error(
        "the files have more than {} MiB together; leave out what the program does not read, or build an image and run `gantry deploy APP --image REF`",
        UNPACKED_MAX >> 20
    )]
    TooLarge,
    /// There are too many files.
    #[error(
        "the archive has more than {ENTRIES_MAX} files, folders and links; leave out what the program does not read"
    )]
    TooMany,
    /// A temporary file cannot be written.
    #[error("cannot write a temporary file: {0}")]
    Disk(#[source] io::Error),
}

/// The layer of a code.
pub struct CodeLayer {
    /// The layer.
    pub layer: Layer,
    /// Number of files.
    pub files: u64,
    /// Size of all files in bytes.
    pub size: u64,
    /// The files beside each other at the top, in the order of names.
    pub top: Vec<TopFile>,
}

/// Makes the layer of an uploaded archive. Blocks. `room` is asked before bytes are written to the disk, and may refuse.
/// `scratch` is a folder for temporary files.
///
/// # Errors
/// [`CodeError`].
pub fn layer(
    archive: File,
    scratch: &Path,
    room: &mut dyn FnMut(usize) -> io::Result<()>,
) -> Result<CodeLayer, CodeError> {
    layer_within(archive, scratch, room, UNPACKED_MAX)
}

/// [`layer`] with another limit on the size of all files.
fn layer_within(
    mut archive: File,
    scratch: &Path,
    room: &mut dyn FnMut(usize) -> io::Result<()>,
    most: u64,
) -> Result<CodeLayer, CodeError> {
    let mut start = [0; 262];
    let known = read_start(&mut archive, &mut start).map_err(CodeError::Disk)?;
    let mut entries = Entries::new(scratch, room, most)?;
    if known >= 4 && start.starts_with(b"PK") {
        zip::read(&mut archive, &mut entries)?;
    } else if start.starts_with(&[0x1f, 0x8b]) {
        tarball::read(MultiGzDecoder::new(BufReader::new(archive)).take(STREAM_MAX), &mut entries)?;
    } else if known == start.len() && &start[257..] == b"ustar" {
        tarball::read(BufReader::new(archive).take(STREAM_MAX), &mut entries)?;
    } else {
        return Err(CodeError::NotAnArchive);
    }
    entries.finish()
}

/// Reads the first bytes of a file, and goes back to its beginning. Returns their number.
fn read_start(file: &mut File, start: &mut [u8]) -> io::Result<usize> {
    file.rewind()?;
    let mut known = 0;
    while known < start.len() {
        match file.read(&mut start[known..])? {
            0 => break,
            count => known += count,
        }
    }
    file.rewind()?;
    Ok(known)
}

/// Formats a foreign name for a message.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

/// Describes a damaged archive.
fn damaged(why: impl ToString) -> CodeError {
    CodeError::Damaged(why.to_string())
}
