//! Compares an unpacked layer with a second copy from its blob. No other check finds damage of an unpacked layer: the
//! layer's digest is that of the tar stream.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_linux::{rooted, walk};
use rustix::fs::{FileType, OFlags, Stat, fstat, readlinkat};

use crate::tree::{OPAQUE_XATTR, may_carry};

/// Size of the pieces in which two files are compared.
const PIECE: usize = 64 << 10;

/// Compares the folder `found` with the folder `expected`. Returns the first difference, with its path; `None` if both
/// have the same files with the same content, owners, modes, links and attributes. Times are not compared.
///
/// # Errors
/// When the folder `expected` cannot be read. An unreadable file of `found` is a difference.
pub(crate) fn first_difference(found: &Path, expected: &Path) -> io::Result<Option<String>> {
    let (found, expected) = (walk::top(found)?, walk::top(expected)?);
    let mut difference = None;
    let mut count = 0_u64;
    walk::walk(&expected, &mut |node| {
        count += 1;
        if difference.is_none() {
            difference = compare(&found, node)?.map(|what| format!("{} {what}", shown(node.path)));
        }
        Ok(())
    })?;
    if difference.is_some() {
        return Ok(difference);
    }
    let mut extra = 0_u64;
    let walked = walk::walk(&found, &mut |node| {
        extra += 1;
        if extra > count || rooted::open(&expected, node.path, OFlags::PATH | OFlags::NOFOLLOW).is_err() {
            difference.get_or_insert_with(|| format!("{} is too much", shown(node.path)));
        }
        Ok(())
    });
    Ok(difference.or(walked.err().map(|error| error.to_string())))
}

fn shown(path: &Path) -> String {
    format!("/{}", path.display())
}

/// Compares a node with the one at the same path in `root`. Returns what differs.
fn compare(root: &OwnedFd, node: &walk::Node<'_>) -> io::Result<Option<String>> {
    let path = if node.path.as_os_str().is_empty() { Path::new("/") } else { node.path };
    let Ok(other) = rooted::open(root, path, OFlags::PATH | OFlags::NOFOLLOW) else {
        return Ok(Some("is missing".to_owned()));
    };
    let (about, expected) = (fstat(&other)?, &node.stat);
    let told = |what: &str| Ok(Some(what.to_owned()));
    if FileType::from_raw_mode(about.st_mode) != node.kind() || about.st_rdev != expected.st_rdev {
        return told("is of another kind");
    }
    let rights = |stat: &Stat| (stat.st_uid, stat.st_gid, stat.st_mode);
    if rights(&about) != rights(expected) && node.kind() != FileType::Symlink {
        return told("has another owner or mode");
    }
    match node.kind() {
        FileType::Symlink => {
            let target = readlinkat(&other, "", Vec::new())?;
            Ok((target.to_bytes() != node.target()?.as_os_str().as_encoded_bytes())
                .then(|| "leads elsewhere".to_owned()))
        }
        FileType::RegularFile if about.st_size != expected.st_size => told("has another size"),
        FileType::RegularFile | FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let other = match rooted::open(root, path, flags) {
                Ok(other) => File::from(other),
                Err(error) => return Ok(Some(format!("cannot be read: {}", error.source))),
            };
            let own = File::from(node.open()?);
            let matters = |name: &str| may_carry(name) || name == OPAQUE_XATTR;
            if walk::xattrs(&other, matters)? != walk::xattrs(&own, matters)? {
                return told("has other attributes");
            }
            if node.kind().is_dir() {
                return Ok(None);
            }
            content(other, own)
        }
        _ => Ok(None),
    }
}

/// Compares two files of the same size.
fn content(mut found: File, mut expected: File) -> io::Result<Option<String>> {
    let (mut one, mut two) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let count = fill(&mut expected, &mut two)?;
        match fill(&mut found, &mut one) {
            Err(error) => return Ok(Some(format!("cannot be read: {error}"))),
            Ok(other) if other != count || one[..count] != two[..count] => {
                return Ok(Some("has another content".to_owned()));
            }
            Ok(_) if count < PIECE => return Ok(None),
            Ok(_) => {}
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn filled(folder: &Path) {
        std::fs::create_dir_all(folder.join("usr/bin")).expect("made");
        std::fs::write(folder.join("usr/bin/tool"), vec![7; 200_000]).expect("written");
        std::fs::write(folder.join("empty"), "").expect("written");
        symlink("usr/bin", folder.join("bin")).expect("linked");
        symlink("tool", folder.join("usr/bin/alias")).expect("linked");
    }

    #[test]
    fn each_kind_of_damage_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let expected = folder.path().join("wanted");
        filled(&expected);
        type Damage = fn(&Path);
        let cases: [(&str, Damage); 8] = [
            ("", |_| {}),
            ("/usr/bin/tool has another content", |found| {
                let mut bytes = vec![7; 200_000];
                bytes[150_000] ^= 1;
                std::fs::write(found.join("usr/bin/tool"), bytes).expect("written");
            }),
            ("/usr/bin/tool has another size", |found| {
                std::fs::write(found.join("usr/bin/tool"), "").expect("written");
            }),
            ("/empty is missing", |found| std::fs::remove_file(found.join("empty")).expect("removed")),
            ("/bin leads elsewhere", |found| {
                std::fs::remove_file(found.join("bin")).expect("removed");
                symlink("usr/sbin", found.join("bin")).expect("linked");
            }),
            ("/bin is of another kind", |found| {
                std::fs::remove_file(found.join("bin")).expect("removed");
                std::fs::create_dir(found.join("bin")).expect("made");
            }),
            ("/usr has another owner or mode", |found| {
                std::fs::set_permissions(found.join("usr"), std::fs::Permissions::from_mode(0o777)).expect("set");
            }),
            ("/usr/more is too much", |found| std::fs::write(found.join("usr/more"), "").expect("written")),
        ];
        for (number, (difference, damage)) in cases.into_iter().enumerate() {
            let found = folder.path().join(number.to_string());
            filled(&found);
            damage(&found);
            let told = first_difference(&found, &expected).expect("compared").unwrap_or_default();
            assert_eq!(told, difference);
        }
    }
}
