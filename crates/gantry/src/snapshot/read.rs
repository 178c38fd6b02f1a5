//! Reads a snapshot from beginning to end, and verifies every digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use gantry_blobs::DigestHasher;
use gantry_image::{Config, Manifest};
use gantry_model::Digest;

use crate::archive::escaped;

use super::{
    BLOBS, DOCUMENT_MAX, DOCUMENTS_MAX, END_MEMBER, FORMAT, HEADING, HEADING_MAX, IMAGES_MAX, SnapshotBlob,
    SnapshotHeading,
};

/// A snapshot whose digests are verified.
#[derive(Debug)]
pub(super) struct CheckedSnapshot {
    pub(super) images: Vec<CheckedImage>,
    places: BTreeMap<Digest, BlobRange>,
}

/// An image of a snapshot.
#[derive(Debug)]
pub(super) struct CheckedImage {
    pub(super) digest: Digest,
    pub(super) names: Vec<String>,
    pub(super) manifest: Manifest,
    pub(super) config: Config,
}

/// The place of a blob in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobRange {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl CheckedSnapshot {
    /// The place of a blob.
    pub(super) fn place(&self, digest: &Digest) -> anyhow::Result<BlobRange> {
        self.places.get(digest).copied().with_context(|| format!("it lacks blob {digest}"))
    }

    /// Size of all blobs in bytes.
    pub(super) fn size(&self) -> u64 {
        self.places.values().map(|place| place.size).sum()
    }
}

/// Reads a snapshot. The memory in use is that of the manifests and configurations.
pub(super) fn check(file: File) -> anyhow::Result<CheckedSnapshot> {
    let mut reader = SnapshotReader::default();
    let unreadable =
        |error: io::Error| anyhow::Error::new(error).context("it is cut, damaged, or not a snapshot of Gantry");
    gantry_image::members(io::BufReader::with_capacity(1 << 20, file), unreadable, |member| {
        let path = member.path()?.into_owned();
        let (offset, size) = (member.raw_file_position(), member.size());
        reader.member(&path, BlobRange { offset, size }, member)
    })?;
    reader.finish()
}

/// State of reading.
#[derive(Default)]
struct SnapshotReader {
    /// The heading, and its digest.
    heading: Option<(SnapshotHeading, Digest)>,
    places: BTreeMap<Digest, BlobRange>,
    /// Manifests and configurations.
    documents: BTreeMap<Digest, Vec<u8>>,
    documents_size: u64,
    /// Blobs that are manifests or configurations.
    manifest_digests: BTreeSet<Digest>,
    ended: bool,
}

impl SnapshotReader {
    fn member(&mut self, path: &Path, place: BlobRange, content: &mut impl Read) -> anyhow::Result<()> {
        ensure!(!self.ended, "it has more members after its end");
        let Some((heading, digest)) = &self.heading else {
            ensure!(path == Path::new(HEADING), "it is not a snapshot of Gantry: it does not begin with {HEADING}");
            return self.heading(place, content);
        };
        if path == Path::new(END_MEMBER) {
            let mut text = String::new();
            content.take(200).read_to_string(&mut text)?;
            ensure!(text == digest.to_string(), "its list of blobs is damaged");
            self.ended = true;
            return Ok(());
        }
        let Some(SnapshotBlob { digest, size }) = heading.blobs.get(self.places.len()).cloned() else {
            bail!("it has a blob that its list lacks: {}", escaped(path));
        };
        let named = path.strip_prefix(BLOBS).ok().and_then(|name| Digest::from_hex(name.to_str()?).ok());
        ensure!(named.as_ref() == Some(&digest) && size == place.size, "blob {digest} is not at its place");
        self.blob(&digest, content)?;
        self.places.insert(digest, place);
        Ok(())
    }

    fn heading(&mut self, place: BlobRange, content: &mut impl Read) -> anyhow::Result<()> {
        ensure!(place.size <= HEADING_MAX, "its list of blobs is too long");
        let mut text = Vec::new();
        content.read_to_end(&mut text)?;
        let heading: SnapshotHeading = serde_json::from_slice(&text).context("its list of blobs is damaged")?;
        let found = heading.gantry_snapshot;
        ensure!(found == FORMAT, "it has format {found}, and this program knows {FORMAT}; use a newer gantry");
        ensure!(heading.images.len() <= IMAGES_MAX, "it has more than {IMAGES_MAX} images");
        let distinct: BTreeSet<_> = heading.blobs.iter().map(|blob| &blob.digest).collect();
        ensure!(distinct.len() == heading.blobs.len(), "its list has a blob twice");
        self.manifest_digests = heading.images.iter().map(|image| image.digest.clone()).collect();
        self.heading = Some((heading, DigestHasher::of(&text)));
        Ok(())
    }

