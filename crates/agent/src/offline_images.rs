//! The images of a machine, for commands that run beside the agent: what the machine holds, and images of a snapshot.
//!
//! An image of a snapshot has a mark in its folder. Garbage collection keeps marked images, so that the machine starts them
//! without a registry at any later time.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use gantry_image::{Config, Layers, LayersError, Manifest};
use gantry_model::{ClusterPolicy, Digest};

use crate::images;

/// Name of the mark in the folder of an image.
pub(crate) const MARK: &str = "snapshot";

/// The images of a machine.
#[derive(Debug)]
pub struct OfflineImages {
    folder: PathBuf,
    layers: Layers,
}

impl OfflineImages {
    /// The images in an agent's data folder; their folders are made if they are missing.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn in_folder(data: &Path) -> Result<Self, LayersError> {
        let folder = data.join("images");
        std::fs::create_dir_all(&folder).map_err(|source| LayersError::Folder {
            action: "make",
            path: folder.clone(),
            source,
        })?;
        let layers = Layers::in_folder(&data.join("layers"), ClusterPolicy::default().reserve().0)?;
        Ok(Self { folder, layers })
    }

    /// The unpacked layers.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Keeps the manifest and the configuration of an image whose layers are unpacked.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn keep(&self, image: &Digest, manifest: &Manifest, config: &Config) -> io::Result<()> {
        let folder = self.folder.join(image.hex());
        images::keep(&folder, manifest, config)?;
        gantry_ledger::sync_tree(&folder)
    }

    /// Marks these images, and takes the mark from all others.
    ///
    /// # Errors
    /// When a mark cannot be written or removed.
    pub fn mark(&self, images: &BTreeSet<Digest>) -> io::Result<()> {
        for image in images {
            gantry_ledger::replace(&self.folder.join(image.hex()).join(MARK), b"")?;
        }
        for image in self.held().difference(images) {
            match std::fs::remove_file(self.folder.join(image.hex()).join(MARK)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The images that are complete on this machine.
    #[must_use]
    pub fn held(&self) -> BTreeSet<Digest> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let image = |entry: std::fs::DirEntry| {
            let image = Digest::from_hex(entry.file_name().to_str()?).ok()?;
            images::read(&entry.path()).map(|_| image)
        };
        entries.filter_map(image).collect()
    }
}
