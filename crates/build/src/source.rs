//! A source archive (what `git archive` writes) into what is read of it and into its two layers. It is never unpacked
//! on the machine: entries go from tar to tar.

use std::collections::BTreeSet;
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};

use gantry_image::{Layer, LayerWriter, Meta, Metered, members};
use tar::{Entry, EntryType};

use crate::BuildError;
use crate::recipe::{Found, TEXTS};

/// Where files of the whole image are.
const FILES: &str = "container/files";

/// Where the source goes.
const APP: &str = "app";

/// Who the source, and the process that runs it, belongs to. Bases that Gantry makes have this user (see `bases`); a container
/// on another base is given lines for it.
pub(crate) use gantry_image::APP_USER;

/// The largest of the texts that are read.
const TEXT_MAX: u64 = 256 << 10;

/// The most entries of a source tree.
const ENTRIES_MAX: usize = 500_000;

fn failed(error: &io::Error) -> BuildError {
    BuildError::new("source", format!("the source cannot be read: {error}"))
}

/// An entry of the archive.
type Member<'a, 'r> = Entry<'a, Metered<&'r mut (dyn Read + 'r)>>;

/// An entry's path with nothing in it but names.
fn path_of(entry: &Entry<'_, impl Read>) -> Result<PathBuf, BuildError> {
    let path = entry.path().map_err(|error| failed(&error))?.into_owned();
    let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(BuildError::new("source", format!("{:?} leads out of the source tree", path.display())));
    }
    Ok(path.components().filter(|part| matches!(part, Component::Normal(_))).collect())
}

/// Calls `visit` with each entry.
fn each(
    mut archive: impl Read,
    mut visit: impl FnMut(&Path, &mut Member<'_, '_>) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let reader: &mut (dyn Read + '_) = &mut archive;
    let mut count = 0;
    members(
        reader,
        |error| failed(&error),
        |entry| {
            count += 1;
            if count > ENTRIES_MAX {
                return Err(BuildError::new("source", format!("the source has more than {ENTRIES_MAX} files")));
            }
            if entry.header().entry_type() == EntryType::XGlobalHeader {
                return Ok(());
            }
            let path = path_of(entry)?;
            if path.as_os_str().is_empty() { Ok(()) } else { visit(&path, entry) }
        },
    )
}

/// Reads what a recipe is made from.
pub(crate) fn scan(archive: impl Read) -> Result<Found, BuildError> {
    let mut found = Found::default();
    each(archive, |path, entry| {
        let is_file = entry.header().entry_type().is_file();
        found.files |= path.starts_with(FILES) && path != Path::new(FILES);
        found.compile |= path == Path::new("container/compile") && is_file;
        let Some(name) = TEXTS.iter().find(|name| path == Path::new(name)) else {
            return Ok(());
        };
        if !is_file {
            return Err(BuildError::new("roles", format!("{name} is not a plain file")));
        }
        let mut text = String::new();
        entry
            .take(TEXT_MAX)
            .read_to_string(&mut text)
            .map_err(|error| BuildError::new("roles", format!("{name} cannot be read: {error}")))?;
        found.texts.insert((*name).to_owned(), text);
        Ok(())
    })?;
    Ok(found)
}

/// The layers of a source tree: `container/files` onto `/`, if there is anything, and everything onto `/app`.
pub(crate) fn layers(archive: &mut (impl Read + Seek), commit: &str, scratch: &Path) -> Result<Vec<Layer>, BuildError> {
    let mut layers = Vec::new();
    archive.rewind().map_err(|error| failed(&error))?;
    layers.extend(files_layer(&mut *archive, scratch)?);
    archive.rewind().map_err(|error| failed(&error))?;
    layers.push(app_layer(archive, commit, scratch)?);
    Ok(layers)
}

fn files_layer(archive: impl Read, scratch: &Path) -> Result<Option<Layer>, BuildError> {
    let mut writer = LayerWriter::new(scratch).map_err(|error| failed(&error))?;
    let mut any = false;
    each(archive, |path, entry| {
        let Ok(inside) = path.strip_prefix(FILES) else {
            return Ok(());
        };
        if inside.as_os_str().is_empty() {
            return Ok(());
        }
        let reserved = ["proc", "sys", "dev", ".gantry"];
        if reserved.iter().any(|name| inside.starts_with(name)) {
            let why = format!("{} cannot be put into an image: the kernel's own is mounted there", inside.display());
            return Err(BuildError::new("source", why));
        }
        any = true;
        copy(&mut writer, inside, entry, 0).map_err(|error| failed(&error))
    })?;
    if any { writer.finish().map(Some).map_err(|error| failed(&error)) } else { Ok(None) }
}

fn app_layer(archive: impl Read, commit: &str, scratch: &Path) -> Result<Layer, BuildError> {
    let mut writer = LayerWriter::new(scratch).map_err(|error| failed(&error))?;
    let meta = |mode| Meta { mode, uid: APP_USER, gid: APP_USER, mtime: 0 };
    writer.folder(Path::new(APP), meta(0o755)).map_err(|error| failed(&error))?;
    let mut folders = BTreeSet::new();
    each(archive, |path, entry| {
        // Written below, whatever the tree has there.
        if path == Path::new("REVISION") {
            return Ok(());
        }
        let target = Path::new(APP).join(path);
        // Folders that the archive leaves out would otherwise come to be as root's.
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            if folders.insert(folder.to_owned()) && !entry.header().entry_type().is_dir() {
                writer.folder(&Path::new(APP).join(folder), meta(0o755)).map_err(|error| failed(&error))?;
            }
        }
        if entry.header().entry_type().is_dir() {
            folders.insert(path.to_owned());
        }
        copy(&mut writer, &target, entry, APP_USER).map_err(|error| failed(&error))
    })?;
    let revision = format!("{commit}\n");
    writer
        .file(&Path::new(APP).join("REVISION"), meta(0o644), revision.len() as u64, revision.as_bytes())
        .and_then(|()| writer.finish())
        .map_err(|error| failed(&error))
}

fn copy(writer: &mut LayerWriter, path: &Path, entry: &mut Member<'_, '_>, owner: u32) -> io::Result<()> {
    let header = entry.header();
    // git knows two modes; the archive's umask is not the image's business.
    let executable = header.mode()? & 0o100 != 0;
    let mode = if executable || header.entry_type().is_dir() { 0o755 } else { 0o644 };
    // One time for all, so that the same tree gives the same layer whatever commit it is in.
    let meta = Meta { mode, uid: owner, gid: owner, mtime: 0 };
    match header.entry_type() {
        EntryType::Directory => writer.folder(path, meta),
        EntryType::Regular => {
            let size = entry.size();
            writer.file(path, meta, size, entry)
        }
        EntryType::Symlink => match entry.link_name()? {
            Some(target) => writer.symlink(path, Meta { mode: 0o777, ..meta }, &target),
            None => Ok(()),
        },
        kind => Err(io::Error::other(format!("{} is a {kind:?}, which git does not have", path.display()))),
    }
}