    /// Verifies a blob. Keeps it if it is a manifest or a configuration. A configuration follows on a manifest that names it.
    fn blob(&mut self, digest: &Digest, content: &mut impl Read) -> anyhow::Result<()> {
        let mut hasher = DigestHasher::default();
        let (mut buffer, mut document) = (vec![0; 256 << 10], self.manifest_digests.contains(digest).then(Vec::new));
        loop {
            let length = content.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
            if let Some(document) = &mut document {
                document.extend_from_slice(&buffer[..length]);
                self.documents_size += length as u64;
                let fits = document.len() as u64 <= DOCUMENT_MAX && self.documents_size <= DOCUMENTS_MAX;
                ensure!(fits, "its manifests and configurations are too large");
            }
        }
        let found = hasher.finish();
        ensure!(found == *digest, "blob {digest} is damaged: its content is {found}");
        if let Some(document) = document {
            if let Ok(manifest) = Manifest::parse(&document) {
                self.manifest_digests.insert(manifest.config.digest);
            }
            self.documents.insert(found, document);
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<CheckedSnapshot> {
        let Some((heading, _)) = self.heading else { bail!("it is empty") };
        ensure!(self.ended, "it was cut off: its end is missing");
        ensure!(self.places.len() == heading.blobs.len(), "it lacks blobs of its list");
        let document = |digest: &Digest| {
            self.documents.get(digest).with_context(|| format!("it lacks the manifest or configuration {digest}"))
        };
        let mut images = Vec::new();
        for image in heading.images {
            let manifest = Manifest::parse(document(&image.digest)?)?;
            let config = Config::parse(document(&manifest.config.digest)?, &manifest)?;
            for layer in &manifest.layers {
                let place = self.places.get(&layer.digest);
                let is_there = place.is_some_and(|place| place.size == layer.size);
                ensure!(is_there, "it lacks layer {} of image {}", layer.digest, image.digest);
            }
            images.push(CheckedImage { digest: image.digest, names: image.names, manifest, config });
        }
        Ok(CheckedSnapshot { images, places: self.places })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::super::save::SnapshotWriter;
    use super::super::{SnapshotBlob, SnapshotImage};
    use super::*;

    /// A snapshot of an image with one layer.
    fn snapshot() -> (Vec<u8>, usize) {
        let layer = vec![7u8; 3000];
        let diff_id = DigestHasher::of(&layer);
        let config = Config::new(vec![diff_id.clone()], gantry_image::Runtime::default());
        let config = serde_json::to_vec(&config).expect("JSON");
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": gantry_image::MANIFEST_OCI,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": DigestHasher::of(&config),
                        "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff_id, "size": layer.len() }],
        });
        let manifest = serde_json::to_vec(&manifest).expect("JSON");
        let parts = [manifest.clone(), config, layer];
        let blobs =
            parts.iter().map(|part| SnapshotBlob { digest: DigestHasher::of(part), size: part.len() as u64 }).collect();
        let image = SnapshotImage { digest: DigestHasher::of(&manifest), names: vec!["base/tiny".to_owned()] };
        let heading = SnapshotHeading { gantry_snapshot: FORMAT, version: String::new(), images: vec![image], blobs };
        let mut writer = SnapshotWriter::begin(Vec::new(), &heading).expect("begun");
        for part in &parts {
            writer.begin_blob(&DigestHasher::of(part), part.len() as u64).expect("begun");
            writer.piece(part).expect("written");
            writer.end_blob().expect("ended");
        }
        (writer.finish().expect("finished"), parts[2].len())
    }

    fn checked(bytes: &[u8]) -> anyhow::Result<CheckedSnapshot> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file.rewind().expect("rewound");
        check(file)
    }

    #[test]
    fn a_whole_snapshot_has_its_images_and_the_places_of_their_layers() {
        let (bytes, size) = snapshot();
        let snapshot = checked(&bytes).expect("whole");
        assert_eq!(snapshot.images.len(), 1);
        assert_eq!(snapshot.images[0].names, ["base/tiny"]);
        let place = snapshot.place(&snapshot.images[0].manifest.layers[0].digest).expect("a place");
        let start = usize::try_from(place.offset).expect("small");
        assert_eq!((place.size as usize, &bytes[start..start + 3]), (size, &[7u8, 7, 7][..]));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_refused() {
        let (bytes, _) = snapshot();
        for length in (0..bytes.len() - 1024).step_by(97) {
            assert!(checked(&bytes[..length]).is_err(), "cut at {length}");
        }
        let told = |snapshot: &CheckedSnapshot| {
            let images: Vec<_> =
                snapshot.images.iter().map(|image| (image.digest.clone(), image.names.clone())).collect();
            (images, snapshot.places.clone())
        };
        let whole = told(&checked(&bytes).expect("whole"));
        for place in (0..bytes.len() - 1024).step_by(7) {
            let mut changed = bytes.clone();
            changed[place] ^= 0x20;
            // Padding, and fields of the archive that say nothing about content, such as owners.
            if let Ok(snapshot) = checked(&changed) {
                assert_eq!(told(&snapshot), whole, "a change at {place}");
            }
        }
        let layer = bytes.windows(3).position(|window| window == [7, 7, 7]).expect("the layer");
        for place in [layer, layer + 2999] {
            let mut changed = bytes.clone();
            changed[place] = 8;
            let error = checked(&changed).expect_err("refused").to_string();
            assert!(error.contains("is damaged"), "{error}");
        }
        assert!(checked(&[bytes.clone(), bytes].concat()).is_ok(), "bytes after the end of the archive are not read");
        assert!(checked(b"no snapshot").is_err());
    }
}
