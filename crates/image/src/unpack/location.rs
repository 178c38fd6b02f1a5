//! The location of an entry, and its metadata on disk.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use gantry_linux::process::USERS;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fsetxattr, mknodat,
    openat, statat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::Entry;

use super::header::{mode, mtime};
use crate::tree::{OPAQUE, OPAQUE_XATTR, WHITEOUT};

/// The location of an entry: its parent folder, and its name there.
pub(super) struct EntryLocation {
    pub(super) parent: OwnedFd,
    pub(super) name: OsString,
}

pub(super) fn is_folder(place: &EntryLocation) -> bool {
    statat(&place.parent, &*place.name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Removes a file or an empty folder that an earlier entry created, so that the new entry can replace it.
pub(super) fn clear(place: &EntryLocation) -> io::Result<()> {
    match unlinkat(&place.parent, &*place.name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Ok(unlinkat(&place.parent, &*place.name, AtFlags::REMOVEDIR)?),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn whiteout(place: &EntryLocation, name: &str) -> io::Result<()> {
    if name == OPAQUE {
        let parent = openat(&place.parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        return Ok(fsetxattr(parent, OPAQUE_XATTR, b"y", XattrFlags::empty())?);
    }
    let hidden = &name[WHITEOUT.len()..];
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::Error::other("a whiteout of nothing"));
    }
    let place = EntryLocation { parent: place.parent.try_clone()?, name: hidden.into() };
    clear(&place)?;
    Ok(mknodat(&place.parent, &*place.name, FileType::CharacterDevice, Mode::empty(), 0)?)
}

pub(super) fn set_owner(
    parent: impl AsFd,
    name: &OsStr,
    entry: &Entry<'_, impl Read>,
    flags: AtFlags,
) -> io::Result<()> {
    let id =
        |id: io::Result<u64>| u32::try_from(id.unwrap_or(0)).map_err(|_| io::Error::other("an owner out of range"));
    let (uid, gid) = (id(entry.header().uid())?, id(entry.header().gid())?);
    if uid == u32::MAX || gid == u32::MAX {
        return Err(io::Error::other("an owner out of range"));
    }
    let (uid, gid) = (mapped_owner(uid), mapped_owner(gid));
    Ok(chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?)
}

/// Returns the owner as the container sees the owner. An id beyond the container's users would be unmapped inside, and
/// not even root inside could change such files. Such an id becomes the user `nobody`.
pub(super) fn mapped_owner(owner: u32) -> u32 {
    if owner < USERS { owner } else { NOBODY }
}

/// Id of the user and the group for owners without an id of their own, in Debian and other distributions.
pub(super) const NOBODY: u32 = 65_534;

pub(super) fn finish_node(entry: &Entry<'_, impl Read>, place: &EntryLocation) -> io::Result<()> {
    set_owner(&place.parent, &place.name, entry, AtFlags::SYMLINK_NOFOLLOW)?;
    // This process created the entry a moment ago, and no other process writes here, so the entry is no link.
    Ok(chmodat(&place.parent, &*place.name, mode(entry), AtFlags::empty())?)
}

pub(super) fn finish_link(entry: &mut Entry<'_, impl Read>, place: &EntryLocation) -> io::Result<()> {
    set_owner(&place.parent, &place.name, entry, AtFlags::SYMLINK_NOFOLLOW)?;
    set_time(&place.parent, &place.name, mtime(entry), AtFlags::SYMLINK_NOFOLLOW);
    Ok(())
}

/// Clears the "effective" flag of a file's capabilities (`struct vfs_cap_data`: the lowest bit of its first word). A
/// container gains no capability by running a file. Without the flag, the kernel still runs the file. With the flag,
/// the kernel refuses the file (EPERM) if the container lacks one of its capabilities.
pub(super) fn not_effective(capabilities: &mut [u8]) {
    if let Some(first) = capabilities.first_mut() {
        *first &= !1;
    }
}

/// Sets an entry's modification time. A time that cannot be set (out of range) is no reason to refuse a layer.
pub(super) fn set_time(parent: impl AsFd, name: &OsStr, time: Timespec, flags: AtFlags) {
    let _ = utimensat(parent, name, &Timestamps { last_access: time, last_modification: time }, flags);
}
