//! Damage: blobs that are missing or differ from the digest in their name, with the records that reference them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use gantry_blobs::READ_MAX;
use gantry_image::{Config, Index, Manifest};
use gantry_model::Digest;
use serde_json::Value;

use crate::check_servers::FetchedManifests;

/// Number of references that a message names; a blob may have thousands.
const NAMED: usize = 3;

/// A damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Path of the file below the data folder.
    pub(crate) file: String,
    /// The kind of damage.
    pub(crate) fault: Fault,
    /// The objects that need the file, by the names people use.
    pub(crate) needed_by: Vec<String>,
}

/// The kind of damage of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Missing,
    /// The content has another digest.
    Changed,
    /// The system's error.
    Unreadable(String),
    /// The fault of the file, as the rest of a sentence.
    Wrong(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::Missing => write!(f, "{} is missing", self.file)?,
            Fault::Changed => write!(f, "{} is damaged", self.file)?,
            Fault::Unreadable(why) => write!(f, "{} cannot be read: {why}", self.file)?,
            Fault::Wrong(what) => write!(f, "{} {what}", self.file)?,
        }
        let (named, more) = self.needed_by.split_at(self.needed_by.len().min(NAMED));
        match (named, more.len()) {
            ([], _) => Ok(()),
            (named, 0) => write!(f, " ({})", named.join(", ")),
            (named, more) => write!(f, " ({} and {more} more)", named.join(", ")),
        }
    }
}

/// The remedy for damaged blobs and repositories, in messages of all commands.
const REMEDY: &str = "Gantry cannot start the damaged releases again. Push or deploy the apps again, and make a damaged \
                      base again with `gantry base create NAME --from FILE`. Old releases to which you will not roll back \
                      need no repair.";

/// The remedy for damaged volumes.
const REMEDY_OF_VOLUMES: &str = "The data of the named volumes is incomplete. Look at the disk (`dmesg`), and restore the \
                                 data from an earlier backup or from the program's own dump: `gantry volume import APP NAME --replace FILE`.";

/// The remedy for damaged unpacked layers.
const REMEDY_OF_LAYERS: &str = "For the named unpacked layers, run `gantry check --repair`: the command moves them away, and \
                                the next start unpacks them again from their blobs.";

/// The remedies for these damages.
pub(crate) fn remedies(damaged: &[Damage]) -> Vec<&'static str> {
    let any = |test: &dyn Fn(&str) -> bool| damaged.iter().any(|damage| test(&damage.file));
    let (volumes, layers) = (|file: &str| file.starts_with("volumes/"), |file: &str| file.starts_with("layers/"));
    let other = any(&|file| !volumes(file) && !layers(file)).then_some(REMEDY);
    let volumes = any(&volumes).then_some(REMEDY_OF_VOLUMES);
    let layers = any(&layers).then_some(REMEDY_OF_LAYERS);
    [other, volumes, layers].into_iter().flatten().collect()
}

/// References to blobs.
#[derive(Debug, Default)]
pub(crate) struct BlobReferences {
    /// For each digest, the objects that need this blob.
    blobs: BTreeMap<String, BTreeSet<String>>,
    /// The digests of images' manifests.
    images: BTreeSet<Digest>,
    /// Blob of each layer, by the digest of the layer's tar stream.
    layers: BTreeMap<Digest, Digest>,
}

