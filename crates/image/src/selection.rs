//! Chooses an index's image for this machine. An index may contain other indexes.
//!
//! [`Selection`] only decides. The caller reads the manifests, from the blobs, an archive or another registry.

use std::collections::BTreeSet;

use gantry_model::Digest;

use crate::manifest::{Descriptor, Index, ManifestError, Platform, architecture};

/// Limit on the nesting of indexes.
const DEPTH_MAX: usize = 5;

/// Limit on the manifests and indexes that are read for an image.
const READS_MAX: usize = 50;

/// A depth-first search through an index. The caller passes each manifest to [`Selection::next`].
#[derive(Debug, Default)]
pub struct Selection {
    /// Descriptors still to read, the next at the end, each with the number of indexes above.
    open: Vec<(Descriptor, usize)>,
    /// Number of indexes above the manifest that the caller passes next.
    depth: usize,
    indexes: BTreeSet<Digest>,
    reads: usize,
    platforms: BTreeSet<String>,
}

/// The decision about a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestDecision {
    /// The manifest is the image's manifest.
    Found,
    /// The caller must read this manifest next, and pass its content on.
    Read(Descriptor),
}

impl Selection {
    /// Decides about the manifest or index `bytes`, which has the given digest.
    ///
    /// # Errors
    /// [`ManifestError::NoImage`] if there is no image for this machine. [`ManifestError::Refused`] if the indexes are
    /// nested too deeply, are too many, or form a circle.
    pub fn next(&mut self, digest: &Digest, bytes: &[u8]) -> Result<ManifestDecision, ManifestError> {
        let Some(index) = Index::parse(bytes) else {
            return Ok(ManifestDecision::Found);
        };
        let refused = |why: String| Err(ManifestError::Refused(why));
        if self.depth == DEPTH_MAX {
            return refused(format!("its indexes are nested more than {DEPTH_MAX} deep"));
        }
        self.indexes.insert(digest.clone());
        self.platforms.extend(index.manifests.iter().filter_map(|one| shown(one.platform.as_ref()?)));
        let depth = self.depth + 1;
        let mut fitting: Vec<(u8, Descriptor)> =
            index.manifests.into_iter().filter_map(|one| Some((preference(one.platform.as_ref())?, one))).collect();
        fitting.sort_by_key(|(preference, _)| *preference);
        self.open.extend(fitting.into_iter().rev().map(|(_, descriptor)| (descriptor, depth)));
        let Some((descriptor, depth)) = self.open.pop() else {
            let has = std::mem::take(&mut self.platforms).into_iter().collect();
            return Err(ManifestError::NoImage { this: format!("linux/{}", architecture()), has });
        };
        if self.indexes.contains(&descriptor.digest) {
            return refused(format!("its index {} leads back to itself", descriptor.digest));
        }
        self.reads += 1;
        if self.reads > READS_MAX {
            return refused(format!("its indexes name more than {READS_MAX} manifests for this machine"));
        }
        self.depth = depth;
        Ok(ManifestDecision::Read(descriptor))
    }
}

/// Returns how well a platform fits this machine, lower is better; none if the platform does not fit. An entry without
/// a platform may be of any kind. An image with a variant may need more than this processor has.
fn preference(platform: Option<&Platform>) -> Option<u8> {
    let Some(platform) = platform else { return Some(2) };
    let fits = platform.os == "linux" && platform.architecture == architecture();
    let plain = platform.variant.as_deref().is_none_or(|variant| ["", "v1", "v8"].contains(&variant));
    fits.then_some(u8::from(!plain))
}

