//! Reads a tar archive of code.

use std::io::Read;

use gantry_image::members;
use tar::EntryType;

use super::entries::Entries;
use super::{CodeError, damaged, shown};

/// Adds all entries of a tar stream.
pub(super) fn read(archive: impl Read, entries: &mut Entries<'_>) -> Result<(), CodeError> {
    members(archive, damaged, |member| {
        let name = member.path_bytes().into_owned();
        let executable = member.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        let target = member.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        let unsupported = |why| CodeError::Unsupported { path: shown(&name), why };
        match member.header().entry_type() {
            EntryType::XGlobalHeader => Ok(()),
            EntryType::Directory => entries.folder(&name),
            EntryType::Regular | EntryType::Continuous => {
                let size = member.size();
                let read = entries.file(&name, executable, member)?;
                if read == size { Ok(()) } else { Err(damaged(format!("{:?} is cut off", shown(&name)))) }
            }
            EntryType::Symlink => entries.link(&name, &target),
            EntryType::Link => entries.same_file(&name, &target),
            EntryType::Char | EntryType::Block => Err(unsupported("is a device")),
            EntryType::Fifo => Err(unsupported("is a pipe")),
            _ => Err(unsupported("is of a kind that code cannot have")),
        }
    })
}
