//! Second pass over an archive: the two layers of a source tree.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use gantry_image::{APP_USER, Layer, LayerWriter, MergedLayers, Meta, PathLookup};
use gantry_model::BuildPhase;
use tar::EntryType;

use super::{APP, Contents, Member, REVISION, each, failed};
use crate::BuildError;
use crate::times::Times;
use crate::tree::fingerprint_of;

/// Parameters of the layers of a source tree.
pub(crate) struct LayerInput<'a> {
    pub(crate) contents: &'a Contents,
    pub(crate) times: &'a Times,
    /// Full SHA of the commit.
    pub(crate) commit: &'a str,
    /// Root of the base image, if the tree has a folder to copy onto `/`.
    pub(crate) base: Option<&'a MergedLayers>,
    pub(crate) scratch: &'a Path,
}

/// Makes the layers of a source tree: `container/files` onto `/`, if the folder has files, and everything onto `/app`.
pub(crate) fn layers(archive: &mut (impl Read + Seek), making: &LayerInput<'_>) -> Result<Vec<Layer>, BuildError> {
    let mut layers = Vec::new();
    if let Some(files) = &making.contents.files {
        archive.rewind().map_err(|error| failed(&error))?;
        layers.extend(files_layer(&mut *archive, files, making)?);
    }
    archive.rewind().map_err(|error| failed(&error))?;
    layers.push(app_layer(archive, making)?);
    Ok(layers)
}

/// Folders of the layer that goes onto `/`.
///
/// A folder of the base image keeps its metadata. A base image's link to a folder is followed: `container/files/bin/x`
/// lands in `/usr/bin` if `/bin` leads there.
struct LayerFolders<'a> {
    base: Option<&'a MergedLayers>,
    /// Folder in the image, by folder in the source.
    known: HashMap<PathBuf, PathBuf>,
    made: BTreeSet<PathBuf>,
}

impl LayerFolders<'_> {
    /// Maps a folder of the source to a folder of the image, and adds the folder to the layer.
    fn folder(
        &mut self,
        inside: &Path,
        writer: &mut LayerWriter,
        fresh: &dyn Fn(&Path) -> Meta,
    ) -> io::Result<PathBuf> {
        let Some((parent, name)) = inside.parent().zip(inside.file_name()) else { return Ok(PathBuf::new()) };
        if let Some(known) = self.known.get(inside) {
            return Ok(known.clone());
        }
        let wanted = self.folder(parent, writer, fresh)?.join(name);
        let place = match self.base.map(|base| base.lookup(&wanted)).transpose()? {
            Some(PathLookup::Folder { path, .. }) => {
                for above in path.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
                    let of_base = self.base.map(|base| base.lookup(above)).transpose()?;
                    if let Some(PathLookup::Folder { meta, .. }) = of_base
                        && self.made.insert(above.to_owned())
                    {
                        writer.folder(above, meta)?;
                    }
                }
                path
            }
            _ => {
                if self.made.insert(wanted.clone()) {
                    writer.folder(&wanted, fresh(inside))?;
                }
                wanted
            }
        };
        self.known.insert(inside.to_owned(), place.clone());
        Ok(place)
    }
}

fn files_layer(archive: impl Read, files: &Path, making: &LayerInput<'_>) -> Result<Option<Layer>, BuildError> {
    let mut writer = LayerWriter::new(making.scratch).map_err(|error| failed(&error))?;
    let mut any = false;
    let mut onto = LayerFolders { base: making.base, known: HashMap::new(), made: BTreeSet::new() };
    let time = |inside: &Path| making.times.of(fingerprint_of(&files.join(inside)));
    let fresh = |inside: &Path| Meta { mode: 0o755, uid: 0, gid: 0, mtime: time(inside) };
    each(archive, |path, entry| {
        let Ok(inside) = path.strip_prefix(files) else {
            return Ok(());
        };
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
            return Ok(());
        };
        not_the_kernel_s(inside)?;
        any = true;
        let is_folder = entry.header().entry_type() == EntryType::Directory;
        let into = onto.folder(if is_folder { inside } else { parent }, &mut writer, &fresh);
        let into = into.map_err(|error| failed(&error))?;
        if is_folder {
            return not_the_kernel_s(&into);
        }
        let target = into.join(name);
        not_the_kernel_s(&target)?;
        copy(&mut writer, &target, entry, 0, time(inside)).map_err(|error| failed(&error))
    })?;
    if any { writer.finish().map(Some).map_err(|error| failed(&error)) } else { Ok(None) }
}

fn not_the_kernel_s(path: &Path) -> Result<(), BuildError> {
    if ["proc", "sys", "dev", ".gantry"].iter().any(|name| path.starts_with(name)) {
        let why = format!("{} cannot be put into an image: the kernel's own is mounted there", path.display());
        return Err(BuildError::new(BuildPhase::Source, why));
    }
    Ok(())
}

fn app_layer(archive: impl Read, making: &LayerInput<'_>) -> Result<Layer, BuildError> {
    let mut writer = LayerWriter::new(making.scratch).map_err(|error| failed(&error))?;
    let time = |path: &Path| making.times.of(fingerprint_of(path));
    let meta = |mode, path: &Path| Meta { mode, uid: APP_USER, gid: APP_USER, mtime: time(path) };
    writer.folder(Path::new(APP), meta(0o755, Path::new(""))).map_err(|error| failed(&error))?;
    let mut folders = BTreeSet::new();
    each(archive, |path, entry| {
        // Gantry writes this file below and ignores a file of this name in the tree.
        if path == Path::new(REVISION) {
            return Ok(());
        }
        let target = Path::new(APP).join(path);
        // Without an entry in the layer, a folder that the archive leaves out would belong to root.
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            if folders.insert(folder.to_owned()) && !entry.header().entry_type().is_dir() {
                let meta = meta(0o755, folder);
                writer.folder(&Path::new(APP).join(folder), meta).map_err(|error| failed(&error))?;
            }
        }
        if entry.header().entry_type().is_dir() {
            folders.insert(path.to_owned());
        }
        copy(&mut writer, &target, entry, APP_USER, time(path)).map_err(|error| failed(&error))
    })?;
    let revision = format!("{}\n", making.commit);
    let meta = meta(0o644, Path::new(REVISION));
    writer
        .file(&Path::new(APP).join(REVISION), meta, revision.len() as u64, revision.as_bytes())
        .and_then(|()| writer.finish())
        .map_err(|error| failed(&error))
}

fn copy(writer: &mut LayerWriter, path: &Path, entry: &mut Member<'_, '_>, owner: u32, mtime: u64) -> io::Result<()> {
    let header = entry.header();
    // git knows two modes. The archive's umask must not reach the image.
    let executable = header.mode()? & 0o100 != 0;
    let mode = if executable || header.entry_type().is_dir() { 0o755 } else { 0o644 };
    let meta = Meta { mode, uid: owner, gid: owner, mtime };
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
