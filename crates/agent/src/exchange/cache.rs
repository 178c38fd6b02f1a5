//! The folder of the layers that this machine's router sends to other machines, and layers on their way into it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::Digest;

use super::receiver::RangeReceiver;
use crate::file_age::file_age;

/// The folder. Each file has the name of its layer's digest, in hex; a layer that arrives in parts has [`IN_PARTS`] before
/// its name. Only such files stay when the agent starts, because each part is verified again. Other bytes of an earlier
/// agent may not have reached the disk before a loss of power.
pub(super) struct LayerCache {
    folder: PathBuf,
}

/// First letters of the name of a layer that arrives in parts.
const IN_PARTS: &str = "parts-";

/// Fault of a received layer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    /// The source sent more bytes than the layer has.
    #[error("the source sent more bytes than the layer has")]
    TooLong,
    /// The source ended before the layer was complete.
    #[error("the source sent {received} of {size} bytes")]
    Short { received: u64, size: u64 },
    /// The bytes are not those of the part.
    #[error("part {part} of the layer has the wrong digest {found}")]
    WrongPart { part: usize, found: Digest },
    /// The bytes are not those of the layer.
    #[error("the layer has the wrong digest {found}")]
    WrongDigest { found: Digest },
    /// This machine cannot write the layer.
    #[error("cannot write the layer to disk")]
    Disk(#[source] io::Error),
}

impl LayerCache {
    /// Creates the folder, or removes everything from it except layers that arrive in parts. Also returns the digests of
    /// these layers, each with the time since its last part.
    pub(super) fn in_folder(folder: PathBuf) -> io::Result<(Self, Vec<(Digest, Duration)>)> {
        std::fs::create_dir_all(&folder)?;
        let mut in_parts = Vec::new();
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| Digest::from_hex(name.strip_prefix(IN_PARTS)?).ok());
            match digest.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) {
                Some(digest) => {
                    in_parts.push((digest, file_age(&entry.path()).unwrap_or_default()));
                }
                None => std::fs::remove_file(entry.path())?,
            }
        }
        Ok((Self { folder }, in_parts))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Path of a layer that arrives in parts.
    pub(super) fn path_in_parts(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{IN_PARTS}{}", digest.hex()))
    }

    /// Bytes that the parts of a layer occupy on the disk.
    pub(super) fn size_in_parts(&self, digest: &Digest) -> u64 {
        std::fs::metadata(self.path_in_parts(digest)).map_or(0, |metadata| metadata.blocks() * 512)
    }

    /// Opens a layer.
    pub(super) async fn open(&self, digest: &Digest) -> io::Result<tokio::fs::File> {
        tokio::fs::File::open(self.path(digest)).await
    }

    /// Begins to receive a layer. A layer has one receiver at a time. `counter` counts the received bytes.
    pub(super) async fn begin(&self, digest: &Digest, size: u64, counter: &Arc<AtomicU64>) -> io::Result<LayerPart> {
        let path = self.folder.join(format!("new-{}", digest.hex()));
        let file = tokio::fs::File::create(&path).await?;
        let bytes = RangeReceiver::whole(file, digest.clone(), size, Arc::clone(counter));
        Ok(LayerPart { path, kept: self.path(digest), bytes })
    }

    /// Removes a layer. A router that sends it has the file open, and goes on.
    pub(super) fn remove(&self, digest: &Digest) {
        remove(&self.path(digest), digest);
    }

    /// Removes the parts of a layer.
    pub(super) fn remove_in_parts(&self, digest: &Digest) {
        remove(&self.path_in_parts(digest), digest);
    }
}

fn remove(path: &Path, digest: &Digest) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, layer = digest.short(), "cannot remove a layer from the folder of shared layers");
    }
}

/// A layer that is being received as a whole. Dropping it removes the file, unless the layer is kept.
pub(super) struct LayerPart {
    path: PathBuf,
    kept: PathBuf,
    bytes: RangeReceiver,
}

impl Drop for LayerPart {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl LayerPart {
    pub(super) fn received(&self) -> u64 {
        self.bytes.received()
    }

