//! Reads a zip archive of code.
//!
//! The central directory alone says which entries exist. A local header must repeat the entry's name, so that no two
//! readers see two archives. Encrypted entries, split archives, zip64 and methods other than deflate are refused.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::entries::{Entries, TARGET_MAX};
use super::{CodeError, ENTRIES_MAX, damaged, shown};

/// Size of the record at the end, without its comment.
const END_RECORD_SIZE: usize = 22;

/// Size of an entry of the central directory, without its names.
const CENTRAL: usize = 46;

/// Size of a local header, without its names.
const LOCAL: usize = 30;

/// Largest central directory, in bytes.
const DIRECTORY_MAX: u64 = 32 << 20;

/// Flags of entries that are encrypted or patched.
const FLAGS_REFUSED: u16 = 0x0001 | 0x0020 | 0x0040 | 0x2000;

/// An entry of the central directory.
struct ZipEntry {
    name: Vec<u8>,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    /// Unix mode, if the archive was made on Unix.
    mode: Option<u32>,
    header: u64,
}

/// Adds all entries of a zip archive.
pub(super) fn read(archive: &mut File, entries: &mut Entries<'_>) -> Result<(), CodeError> {
    let (directory, begin) = directory(archive)?;
    let all = parse(&directory)?;
    // Entries that share bytes are how a small archive claims to be a large one.
    let packed = all.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.packed));
    if packed > begin {
        return Err(damaged("its entries overlap"));
    }
    all.iter().try_for_each(|entry| add(archive, begin, entry, entries))
}

/// Reads the central directory; returns it with its offset.
fn directory(archive: &mut File) -> Result<(Vec<u8>, u64), CodeError> {
    let length = archive.seek(SeekFrom::End(0)).map_err(CodeError::Disk)?;
    let tail_length = length.min(END_RECORD_SIZE as u64 + u64::from(u16::MAX));
    let mut tail = vec![0; usize::try_from(tail_length).map_err(damaged)?];
    archive.seek(SeekFrom::Start(length - tail_length)).map_err(CodeError::Disk)?;
    archive.read_exact(&mut tail).map_err(damaged)?;
    let is_end = |at: &usize| {
        let record = &tail[*at..];
        record.starts_with(b"PK\x05\x06") && END_RECORD_SIZE + usize::from(short(record, 20)) == record.len()
    };
    let last = tail.len().checked_sub(END_RECORD_SIZE).ok_or_else(|| damaged("it is cut off"))?;
    let at = (0..=last).rev().find(is_end).ok_or_else(|| damaged("it has no end record: it is cut off"))?;
    let record = &tail[at..];
    let end = length - tail_length + at as u64;
    if short(record, 4) != 0 || short(record, 6) != 0 || short(record, 8) != short(record, 10) {
        return Err(damaged("it is one part of a split archive"));
    }
    let (size, begin) = (u64::from(long(record, 12)), u64::from(long(record, 16)));
    if short(record, 10) == u16::MAX || begin == u64::from(u32::MAX) {
        return Err(damaged("it is a zip64 archive; send a tar.gz archive"));
    }
    if begin.checked_add(size) != Some(end) || size > DIRECTORY_MAX {
        return Err(damaged("its directory is not where the end record says"));
    }
    let mut directory = vec![0; usize::try_from(size).map_err(damaged)?];
    archive.seek(SeekFrom::Start(begin)).map_err(CodeError::Disk)?;
    archive.read_exact(&mut directory).map_err(damaged)?;
    Ok((directory, begin))
}

/// Parses the central directory.
fn parse(mut directory: &[u8]) -> Result<Vec<ZipEntry>, CodeError> {
    let mut all = Vec::new();
    while !directory.is_empty() {
        let broken = || damaged("its directory is damaged");
        if directory.len() < CENTRAL || !directory.starts_with(b"PK\x01\x02") {
            return Err(broken());
        }
        if all.len() >= ENTRIES_MAX {
            return Err(CodeError::TooMany);
        }
        let names = [28, 30, 32].map(|at| usize::from(short(directory, at)));
        let next = CENTRAL + names.iter().sum::<usize>();
        let name = directory.get(CENTRAL..CENTRAL + names[0]).ok_or_else(broken)?.to_vec();
        let rest = directory.get(next..).ok_or_else(broken)?;
        let (packed, size) = (long(directory, 20), long(directory, 24));
        let unsupported = |why| CodeError::Unsupported { path: shown(&name), why };
        if short(directory, 8) & FLAGS_REFUSED != 0 {
            return Err(unsupported("is encrypted"));
        }
        if packed == u32::MAX || size == u32::MAX || long(directory, 42) == u32::MAX {
            return Err(unsupported("is a zip64 entry; send a tar.gz archive"));
        }
        let on_unix = directory[5] == 3;
        all.push(ZipEntry {
            method: short(directory, 10),
            crc: long(directory, 16),
            packed: packed.into(),
            size: size.into(),
            mode: on_unix.then(|| long(directory, 38) >> 16),
            header: long(directory, 42).into(),
            name,
        });
        directory = rest;
    }
    Ok(all)
}

