//! A scanned source archive.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use gantry_image::{Layer, MergedLayers};

use crate::BuildError;
use crate::recipe::Recipe;
use crate::source::{self, Contents, LayerInput};
use crate::times::Times;

/// The archive of a source tree, scanned.
pub struct Source {
    file: File,
    contents: Contents,
}

impl Source {
    /// Scans an archive and reads its recipe. Blocks while the archive is read.
    ///
    /// # Errors
    /// An error in phase `source`, `roles` or `compile`.
    pub fn open(mut file: File) -> Result<(Self, Recipe), BuildError> {
        let scanned = source::scan(&mut BufReader::new(&mut file))?;
        let recipe = Recipe::read(&scanned.found)?;
        Ok((Self { file, contents: scanned.contents }, recipe))
    }

    /// Reports whether the tree has a folder to copy onto `/`.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.contents.has_files()
    }

    /// The times of this build's files, given the times of the previous build. `compiles`: a compile step will run.
    #[must_use]
    pub fn times(&self, before: &Times, commit: &str, base: &str, now: u64, compiles: bool) -> Times {
        before.next(&self.contents.fingerprints(commit, base), self.contents.committed, now, compiles)
    }

    /// Makes the layers of the tree. Blocks. `base` is the root of the base image, if the tree has files to copy onto
    /// `/`; `scratch` is a folder for temporary files.
    ///
    /// # Errors
    /// An error in phase `source`.
    pub fn layers(
        &mut self,
        times: &Times,
        commit: &str,
        base: Option<&MergedLayers>,
        scratch: &Path,
    ) -> Result<Vec<Layer>, BuildError> {
        source::layers(&mut self.file, &LayerInput { contents: &self.contents, times, commit, base, scratch })
    }
}
