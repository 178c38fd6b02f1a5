//! Source archive (the output of `git archive`): reads the input of the recipe and makes the two layers. Gantry never
//! unpacks the archive on the machine: entries go from tar to tar.

mod layers;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// User that owns the source and runs the app. Base images by Gantry have this user (see `bases`). A container on
/// another base image gets passwd and group entries for the user.
pub(crate) use gantry_image::APP_USER;
use gantry_image::{Metered, members};
use gantry_model::BuildPhase;
use tar::{Entry, EntryType};

pub(crate) use self::layers::{LayerInput, layers};
pub(crate) use self::scan::scan;
use crate::BuildError;
use crate::times::Fingerprint;
use crate::tree::{Tree, fingerprint_of};

/// Folder with files for the root of the image.
const FILES: &str = "container/files";

/// Path of the compile step.
const COMPILE: &str = "container/compile";

/// Folder of the source in the image.
const APP: &str = "app";

/// File with the commit, which Gantry adds to the source.
const REVISION: &str = "REVISION";

/// Maximum number of entries of a source tree.
const ENTRIES_MAX: usize = 500_000;

fn failed(error: &io::Error) -> BuildError {
    BuildError::new(BuildPhase::Source, format!("the source cannot be read: {error}"))
}

/// An entry of the archive.
type Member<'a, 'r> = Entry<'a, Metered<&'r mut (dyn Read + 'r)>>;

/// Path of an entry, made of names only. Refuses a path that leads out of the tree.
fn path_of(entry: &Entry<'_, impl Read>) -> Result<PathBuf, BuildError> {
    let path = entry.path().map_err(|error| failed(&error))?.into_owned();
    let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(BuildError::new(BuildPhase::Source, format!("{:?} leads out of the source tree", path.display())));
    }
    Ok(path.components().filter(|part| matches!(part, Component::Normal(_))).collect())
}

/// Calls `visit` with each entry and its path.
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
                return Err(BuildError::new(
                    BuildPhase::Source,
                    format!("the source has more than {ENTRIES_MAX} files"),
                ));
            }
            if entry.header().entry_type() == EntryType::XGlobalHeader {
                return Ok(());
            }
            let path = path_of(entry)?;
            if path.as_os_str().is_empty() { Ok(()) } else { visit(&path, entry) }
        },
    )
}

/// Input for the layers of a source tree.
#[derive(Debug)]
pub(crate) struct Contents {
    tree: Tree,
    /// The folder to copy onto `/`, with links followed.
    files: Option<PathBuf>,
    /// Date of the commit, which git gives to every entry.
    pub(crate) committed: u64,
}

impl Contents {
    /// Returns whether the tree has a folder to copy onto `/`.
    pub(crate) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// Fingerprints of everything with a recorded time, by path: the entries, the commit's file and the build itself.
    pub(crate) fn fingerprints(&self, commit: &str, base: &str) -> HashMap<Fingerprint, Fingerprint> {
        let mut prints = self.tree.fingerprints();
        prints.insert(fingerprint_of(Path::new(REVISION)), fingerprint_of(Path::new(commit)));
        prints.insert(build_fingerprint(), fingerprint_of(Path::new(&format!("{commit} {base}"))));
        prints
    }
}

/// Fingerprint of the path that stands for the build itself: `/`, because no path of a tree is absolute.
#[must_use]
pub fn build_fingerprint() -> Fingerprint {
    fingerprint_of(Path::new("/"))
}

/// Formats a path for people.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.chars().any(|c| c.is_control() || c == '"') { format!("{text:?}") } else { text.into_owned() }
}
