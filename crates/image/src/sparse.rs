//! Sparse files in tar streams: entries that leave holes out.
//!
//! There are four dialects: GNU's own header (`S`, which `tar` expands), and GNU's extended headers 0.0, 0.1 and 1.0.
//! For the last three, the entry's data is not the file's content. Without the map of pieces, the file would be stored
//! wrongly.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use tar::{Entry, EntryType};

/// Limit in bytes on a map before the data. A map in the headers falls under the limit on headers.
const MAP_MAX: usize = 1 << 20;

/// Size of a block of a tar stream.
const BLOCK: usize = 512;

/// A sparse file: the layout that the entry's data must get.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// The file's own name, if the entry has another name.
    pub(crate) name: Option<PathBuf>,
    /// Size of the file, holes included.
    pub(crate) size: u64,
    /// The data's pieces, as offset and length. None if `tar` has already put the pieces in place.
    map: Option<Vec<(u64, u64)>>,
}

/// The records about holes in an entry's extended headers.
#[derive(Debug, Default)]
struct Records {
    version: (Option<u64>, Option<u64>),
    name: Option<PathBuf>,
    size: Option<u64>,
    pieces: Option<u64>,
    /// Offsets and lengths, alternating.
    numbers: Vec<u64>,
    any: bool,
}

fn invalid_sparse(why: &str) -> io::Error {
    io::Error::other(format!("cannot read the sparse file: {why}; make the archive with tar, without --sparse"))
}

fn number(bytes: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid_sparse("its map of pieces has a value that is not a number"))
}

impl Records {
    fn take(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        match key {
            "major" => self.version.0 = Some(number(value)?),
            "minor" => self.version.1 = Some(number(value)?),
            "name" => self.name = Some(PathBuf::from(OsString::from_vec(value.to_vec()))),
            "size" | "realsize" => self.size = Some(number(value)?),
            "numblocks" => self.pieces = Some(number(value)?),
            "offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(number(value)?),
            "numbytes" if !self.numbers.len().is_multiple_of(2) => self.numbers.push(number(value)?),
            "map" if self.numbers.is_empty() => {
                let parts = value.split(|byte| *byte == b',').filter(|part| !part.is_empty());
                self.numbers = parts.map(number).collect::<io::Result<_>>()?;
            }
            other => return Err(invalid_sparse(&format!("Gantry does not know its header GNU.sparse.{other}"))),
        }
        self.any = true;
        Ok(())
    }
}

impl Sparse {
    /// Reads an entry's records about holes, and the map if the map is before the data. Returns none for a file without
    /// such records.
    ///
    /// # Errors
    /// When the dialect is unknown, or the map is inconsistent.
    pub(crate) fn of(entry: &mut Entry<'_, impl Read>) -> io::Result<Option<Self>> {
        let kind = entry.header().entry_type();
        if kind == EntryType::GNUSparse {
            return Ok(Some(Self { name: None, size: entry.size(), map: None }));
        }
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return Ok(None);
        }
        let mut records = Records::default();
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            let key = record.key().unwrap_or_default();
            if let Some(key) = key.strip_prefix("GNU.sparse.") {
                records.take(key, record.value_bytes())?;
            } else if key == "SCHILY.realsize" {
                return Err(invalid_sparse("Gantry does not know the dialect of star"));
            }
        }
        if !records.any {
            return Ok(None);
        }
        let mut stored = entry.size();
        match records.version {
            (None | Some(0), _) => {}
            (Some(1), None | Some(0)) => {
                let (numbers, taken) = map_before_data(entry)?;
                records.numbers = numbers;
                stored = stored.checked_sub(taken).ok_or_else(|| invalid_sparse("its map is longer than its data"))?;
            }
            (Some(major), minor) => {
                return Err(invalid_sparse(&format!(
                    "Gantry does not know version {major}.{} of the format",
                    minor.unwrap_or(0)
                )));
            }
        }
        let size = records.size.ok_or_else(|| invalid_sparse("its size is missing"))?;
        let map = checked(&records.numbers, records.pieces, size, stored)?;
        Ok(Some(Self { name: records.name, size, map: Some(map) }))
    }

    /// Expands the entry's data to the file's content.
    pub(crate) fn content<R: Read>(self, data: R) -> Content<R> {
        let whole = || vec![(0, self.size)];
        Content { data, pieces: self.map.unwrap_or_else(whole).into_iter(), piece: (0, 0), at: 0, size: self.size }
    }
}