/// Adds one entry.
fn add(archive: &mut File, begin: u64, entry: &ZipEntry, entries: &mut Entries<'_>) -> Result<(), CodeError> {
    let unsupported = |why| CodeError::Unsupported { path: shown(&entry.name), why };
    if entry.name.contains(&b'\\') {
        return Err(CodeError::Name { path: shown(&entry.name), why: "folders are separated by /" });
    }
    let mode = entry.mode.unwrap_or_default();
    match mode & 0o170_000 {
        _ if entry.name.ends_with(b"/") => return entries.folder(&entry.name),
        0 | 0o100_000 => {}
        0o040_000 => return entries.folder(&entry.name),
        0o120_000 => {
            if entry.size > TARGET_MAX {
                return Err(unsupported("is a link without a usable target"));
            }
            let mut target = Vec::new();
            content(archive, begin, entry)?.read_to_end(&mut target).map_err(damaged)?;
            return entries.link(&entry.name, &target);
        }
        _ => return Err(unsupported("is of a kind that code cannot have")),
    }
    let mut content = content(archive, begin, entry)?;
    entries.file(&entry.name, mode & 0o111 != 0, &mut content).map(drop)
}

/// Content of an entry. The reader fails at its end unless size and checksum are those of the directory.
fn content<'a>(archive: &'a mut File, begin: u64, entry: &ZipEntry) -> Result<ChecksumReader<'a>, CodeError> {
    let unsupported = |why| CodeError::Unsupported { path: shown(&entry.name), why };
    let elsewhere = || damaged(format!("{:?} is not where the directory says", shown(&entry.name)));
    let mut header = [0; LOCAL];
    archive.seek(SeekFrom::Start(entry.header)).map_err(CodeError::Disk)?;
    archive.read_exact(&mut header).map_err(|_| elsewhere())?;
    if !header.starts_with(b"PK\x03\x04") || usize::from(short(&header, 26)) != entry.name.len() {
        return Err(elsewhere());
    }
    let mut name = vec![0; entry.name.len()];
    archive.read_exact(&mut name).map_err(damaged)?;
    if name != entry.name {
        return Err(damaged(format!("{:?} has another name in its header", shown(&entry.name))));
    }
    archive.seek(SeekFrom::Current(short(&header, 28).into())).map_err(CodeError::Disk)?;
    let data = archive.stream_position().map_err(CodeError::Disk)?;
    if data.checked_add(entry.packed).is_none_or(|end| end > begin) {
        return Err(damaged(format!("{:?} is cut off", shown(&entry.name))));
    }
    let packed = BufReader::new(archive).take(entry.packed);
    let inner: Box<dyn Read + 'a> = match entry.method {
        0 => Box::new(packed),
        8 => Box::new(DeflateDecoder::new(packed)),
        _ => return Err(unsupported("is compressed by another method than deflate")),
    };
    Ok(ChecksumReader { inner, crc: Crc::new(), left: entry.size, wanted: entry.crc })
}

/// A reader that checks size and checksum.
struct ChecksumReader<'a> {
    inner: Box<dyn Read + 'a>,
    crc: Crc,
    left: u64,
    wanted: u32,
}

impl Read for ChecksumReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        self.crc.update(&buffer[..count]);
        let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, format!("an entry {why}")));
        match self.left.checked_sub(count as u64) {
            None => wrong("is larger than the directory says"),
            Some(left) if count == 0 && left > 0 => wrong("is smaller than the directory says"),
            Some(_) if count == 0 && self.crc.sum() != self.wanted => wrong("has a wrong checksum"),
            Some(left) => {
                self.left = left;
                Ok(count)
            }
        }
    }
}

/// A number of two bytes. The caller has checked the length.
fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// A number of four bytes. The caller has checked the length.
fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