    pub(super) fn digest(&self) -> &Digest {
        self.bytes.layer()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.bytes.is_whole()
    }

    /// The bytes on their way to the file.
    pub(super) fn bytes(&mut self) -> &mut RangeReceiver {
        &mut self.bytes
    }

    /// Adds the next bytes.
    pub(super) async fn write(&mut self, piece: &Bytes) -> Result<(), PartError> {
        self.bytes.write(piece).await
    }

    /// Fails unless all bytes are there.
    pub(super) fn check_length(&self) -> Result<(), PartError> {
        self.bytes.check_length()
    }

    /// Drops all received bytes, because some of them are wrong.
    pub(super) async fn restart(&mut self) -> Result<(), PartError> {
        self.bytes.restart(tokio::fs::File::create(&self.path).await.map_err(PartError::Disk)?);
        Ok(())
    }

    /// Verifies the layer, and gives it its name.
    pub(super) async fn keep(&mut self) -> Result<(), PartError> {
        let digest = self.bytes.layer().clone();
        self.bytes.finish(&digest, |found| PartError::WrongDigest { found }).await?;
        tokio::fs::rename(&self.path, &self.kept).await.map_err(PartError::Disk)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::UNIX_EPOCH;

    use gantry_blobs::DigestHasher;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder").flatten();
        entries.map(|entry| entry.file_name().into_string().expect("text")).collect()
    }

    #[tokio::test]
    async fn keeps_a_layer_only_with_the_right_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cache, _) = LayerCache::in_folder(folder.path().join("layers")).expect("a cache");
        let (digest, counter) = (DigestHasher::of(b"layer"), Arc::default());
        let mut part = cache.begin(&digest, 5, &counter).await.expect("begun");
        part.write(&Bytes::from_static(b"lay")).await.expect("written");
        assert!(matches!(part.keep().await, Err(PartError::Short { received: 3, size: 5 })));
        part.write(&Bytes::from_static(b"ere")).await.expect_err("too long");
        part.write(&Bytes::from_static(b"ar")).await.expect("written");
        assert!(matches!(part.keep().await, Err(PartError::WrongDigest { .. })));
        assert_eq!(names(cache.folder()), [format!("new-{}", digest.hex())]);
        part.restart().await.expect("emptied");
        part.write(&Bytes::from_static(b"layer")).await.expect("written");
        part.keep().await.expect("kept");
        drop(part);
        assert_eq!((names(cache.folder()), counter.load(Ordering::Relaxed)), (vec![digest.hex().to_owned()], 10));
        // Only the layer that is not kept goes with its receiver.
        drop(cache.begin(&DigestHasher::of(b"other"), 5, &counter).await.expect("begun"));
        assert_eq!(names(cache.folder()), [digest.hex()]);
        cache.remove(&digest);
        assert!(names(cache.folder()).is_empty());
    }

    #[test]
    fn starts_with_layers_that_arrive_in_parts_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let digest = DigestHasher::of(b"layer");
        let (parts, new) = (format!("{IN_PARTS}{}", digest.hex()), format!("new-{}", digest.hex()));
        for name in ["left", "parts-left", digest.hex(), &parts, &new] {
            std::fs::write(folder.path().join(name), "x").expect("written");
        }
        let file = std::fs::File::options().write(true).open(folder.path().join(&parts)).expect("opened");
        let before = UNIX_EPOCH + Duration::from_millis(gantry_linux::clock::wall()) - Duration::from_secs(100);
        file.set_modified(before).expect("an older file");
        let (cache, in_parts) = LayerCache::in_folder(folder.path().to_owned()).expect("a cache");
        let [(found, age)] = &in_parts[..] else { panic!("{in_parts:?}") };
        assert_eq!((names(cache.folder()), found), (vec![parts], &digest));
        assert!(*age >= Duration::from_secs(100) && *age < Duration::from_secs(1000), "{age:?}");
        assert!((1..=64 << 10).contains(&cache.size_in_parts(&digest)), "{}", cache.size_in_parts(&digest));
        cache.remove_in_parts(&digest);
        assert_eq!(cache.size_in_parts(&digest), 0);
        assert!(names(cache.folder()).is_empty());
    }
}
