//! The entries of an archive, checked and collected, and the layer that results.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use gantry_image::{APP_USER, LayerWriter, Meta};

use super::{CodeError, CodeLayer, ENTRIES_MAX, TopFile, damaged, shown};
use crate::times::EARLIEST;

/// Folder of the code in the image.
const APP: &str = "app";

/// Longest name of an entry, in bytes.
const NAME_MAX: usize = 1024;

/// Longest name of one file or folder, as on Linux.
const PART_MAX: usize = 255;

/// Longest target of a symbolic link, in bytes.
pub(super) const TARGET_MAX: u64 = 1024;

/// Bytes that are copied at a time.
const PIECE: usize = 64 << 10;

/// An entry of a code.
enum CodeEntry {
    Folder,
    /// Content in the temporary file.
    File {
        offset: u64,
        size: u64,
        executable: bool,
    },
    Link {
        target: String,
    },
}

/// The entries read so far.
pub(super) struct Entries<'a> {
    by_name: BTreeMap<String, CodeEntry>,
    /// Contents of all files, one after the other.
    contents: File,
    written: u64,
    /// Size of all files; a file with two names counts twice.
    size: u64,
    /// Limit on the size of all files.
    most: u64,
    scratch: &'a Path,
    room: &'a mut dyn FnMut(usize) -> io::Result<()>,
}

impl<'a> Entries<'a> {
    pub(super) fn new(
        scratch: &'a Path,
        room: &'a mut dyn FnMut(usize) -> io::Result<()>,
        most: u64,
    ) -> Result<Self, CodeError> {
        let contents = tempfile::tempfile_in(scratch).map_err(CodeError::Disk)?;
        Ok(Self { by_name: BTreeMap::new(), contents, written: 0, size: 0, most, scratch, room })
    }

    /// Adds a folder.
    pub(super) fn folder(&mut self, name: &[u8]) -> Result<(), CodeError> {
        let Some(name) = clean(name)? else { return Ok(()) };
        self.parents(&name)?;
        match self.by_name.get(&name) {
            Some(CodeEntry::Folder) => Ok(()),
            Some(_) => Err(CodeError::Twice(name)),
            None => self.insert(name, CodeEntry::Folder),
        }
    }

    /// Adds a file. Returns the number of bytes read.
    pub(super) fn file(&mut self, name: &[u8], executable: bool, content: &mut dyn Read) -> Result<u64, CodeError> {
        let name = self.new_name(name)?;
        let offset = self.written;
        self.copy(content)?;
        let size = self.written - offset;
        self.insert(name, CodeEntry::File { offset, size, executable })?;
        Ok(size)
    }

