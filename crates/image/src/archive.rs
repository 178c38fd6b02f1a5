//! Reads foreign tar streams, member by member, with a bound on the size of their headers.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, Entry};

use crate::sparse::Sparse;

/// Limit in bytes on the headers before one member: long names and extended attributes. Linux stores up to 64 KiB of
/// attributes for a file.
const HEADERS_MAX: u64 = 1 << 20;

/// Size of a block of a tar stream.
const BLOCK: u64 = 512;

/// A reader that fails after a number of bytes, which [`members`] sets.
pub struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other(format!("a member has more than {HEADERS_MAX} bytes of headers")));
        }
        let read_size = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..read_size])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

/// Calls `visit` with each member of an archive; reading the entry yields the file's content. `tar` collects long names
/// and attributes in memory, whatever size they claim. This function stops them at 1 MiB.
///
/// # Errors
/// The error of `visit`, or `unreadable` applied to an error of the stream: cut off, not an archive, or headers too
/// large. Sparse files are refused as unreadable too, since their length may be anything.
pub fn members<R: Read, E>(
    archive: R,
    unreadable: impl Fn(io::Error) -> E,
    mut visit: impl FnMut(&mut Entry<'_, Metered<R>>) -> Result<(), E>,
) -> Result<(), E> {
    members_or_sparse(archive, &unreadable, |entry, sparse| match sparse {
        None => visit(entry),
        Some(_) => {
            let path = String::from_utf8_lossy(&entry.path_bytes()).chars().take(200).collect::<String>();
            Err(unreadable(io::Error::other(format!("{path:?} is a sparse file; make the archive without --sparse"))))
        }
    })
    .map(drop)
}

/// Calls `visit` with each member as [`members`] does, but accepts sparse files. `visit` must read a sparse file to its
/// end, through [`Sparse::content`]. Returns whether the archive has an end mark: an archive that was cut between two
/// members has none.
///
/// # Errors
/// As [`members`].
pub(crate) fn members_or_sparse<R: Read, E>(
    archive: R,
    unreadable: impl Fn(io::Error) -> E,
    mut visit: impl FnMut(&mut Entry<'_, Metered<R>>, Option<Sparse>) -> Result<(), E>,
) -> Result<bool, E> {
    let left = Rc::new(Cell::new(HEADERS_MAX));
    let mut archive = Archive::new(Metered { inner: archive, left: Rc::clone(&left) });
    let mut entries = archive.entries().map_err(&unreadable)?;
    loop {
        left.set(HEADERS_MAX);
        let Some(entry) = entries.next() else {
            // The padding of the last member is shorter than a block, and the end mark is not.
            return Ok(HEADERS_MAX - left.get() >= BLOCK);
        };
        let mut entry = entry.map_err(&unreadable)?;
        left.set(u64::MAX);
        let sparse = Sparse::of(&mut entry).map_err(&unreadable)?;
        visit(&mut entry, sparse)?;
        // Data that `visit` left unread is skipped here, without the limit that applies while `tar` searches for the
        // next header.
        io::copy(&mut entry, &mut io::sink()).map_err(&unreadable)?;
    }
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;

    fn header(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("x").expect("a name");
        header.set_entry_type(kind);
        header.set_size(size);
        header.as_gnu_mut().expect("gnu").realsize = *b"00000000000\0";
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn read(archive: impl Read) -> io::Result<usize> {
        let mut count = 0;
        let unreadable = |error| error;
        members(archive, unreadable, |_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    #[test]
    fn headers_that_never_end_are_refused_at_their_bound() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let endless = io::Cursor::new(header(kind, 1 << 40)).chain(io::repeat(b'a'));
            let error = read(endless).expect_err("refused").to_string();
            assert!(error.contains("bytes of headers"), "{kind:?}: {error}");
        }
    }

    #[test]
    fn unread_content_of_members_is_skipped() {
        let file = [header(EntryType::Regular, 3 << 20), vec![7; 3 << 20]].concat();
        assert_eq!(read([file.clone(), file, vec![0; 1024]].concat().as_slice()).expect("read"), 2);
        let sparse = header(EntryType::GNUSparse, 0);
        assert!(read(sparse.as_slice()).expect_err("refused").to_string().contains("sparse"));
        assert!(read(header(EntryType::Regular, 5).as_slice()).is_err(), "cut off");
    }
}
