//! The image of a build, layer by layer.

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_blobs::DigestHasher;
use gantry_image::{Config, Descriptor, Manifest, Runtime};
use gantry_model::Digest;

use crate::recipe;
use crate::source::APP_USER;

/// An image that is being made.
#[derive(Clone)]
pub struct ImageDraft {
    layers: Vec<(Descriptor, Digest)>,
    runtime: Runtime,
}

/// The documents of a finished image.
pub struct ImageDocuments {
    /// The configuration, as stored.
    pub config: Bytes,
    /// Digest of the configuration.
    pub config_digest: Digest,
    /// The manifest, as stored.
    pub manifest: Bytes,
    /// Digest of the manifest: the name of the image.
    pub image: Digest,
}

impl ImageDraft {
    /// Begins an image on a base image.
    #[must_use]
    pub fn on_base(manifest: &Manifest, config: &Config) -> Self {
        let layers = manifest.layers.iter().cloned().zip(config.rootfs.diff_ids.iter().cloned()).collect();
        Self { layers, runtime: config.config.clone() }
    }

    /// Adds a layer on top.
    pub fn push(&mut self, descriptor: Descriptor, diff_id: Digest) {
        self.layers.push((descriptor, diff_id));
    }

    /// The content digests of the layers, topmost first.
    pub fn diff_ids(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().rev().map(|(_, diff_id)| diff_id)
    }

    /// The environment of the base image.
    #[must_use]
    pub fn env(&self) -> &[String] {
        self.runtime.env.as_deref().unwrap_or_default()
    }

    /// Finishes the image of uploaded code: the user `app`, its folder and a command. The image has the label of a recipe,
    /// an empty one, because Gantry chose its user.
    ///
    /// # Errors
    /// When a document cannot be serialized.
    pub fn finish_code(self, command: Vec<String>) -> serde_json::Result<ImageDocuments> {
        let mut runtime = self.runtime;
        runtime.user = Some(format!("{APP_USER}:{APP_USER}"));
        runtime.working_dir = Some("/app".to_owned());
        runtime.entrypoint = Some(command);
        runtime.cmd = None;
        runtime.labels.get_or_insert_default().insert(recipe::LABEL.to_owned(), "{}".to_owned());
        let (layers, diff_ids) = self.layers.into_iter().unzip();
        documents(&Config::new(diff_ids, runtime), layers)
    }

    /// Finishes the image of an app: the user `app`, its folder, the commit and the recipe's texts.
    ///
    /// # Errors
    /// When a document cannot be serialized.
    pub fn finish(self, commit: &str, texts: &BTreeMap<String, String>) -> serde_json::Result<ImageDocuments> {
        let mut runtime = self.runtime;
        runtime.user = Some(format!("{APP_USER}:{APP_USER}"));
        runtime.working_dir = Some("/app".to_owned());
        runtime.entrypoint = None;
        runtime.cmd = None;
        let revision = (recipe::REVISION.to_owned(), commit.to_owned());
        let recipe = (recipe::LABEL.to_owned(), serde_json::to_string(texts)?);
        runtime.labels.get_or_insert_default().extend([revision, recipe]);
        let (layers, diff_ids) = self.layers.into_iter().unzip();
        documents(&Config::new(diff_ids, runtime), layers)
    }
}

/// The documents of an image with this configuration and these layers.
pub(crate) fn documents(config: &Config, layers: Vec<Descriptor>) -> serde_json::Result<ImageDocuments> {
    let config = Bytes::from(serde_json::to_vec(config)?);
    let config_digest = DigestHasher::of(&config);
    let manifest = Manifest::new((config_digest.clone(), config.len() as u64), layers);
    let manifest = Bytes::from(serde_json::to_vec(&manifest)?);
    let image = DigestHasher::of(&manifest);
    Ok(ImageDocuments { config, config_digest, manifest, image })
}