impl BlobReferences {
    /// Collects the references of the records: images of releases, codes, bases and tags, with their configurations and
    /// layers; packs of repositories and output of builds. `blobs` is the folder of the blobs, and `fetched` has manifests
    /// that are not there. The layers of an image whose manifest is damaged remain unknown.
    pub(crate) fn of<'a>(
        records: impl Iterator<Item = (&'a str, &'a Value)>,
        blobs: &Path,
        fetched: &FetchedManifests,
    ) -> Self {
        let mut needed = Self::default();
        for (key, value) in records {
            let parts: Vec<&str> = key.split('/').collect();
            let (image, who) = match parts.as_slice() {
                ["releases", app, number] => (&value["image"], format!("{app} v{}", number.trim_start_matches('0'))),
                ["bases", name] => (&value["image"], format!("base {name}")),
                ["tags", repository @ .., tag] => (value, format!("{}:{tag}", repository.join("/"))),
                ["codes", app, name] => {
                    let revisions = value["revisions"].as_array().into_iter().flatten();
                    let images = revisions.filter_map(|revision| revision["image"].as_str()?.parse::<Digest>().ok());
                    images.for_each(|image| needed.add(&image, &format!("code {app}/{name}"), blobs, fetched));
                    continue;
                }
                ["packs", app] => {
                    let packs = value["packs"].as_array().into_iter().flatten();
                    packs.for_each(|pack| needed.add_blob(&pack["pack"], format!("pushes to {app}")));
                    continue;
                }
                ["deploys", app, number] => {
                    needed.add_blob(&value["log"], format!("build output of {app} {}", number.trim_start_matches('0')));
                    continue;
                }
                _ => continue,
            };
            if let Some(digest) = image.as_str().and_then(|text| text.parse::<Digest>().ok()) {
                needed.add(&digest, &who, blobs, fetched);
            }
        }
        needed
    }

    /// Adds a blob that leads to no others, if the value is a digest.
    fn add_blob(&mut self, digest: &Value, who: String) {
        if let Some(digest) = digest.as_str().and_then(|text| text.parse::<Digest>().ok()) {
            self.blobs.entry(digest.hex().to_owned()).or_default().insert(who);
        }
    }

    fn add(&mut self, image: &Digest, who: &str, blobs: &Path, fetched: &FetchedManifests) {
        let Self { blobs: references, images, layers } = self;
        images.insert(image.clone());
        let mut need = |digest: &Digest| {
            references.entry(digest.hex().to_owned()).or_default().insert(who.to_owned());
        };
        need(image);
        let path = path_of(blobs, image.hex());
        if std::fs::metadata(&path).is_ok_and(|file| file.len() > READ_MAX) {
            return;
        }
        let Some(bytes) = std::fs::read(path).ok().or_else(|| fetched.get(image.hex()).cloned()) else { return };
        // An index may list manifests that are not on this server.
        if Index::parse(&bytes).is_none()
            && let Ok(manifest) = Manifest::parse(&bytes)
        {
            for descriptor in manifest.blobs() {
                need(&descriptor.digest);
            }
            let config = std::fs::read(path_of(blobs, manifest.config.digest.hex())).unwrap_or_default();
            if let Ok(config) = Config::parse(&config, &manifest) {
                let blobs = manifest.layers.iter().map(|descriptor| descriptor.digest.clone());
                layers.extend(config.rootfs.diff_ids.into_iter().zip(blobs));
            }
        }
    }

    /// Blob of a layer, if an image that the records name has the layer.
    pub(crate) fn blob_of_layer(&self, diff_id: &Digest) -> Option<&Digest> {
        self.layers.get(diff_id)
    }

    /// Images without a manifest in the folder.
    pub(crate) fn missing_images(&self, blobs: &Path) -> Vec<Digest> {
        self.images.iter().filter(|image| !path_of(blobs, image.hex()).exists()).cloned().collect()
    }

    /// The objects that need a blob.
    pub(crate) fn by(&self, hex: &str) -> Vec<String> {
        self.blobs.get(hex).into_iter().flatten().cloned().collect()
    }

    /// Blobs that are referenced but missing.
    pub(crate) fn missing(&self, blobs: &Path) -> Vec<Damage> {
        let missing = self.blobs.iter().filter(|(hex, _)| !path_of(blobs, hex).exists());
        let damage = |(hex, who): (&String, &BTreeSet<String>)| Damage {
            file: format!("blobs/sha256/{}/{hex}", &hex[..2]),
            fault: Fault::Missing,
            needed_by: who.iter().cloned().collect(),
        };
        missing.map(damage).collect()
    }
}