/// Reads a map of version 1.0 and returns its numbers and its size in bytes. The map has one number per line, first the
/// count of pairs, and is padded to a whole block.
fn map_before_data(data: &mut impl Read) -> io::Result<(Vec<u64>, u64)> {
    let (mut text, mut lines, mut line_count) = (Vec::new(), 0, 1);
    loop {
        while lines < line_count {
            let mut block = [0; BLOCK];
            data.read_exact(&mut block).map_err(|_| invalid_sparse("its map is cut off"))?;
            lines += block.iter().filter(|byte| **byte == b'\n').count();
            text.extend_from_slice(&block);
            if text.len() > MAP_MAX {
                return Err(invalid_sparse(&format!("its map has more than {MAP_MAX} bytes")));
            }
        }
        let mut numbers = text.split(|byte| *byte == b'\n').map(number);
        let count = numbers.next().ok_or_else(|| invalid_sparse("its map is empty"))??;
        let count = usize::try_from(count).ok().filter(|count| *count <= MAP_MAX / 2);
        let all = 1 + 2 * count.ok_or_else(|| invalid_sparse("its map has too many pieces"))?;
        if all <= lines {
            let numbers = numbers.take(all - 1).collect::<io::Result<Vec<u64>>>()?;
            return Ok((numbers, text.len() as u64));
        }
        line_count = all;
    }
}

/// Checks that the pieces are in order, do not overlap, lie within the file, and cover all of the stored data.
fn checked(numbers: &[u64], pieces: Option<u64>, size: u64, stored: u64) -> io::Result<Vec<(u64, u64)>> {
    let map: Vec<(u64, u64)> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    if !numbers.len().is_multiple_of(2) || pieces.is_some_and(|pieces| pieces != map.len() as u64) {
        return Err(invalid_sparse("its map has another number of pieces than it says"));
    }
    let (mut end, mut all) = (0_u64, 0_u64);
    for (offset, length) in &map {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or_else(|| invalid_sparse("the pieces of its map overlap, or lie beyond its end"))?;
        all += length;
    }
    if all == stored { Ok(map) } else { Err(invalid_sparse("its map and its data have different lengths")) }
}

/// A reader of a sparse file's content, holes included.
pub(crate) struct Content<R> {
    data: R,
    pieces: std::vec::IntoIter<(u64, u64)>,
    /// Start of the current piece, and the number of its bytes left.
    piece: (u64, u64),
    at: u64,
    size: u64,
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.piece.0 && self.piece.1 == 0 {
            self.piece = self.pieces.next().unwrap_or((self.size, 0));
            if self.piece == (self.size, 0) && self.at == self.size {
                return Ok(0);
            }
        }
        let in_hole = self.at < self.piece.0;
        let most = if in_hole { self.piece.0 - self.at } else { self.piece.1 };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        let count = if in_hole {
            buffer[..most].fill(0);
            most
        } else {
            let count = self.data.read(&mut buffer[..most])?;
            if count == 0 && most > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.piece.1 -= count as u64;
            count
        };
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(map: &[(u64, u64)], size: u64, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let sparse = Sparse { name: None, size, map: Some(map.to_vec()) };
        sparse.content(data).read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn pieces_are_put_in_their_places() {
        for (map, size, data, expected) in [
            (&[(2, 2), (5, 1)][..], 7, "abc", "\0\0ab\0c\0"),
            (&[(0, 3)], 3, "abc", "abc"),
            (&[], 2, "", "\0\0"),
            (&[(0, 1), (4, 0)], 4, "a", "a\0\0\0"),
            (&[(0, 0), (1, 0), (2, 1)], 3, "a", "\0\0a"),
            (&[], 0, "", ""),
        ] {
            assert_eq!(content(map, size, data.as_bytes()).expect("read"), expected.as_bytes(), "{map:?}");
        }
        assert!(content(&[(0, 3)], 3, b"a").is_err(), "cut off");
    }

    #[test]
    fn refuses_inconsistent_sparse_maps() {
        for (numbers, pieces, size, stored) in [
            (&[0, 1, 2][..], None, 9, 1),
            (&[0, 1], Some(2), 9, 1),
            (&[0, 2, 1, 1], None, 9, 3),
            (&[5, 1, 0, 1], None, 9, 2),
            (&[0, 10], None, 9, 10),
            (&[u64::MAX, 2], None, u64::MAX, 2),
            (&[0, 1], None, 9, 2),
        ] {
            assert!(checked(numbers, pieces, size, stored).is_err(), "{numbers:?}");
        }
        let map = |text: &str| {
            let mut text = text.as_bytes().to_vec();
            text.resize(text.len().next_multiple_of(BLOCK), 0);
            map_before_data(&mut text.as_slice())
        };
        assert_eq!(map("2\n0\n1\n4\n0\n").expect("a map"), (vec![0, 1, 4, 0], 512));
        for bad in ["", "x\n", "-1\n", "1\n0\n", "99999999999999\n", &"1".repeat(2000), "1\n+0\n1\n"] {
            assert!(map(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_accepted_map_yields_its_size(numbers in prop::collection::vec(0_u64..40, 0..9), size in 0_u64..60) {
            let stored = numbers.chunks_exact(2).map(|pair| pair[1]).sum();
            if let Ok(map) = checked(&numbers, None, size, stored) {
                let data = vec![7; usize::try_from(stored).expect("small")];
                let all = content(&map, size, &data).expect("read");
                prop_assert_eq!(all.len() as u64, size);
                prop_assert_eq!(all.iter().filter(|byte| **byte == 7).count(), data.len());
            }
        }
    }
}