    /// Adds a symbolic link. Only the program in the container follows it.
    pub(super) fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), CodeError> {
        let name = self.new_name(name)?;
        let wrong = |why| CodeError::Unsupported { path: name.clone(), why };
        if target.is_empty() || target.len() as u64 > TARGET_MAX || target.contains(&0) {
            return Err(wrong("is a link without a usable target"));
        }
        let target = std::str::from_utf8(target).map_err(|_| wrong("is a link whose target is not UTF-8"))?.to_owned();
        self.insert(name, CodeEntry::Link { target })
    }

    /// Adds a second name of an earlier file.
    pub(super) fn same_file(&mut self, name: &[u8], earlier: &[u8]) -> Result<(), CodeError> {
        let name = self.new_name(name)?;
        let missing = || CodeError::Unsupported { path: name.clone(), why: "is a hard link to no earlier file" };
        let earlier = clean(earlier)?.ok_or_else(missing)?;
        let Some(CodeEntry::File { offset, size, executable }) = self.by_name.get(&earlier) else {
            return Err(missing());
        };
        let (offset, size, executable) = (*offset, *size, *executable);
        self.count(size)?;
        self.insert(name, CodeEntry::File { offset, size, executable })
    }

    /// Checks the name of a file or link, and adds its folders.
    fn new_name(&mut self, name: &[u8]) -> Result<String, CodeError> {
        let no_name = || CodeError::Name { path: shown(name), why: "it names the folder itself" };
        let name = clean(name)?.ok_or_else(no_name)?;
        self.parents(&name)?;
        if self.by_name.contains_key(&name) { Err(CodeError::Twice(name)) } else { Ok(name) }
    }

    /// Adds the folders of an entry.
    fn parents(&mut self, name: &str) -> Result<(), CodeError> {
        for (end, _) in name.match_indices('/') {
            let parent = &name[..end];
            match self.by_name.get(parent) {
                Some(CodeEntry::Folder) => {}
                Some(_) => {
                    return Err(CodeError::Below { path: name.to_owned(), parent: parent.to_owned() });
                }
                None => self.insert(parent.to_owned(), CodeEntry::Folder)?,
            }
        }
        Ok(())
    }

    fn insert(&mut self, name: String, entry: CodeEntry) -> Result<(), CodeError> {
        if self.by_name.len() >= ENTRIES_MAX {
            return Err(CodeError::TooMany);
        }
        self.by_name.insert(name, entry);
        Ok(())
    }

    fn copy(&mut self, content: &mut dyn Read) -> Result<(), CodeError> {
        let mut piece = vec![0; PIECE];
        loop {
            let count = match content.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(error)),
            };
            self.count(count as u64)?;
            (self.room)(count).map_err(CodeError::Disk)?;
            self.contents.write_all(&piece[..count]).map_err(CodeError::Disk)?;
            self.written += count as u64;
        }
    }

    fn count(&mut self, more: u64) -> Result<(), CodeError> {
        self.size = self.size.saturating_add(more);
        if self.size > self.most { Err(CodeError::TooLarge) } else { Ok(()) }
    }

    /// Writes the layer.
    pub(super) fn finish(mut self) -> Result<CodeLayer, CodeError> {
        let files = self.by_name.values().filter(|entry| matches!(entry, CodeEntry::File { .. })).count() as u64;
        if files == 0 {
            return Err(CodeError::Empty);
        }
        let layer = self.write().map_err(CodeError::Disk)?;
        let top = self.by_name.iter().filter_map(|(name, entry)| match entry {
            CodeEntry::File { executable, .. } if !name.contains('/') => {
                Some(TopFile { name: name.clone(), executable: *executable })
            }
            _ => None,
        });
        Ok(CodeLayer { layer, files, size: self.size, top: top.collect() })
    }

    fn write(&mut self) -> io::Result<gantry_image::Layer> {
        let meta = |mode| Meta { mode, uid: APP_USER, gid: APP_USER, mtime: EARLIEST };
        let mut writer = LayerWriter::new(self.scratch)?;
        writer.folder(Path::new(APP), meta(0o755))?;
        // A folder's name is a prefix of the names below it, so that the folder comes first.
        for (name, entry) in &self.by_name {
            let path = Path::new(APP).join(name);
            match entry {
                CodeEntry::Folder => writer.folder(&path, meta(0o755))?,
                CodeEntry::Link { target } => writer.symlink(&path, meta(0o777), Path::new(target))?,
                CodeEntry::File { offset, size, executable } => {
                    (self.room)(usize::try_from(*size).unwrap_or(usize::MAX))?;
                    self.contents.seek(SeekFrom::Start(*offset))?;
                    let mode = if *executable { 0o755 } else { 0o644 };
                    writer.file(&path, meta(mode), *size, io::BufReader::with_capacity(PIECE, &self.contents))?;
                }
            }
        }
        writer.finish()
    }
}

/// Checks the name of an entry, and drops `.` and empty parts. None for the folder itself.
fn clean(name: &[u8]) -> Result<Option<String>, CodeError> {
    let wrong = |why| CodeError::Name { path: shown(name), why };
    let text = std::str::from_utf8(name).map_err(|_| wrong("it is not UTF-8"))?;
    if text.len() > NAME_MAX {
        return Err(wrong("it is longer than 1024 bytes"));
    }
    if text.starts_with('/') {
        return Err(wrong("it is absolute"));
    }
    if text.contains('\0') {
        return Err(wrong("it contains a NUL byte"));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(wrong("it leads out of the folder"));
    }
    if parts.iter().any(|part| part.len() > PART_MAX) {
        return Err(wrong("a part of it is longer than 255 bytes"));
    }
    // A layer gives these names a meaning of their own: they remove files of the stack.
    if parts.iter().any(|part| part.starts_with(".wh.")) {
        return Err(wrong("names that begin with .wh. are reserved in images"));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}
