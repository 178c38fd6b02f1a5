//! Metadata of an entry, as its headers say.

use std::io;
use std::io::Read;
use std::path::PathBuf;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustix::fs::{Mode, Timespec};
use tar::Entry;

/// Keys of the records of extended headers that describe extended attributes, each followed by the attribute's name.
pub(crate) const SCHILY: &str = "SCHILY.xattr.";
pub(crate) const LIBARCHIVE: &str = "LIBARCHIVE.xattr.";

/// Base64 as libarchive writes it: without padding. Some writers pad.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn link_target(entry: &Entry<'_, impl Read>) -> Option<PathBuf> {
    entry.link_name().ok().flatten().map(std::borrow::Cow::into_owned).filter(|path| !path.as_os_str().is_empty())
}

pub(super) fn mode(entry: &Entry<'_, impl Read>) -> Mode {
    Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o7777)
}

/// Name and value of the extended attribute that a record of an extended header describes, if the record does. There
/// are two dialects: `SCHILY.xattr.` with the value itself, and libarchive's, with the value in base64.
pub(super) fn xattr(key: &[u8], value: &[u8]) -> io::Result<Option<(String, Vec<u8>)>> {
    let Ok(key) = std::str::from_utf8(key) else { return Ok(None) };
    if let Some(name) = key.strip_prefix(SCHILY) {
        return Ok(Some((name.to_owned(), value.to_vec())));
    }
    let Some(name) = key.strip_prefix(LIBARCHIVE) else { return Ok(None) };
    let decoded =
        BASE64.decode(value).map_err(|_| io::Error::other(format!("its attribute {name:?} is not base64")))?;
    Ok(Some((name.to_owned(), decoded)))
}

/// Modification time of an entry, with its nanoseconds if an extended header has them.
pub(super) fn mtime(entry: &mut Entry<'_, impl Read>) -> Timespec {
    let whole = entry.header().mtime().ok().and_then(|mtime| i64::try_from(mtime).ok());
    let plain = Timespec { tv_sec: whole.unwrap_or(0), tv_nsec: 0 };
    let records = entry.pax_extensions().ok().flatten().into_iter().flatten().flatten();
    let precise = records.filter(|record| record.key_bytes() == b"mtime").last();
    precise.and_then(|record| seconds(record.value().ok()?)).unwrap_or(plain)
}

/// Parses the seconds of an extended header: `1790000000.25`, with any number of digits after the point.
pub(super) fn seconds(text: &str) -> Option<Timespec> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(part) || !digits(whole.strip_prefix('-').unwrap_or(whole)) {
        return None;
    }
    let tv_sec: i64 = whole.parse().ok()?;
    let tv_nsec: i64 = format!("{part:0<9}")[..9].parse().ok()?;
    Some(match whole.starts_with('-') && tv_nsec > 0 {
        true => Timespec { tv_sec: tv_sec.checked_sub(1)?, tv_nsec: 1_000_000_000 - tv_nsec },
        false => Timespec { tv_sec, tv_nsec },
    })
}