/// Path of a blob.
pub(crate) fn path_of(blobs: &Path, hex: &str) -> std::path::PathBuf {
    blobs.join("sha256").join(&hex[..2]).join(hex)
}

/// The digest in a file's name, if the file is a blob.
pub(crate) fn digest_of_name(name: &Path) -> Option<&str> {
    name.strip_prefix("blobs/sha256").ok()?.file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_blob_names_its_users() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = folder.path();
        let hex = |c: char| c.to_string().repeat(64);
        let sha = |c: char| format!("sha256:{}", hex(c));
        let part = |c: char, kind: &str| json!({ "mediaType": kind, "digest": sha(c), "size": 3 });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": part('c', "application/vnd.oci.image.config.v1+json"),
            "layers": [part('d', "application/vnd.oci.image.layer.v1.tar+gzip")],
        });
        for (name, bytes) in [(hex('a'), manifest.to_string()), (hex('c'), "{}".to_owned())] {
            let path = path_of(blobs, &name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, bytes).expect("written");
        }
        let records = [
            ("releases/shop/00000003", json!({ "image": sha('a') })),
            ("bases/debian", json!({ "image": sha('a') })),
            ("tags/team/shop/latest", json!(sha('b'))),
            ("deploys/shop/00000001", json!({ "image": sha('e') })),
            ("releases/shop/00000004", json!({ "image": "nonsense" })),
        ];
        let needed =
            BlobReferences::of(records.iter().map(|(key, value)| (*key, value)), blobs, &FetchedManifests::new());
        assert_eq!(needed.by(&hex('d')), ["base debian", "shop v3"]);
        assert_eq!(needed.by(&hex('e')), Vec::<String>::new());
        let missing: Vec<String> = needed.missing(blobs).iter().map(ToString::to_string).collect();
        let file = |c: char| format!("blobs/sha256/{c}{c}/{}", hex(c));
        assert_eq!(
            missing,
            [
                format!("{} is missing (team/shop:latest)", file('b')),
                format!("{} is missing (base debian, shop v3)", file('d')),
            ]
        );
        // The manifest that only another server has leads to the same blobs.
        let missing: Vec<String> = needed.missing_images(blobs).iter().map(|image| image.hex().to_owned()).collect();
        assert_eq!(missing, [hex('b')]);
        let fetched = FetchedManifests::from([(hex('b'), manifest.to_string().into_bytes())]);
        let needed = BlobReferences::of(records.iter().map(|(key, value)| (*key, value)), blobs, &fetched);
        assert_eq!(needed.by(&hex('d')), ["base debian", "shop v3", "team/shop:latest"]);
    }

    #[test]
    fn each_kind_of_damage_has_its_remedy() {
        let damage = |file: &str| Damage { file: file.to_owned(), fault: Fault::Changed, needed_by: Vec::new() };
        for (files, expected) in [
            (&[][..], &[][..]),
            (&["blobs/sha256/ab/abcd", "git/shop.git"], &[REMEDY]),
            (&["volumes/db/data/file"], &[REMEDY_OF_VOLUMES]),
            (&["layers/abcd", "volumes/db/data"], &[REMEDY_OF_VOLUMES, REMEDY_OF_LAYERS]),
        ] {
            assert_eq!(remedies(&files.iter().map(|file| damage(file)).collect::<Vec<_>>()), expected, "{files:?}");
        }
    }

    #[test]
    fn only_some_of_many_are_named() {
        let needed_by = (1..=5).map(|number| format!("shop v{number}")).collect();
        let damage = Damage { file: "f".to_owned(), fault: Fault::Changed, needed_by };
        assert_eq!(damage.to_string(), "f is damaged (shop v1, shop v2, shop v3 and 2 more)");
    }
}
