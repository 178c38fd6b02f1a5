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
pub(crate) const MARK_FILE: &str = "snapshot";

/// The images of a machine.
#[derive(Debug)]
pub struct OfflineImages {
    folder: PathBuf,
    /// Folder of the unpacked layers.
    unpacked: PathBuf,
    layers: Layers,
}

impl OfflineImages {
    /// The images in an agent's data folder; their folders are made if they are missing.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn in_folder(data: &Path) -> Result<Self, LayersError> {
        let (folder, unpacked) = (data.join("images"), data.join("layers"));
        std::fs::create_dir_all(&folder).map_err(|source| LayersError::Folder {
            action: "make",
            path: folder.clone(),
            source,
        })?;
        let layers = Layers::in_folder(&unpacked, ClusterPolicy::default().reserve().0)?;
        Ok(Self { folder, unpacked, layers })
    }

    /// The unpacked layers.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Keeps the manifest and the configuration of an image whose layers are unpacked. An image that is complete stays as
    /// it is: the agent may read it now, and a kill in the middle would cut it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn keep(&self, image: &Digest, manifest: &Manifest, config: &Config) -> io::Result<()> {
        let folder = self.folder_of(image);
        let is_kept = images::read(&folder).is_some_and(|kept| kept.0 == *manifest && kept.1 == *config);
        if !is_kept {
            images::keep(&folder, manifest, config)?;
        }
        gantry_ledger::sync_tree(&folder)
    }

    /// Marks these images, and takes the mark from all others. The marked images and their layers survive a power loss.
    ///
    /// # Errors
    /// When a mark cannot be written or removed.
    pub fn mark(&self, images: &BTreeSet<Digest>) -> io::Result<()> {
        // The content of layers and images is on the disk already. Their names are from here on.
        [&self.unpacked, &self.folder].into_iter().try_for_each(|folder| gantry_ledger::sync(folder))?;
        for image in images {
            gantry_ledger::replace(&self.mark_of(image), b"")?;
        }
        // A damaged image may have a mark as well.
        for image in self.known().filter(|image| !images.contains(image)) {
            match std::fs::remove_file(self.mark_of(&image)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The images that are complete on this machine.
    #[must_use]
    pub fn complete_images(&self) -> BTreeSet<Digest> {
        self.known().filter(|image| images::read(&self.folder_of(image)).is_some()).collect()
    }

    /// Every image that has a folder.
    fn known(&self) -> impl Iterator<Item = Digest> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| Digest::from_hex(entry.file_name().to_str()?).ok())
    }

    fn folder_of(&self, image: &Digest) -> PathBuf {
        self.folder.join(image.hex())
    }

    fn mark_of(&self, image: &Digest) -> PathBuf {
        self.folder_of(image).join(MARK_FILE)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use gantry_blobs::DigestHasher;
    use gantry_image::Runtime;

    use super::*;

    /// The images of a new data folder.
    fn images() -> (tempfile::TempDir, OfflineImages) {
        let data = tempfile::tempdir().expect("a folder");
        let images = OfflineImages::in_folder(data.path()).expect("opened");
        (data, images)
    }

    /// An image without layers, with the digest of its name.
    fn image(name: &str) -> (Digest, Manifest, Config) {
        let config = Config::new(Vec::new(), Runtime { user: Some(name.to_owned()), ..Runtime::default() });
        let text = serde_json::to_vec(&config).expect("JSON");
        let manifest = Manifest::new((DigestHasher::of(&text), text.len() as u64), Vec::new());
        (DigestHasher::of(name.as_bytes()), manifest, config)
    }

    fn keep(images: &OfflineImages, name: &str) -> Digest {
        let (digest, manifest, config) = image(name);
        images.keep(&digest, &manifest, &config).expect("kept");
        digest
    }

    #[test]
    fn keeps_a_complete_image_as_it_is_and_replaces_a_cut_one() {
        let (_data, images) = images();
        let digest = keep(&images, "one");
        let files = ["manifest.json", "config.json"].map(|name| images.folder_of(&digest).join(name));
        let long_ago = UNIX_EPOCH + Duration::from_secs(1);
        let times =
            || files.each_ref().map(|file| std::fs::metadata(file).and_then(|data| data.modified()).expect("a time"));
        let age = |time: SystemTime| {
            for file in &files {
                File::options().append(true).open(file).expect("opened").set_modified(time).expect("set");
            }
        };
        age(long_ago);
        assert_eq!((keep(&images, "one"), times()), (digest.clone(), [long_ago; 2]));
        std::fs::write(&files[1], "{").expect("cut");
        age(long_ago);
        assert!(images.complete_images().is_empty());
        let _ = keep(&images, "one");
        assert_eq!(images.complete_images(), BTreeSet::from([digest]));
        assert!(times().iter().all(|time| *time > long_ago), "{:?}", times());
    }

    #[test]
    fn takes_the_mark_from_all_other_images() {
        let (_data, images) = images();
        let [one, two, damaged] = ["one", "two", "damaged"].map(|name| keep(&images, name));
        images.mark(&BTreeSet::from([one.clone(), damaged.clone()])).expect("marked");
        std::fs::write(images.folder_of(&damaged).join("config.json"), "{").expect("cut");
        images.mark(&BTreeSet::from([two.clone()])).expect("marked");
        let marked = [&one, &two, &damaged].map(|image| images.mark_of(image).exists());
        assert_eq!(marked, [false, true, false]);
        assert_eq!(images.complete_images(), BTreeSet::from([one, two]));
    }
}