/// Formats a platform for a message. Builders store attestations beside their images, with the platform
/// `unknown/unknown`; these are left out.
fn shown(platform: &Platform) -> Option<String> {
    (platform.os != "unknown").then(|| platform.to_string().chars().take(60).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gantry_blobs::DigestHasher;
    use serde_json::{Value, json};

    use super::*;

    /// Manifests and indexes by digest.
    #[derive(Default)]
    struct ManifestStore(BTreeMap<Digest, Vec<u8>>);

    impl ManifestStore {
        fn put(&mut self, value: &Value) -> Digest {
            let bytes = value.to_string().into_bytes();
            let digest = DigestHasher::of(&bytes);
            self.0.insert(digest.clone(), bytes);
            digest
        }

        fn manifest(&mut self, name: &str) -> Digest {
            self.put(&json!({ "name": name, "config": {}, "layers": [] }))
        }

        fn index(&mut self, entries: &[(Option<&str>, &Digest)]) -> Digest {
            let entries: Vec<Value> = entries
                .iter()
                .map(|(platform, digest)| {
                    let mut entry = json!({ "mediaType": "x", "digest": digest, "size": 1 });
                    if let Some(platform) = platform {
                        let mut parts = platform.split('/');
                        let (os, architecture) = (parts.next(), parts.next());
                        entry["platform"] = json!({ "os": os, "architecture": architecture });
                        parts.next().into_iter().for_each(|variant| entry["platform"]["variant"] = json!(variant));
                    }
                    entry
                })
                .collect();
            self.put(&json!({ "schemaVersion": 2, "manifests": entries }))
        }

        fn select(&self, top: &Digest) -> Result<Digest, ManifestError> {
            let mut selection = Selection::default();
            let mut digest = top.clone();
            loop {
                let bytes = self.0.get(&digest).expect("a document");
                match selection.next(&digest, bytes)? {
                    ManifestDecision::Found => return Ok(digest),
                    ManifestDecision::Read(descriptor) => digest = descriptor.digest,
                }
            }
        }
    }

    fn own() -> String {
        format!("linux/{}", architecture())
    }

    #[test]
    fn an_image_is_found_through_nested_indexes_to_a_bound() {
        let mut store = ManifestStore::default();
        let image = store.manifest("image");
        let mut top = image.clone();
        for depth in 0..=DEPTH_MAX {
            assert_eq!(store.select(&top).as_ref().ok(), Some(&image), "{depth}");
            let platform = own();
            top = store.index(&[(if depth % 2 == 0 { Some(&platform) } else { None }, &top)]);
        }
        let error = store.select(&top).expect_err("too deep").to_string();
        assert!(error.contains("nested more than 5 deep"), "{error}");
    }

    #[test]
    fn the_best_entry_is_taken_and_a_branch_without_an_image_is_left_again() {
        let mut store = ManifestStore::default();
        let (image, other, note) = (store.manifest("image"), store.manifest("other"), store.manifest("note"));
        let (own, tuned) = (own(), format!("{}/v9", own()));
        let foreign = store.index(&[(Some("windows/amd64"), &other), (Some("unknown/unknown"), &note)]);
        for (entries, expected) in [
            (vec![(Some("unknown/unknown"), &note), (Some("linux/mips"), &other), (Some(&*own), &image)], &image),
            (vec![(None, &note), (Some(&*own), &image)], &image),
            (vec![(Some(&*tuned), &other), (Some(&*own), &image)], &image),
            (vec![(Some(&*tuned), &other), (Some("linux/mips"), &image)], &other),
            (vec![(None, &image)], &image),
            (vec![(Some(&*own), &foreign), (None, &image)], &image),
            (vec![(None, &foreign), (None, &image)], &image),
        ] {
            let top = store.index(&entries);
            assert_eq!(store.select(&top).as_ref().ok(), Some(expected), "{entries:?}");
        }
    }

    #[test]
    fn without_an_image_for_this_machine_the_others_are_named() {
        let mut store = ManifestStore::default();
        let other = store.manifest("other");
        let inner = store.index(&[(Some("linux/mips"), &other), (Some("unknown/unknown"), &other)]);
        let top = store.index(&[(None, &inner), (Some("linux/arm/v7"), &other)]);
        let error = store.select(&top).expect_err("none").to_string();
        let expected =
            format!("no image for this machine, which is {}; it has images for linux/arm/v7, linux/mips", own());
        assert!(error.contains(&expected) && !error.contains("unknown"), "{error}");
        let empty = store.index(&[]);
        assert!(store.select(&empty).expect_err("none").to_string().contains("it names no platform"));
    }

    #[test]
    fn circles_and_crowds_are_refused() {
        // Honest digests cannot form a circle, but a registry may lie.
        let mut selection = Selection::default();
        let digest = Digest::from_hex(&"a".repeat(64)).expect("a digest");
        let text = json!({ "manifests": [{ "mediaType": "x", "digest": digest, "size": 1 }] }).to_string();
        let error = selection.next(&digest, text.as_bytes()).expect_err("a circle").to_string();
        assert!(error.contains("leads back to itself"), "{error}");

        let mut store = ManifestStore::default();
        let empty: Vec<Digest> = (0..60).map(|n| store.put(&json!({ "n": n, "manifests": [] }))).collect();
        let entries: Vec<(Option<&str>, &Digest)> = empty.iter().map(|digest| (None, digest)).collect();
        let top = store.index(&entries);
        assert!(store.select(&top).expect_err("too many").to_string().contains("more than 50 manifests"));
    }
}
