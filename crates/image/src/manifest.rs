//! Manifests and configurations. Docker's and OCI's differ in the media types alone.

use std::collections::BTreeMap;
use std::fmt;

use gantry_model::Digest;
use serde::{Deserialize, Serialize};

/// An OCI manifest's media type.
pub const MANIFEST_OCI: &str = "application/vnd.oci.image.manifest.v1+json";
/// A Docker manifest's media type.
pub const MANIFEST_DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// An OCI index's media type.
pub const INDEX_OCI: &str = "application/vnd.oci.image.index.v1+json";
/// A Docker manifest list's media type.
pub const INDEX_DOCKER: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const CONFIG_OCI: &str = "application/vnd.oci.image.config.v1+json";
const CONFIG_DOCKER: &str = "application/vnd.docker.container.image.v1+json";
/// The media type of the layers that Gantry makes.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The most that all blobs of an image may have, in bytes: twice what a layer may become.
const SIZE_MAX: u64 = 64 << 30;

/// The most layers: what an overlay takes (the kernel's `OVL_MAX_STACK` is 500) with room for the container's own.
const LAYERS_MAX: usize = 400;

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the expected form.
    #[error("the image's {what} cannot be read: {source}")]
    Unreadable {
        /// `manifest` or `configuration`.
        what: &'static str,
        /// Where it fails.
        source: serde_json::Error,
    },
    /// Read, and impossible.
    #[error("the image is refused: {0}")]
    Refused(String),
    /// A signature, a chart, a list of parts: anything that is kept like an image and cannot run.
    #[error("it is an artifact of type {kind}, not an image that runs")]
    Artifact {
        /// Its `artifactType`, or the media type of its configuration.
        kind: String,
    },
    /// An index without an image for this machine.
    #[error("it has no image for this machine, which is {this}; {}", has_images(has))]
    NoImage {
        /// This machine's platform.
        this: String,
        /// The platforms that the index names.
        has: Vec<String>,
    },
}

/// Characters of an artifact's type that a message shows.
const KIND_SHOWN: usize = 200;

/// Platforms that a message names.
const PLATFORMS_SHOWN: usize = 10;

fn has_images(has: &[String]) -> String {
    match has {
        [] => "it names no platform".to_owned(),
        _ => format!("it has images for {}", has[..has.len().min(PLATFORMS_SHOWN)].join(", ")),
    }
}

/// Names a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its content.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// In an index: what machine it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// [`MANIFEST_OCI`] or [`MANIFEST_DOCKER`].
    #[serde(default = "oci")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// From the bottom up.
    pub layers: Vec<Descriptor>,
    /// What an artifact is; images have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

fn oci() -> String {
    MANIFEST_OCI.to_owned()
}

/// Several images under one name.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// [`INDEX_OCI`] or [`INDEX_DOCKER`].
    #[serde(default = "oci_index")]
    pub media_type: String,
    /// The images.
    pub manifests: Vec<Descriptor>,
}

fn oci_index() -> String {
    INDEX_OCI.to_owned()
}

impl Index {
    /// Reads an index; none if the bytes are something else, such as a manifest.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let index: Self = serde_json::from_slice(bytes).ok()?;
        [INDEX_OCI, INDEX_DOCKER].contains(&index.media_type.as_str()).then_some(index)
    }
}

pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// How an image is run, and how its layers are checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// `amd64`, …
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// How to run it.
    #[serde(default)]
    pub config: Runtime,
    /// The layers' uncompressed digests.
    pub rootfs: RootFs,
    /// Whatever else there is.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

/// The layers' uncompressed digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// From the bottom up, one for each of the manifest's layers.
    pub diff_ids: Vec<Digest>,
}

/// How an image is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Runtime {
    /// `uid`, `uid:gid`, or names of the image's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `NAME=value` each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Put before the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Where it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `8080/tcp` → `{}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    /// `/data` → `{}`: where the image expects data that lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    /// The signal that asks for shutdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// The label of an image that holds the files of its recipe: a JSON object, path to content. By it an image that one Gantry
/// built is deployed as another app, or by another Gantry.
pub const RECIPE_LABEL: &str = "dev.gantry.recipe";

/// Who the source, and the process that runs it, belongs to in an image that Gantry built.
pub const APP_USER: u32 = 1000;

impl Runtime {
    /// Gantry built the image, and chose its user.
    #[must_use]
    pub fn is_built(&self) -> bool {
        let labelled = self.labels.as_ref().is_some_and(|labels| labels.contains_key(RECIPE_LABEL));
        labelled && self.user.as_deref() == Some(&format!("{APP_USER}:{APP_USER}"))
    }

    /// The folder that the command starts in: absolute and without `.` and `..`, as Docker has it.
    #[must_use]
    pub fn working_folder(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for name in self.working_dir.as_deref().unwrap_or_default().split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        format!("/{}", names.join("/"))
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// When it is not one, or could not be run.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|source| ManifestError::Unreadable { what: "manifest", source })?;
        let refused = |why: String| Err(ManifestError::Refused(why));
        if manifest.schema_version != 2 {
            return refused(format!("schema version {} is not known, only 2", manifest.schema_version));
        }
        if ![MANIFEST_OCI, MANIFEST_DOCKER].contains(&manifest.media_type.as_str()) {
            return refused(format!("{} is not an image's manifest", manifest.media_type));
        }
        if manifest.layers.len() > LAYERS_MAX {
            return refused(format!("it has {} layers, at most {LAYERS_MAX} can be mounted", manifest.layers.len()));
        }
        // The sizes are whoever wrote it's; what is fetched is bounded by them.
        let total = manifest.blobs().try_fold(0u64, |total, blob| total.checked_add(blob.size));
        if total.is_none_or(|total| total > SIZE_MAX) {
            return refused(format!("it says that it has more than {SIZE_MAX} bytes"));
        }
        Ok(manifest)
    }

    /// What an artifact is; none for an image.
    fn artifact(&self) -> Option<String> {
        let named = self.artifact_type.clone().filter(|kind| !kind.is_empty());
        let of_config =
            Some(&self.config.media_type).filter(|kind| ![CONFIG_OCI, CONFIG_DOCKER, ""].contains(&kind.as_str()));
        // Whoever wrote it chose the text.
        named.or_else(|| of_config.cloned()).map(|kind| kind.chars().take(KIND_SHOWN).collect())
    }

    /// Every blob that the image needs besides its manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

impl Config {
    /// Reads the configuration that belongs to `manifest`.
    ///
    /// # Errors
    /// When it is not one, or is for another machine, or does not fit the manifest.
    pub fn parse(bytes: &[u8], manifest: &Manifest) -> Result<Self, ManifestError> {
        let config: Self = serde_json::from_slice(bytes).map_err(|source| {
            let artifact = |kind| ManifestError::Artifact { kind };
            manifest.artifact().map_or(ManifestError::Unreadable { what: "configuration", source }, artifact)
        })?;
        if config.os != "linux" || config.architecture != architecture() {
            return Err(ManifestError::Refused(format!(
                "it is for {}/{}, this machine is linux/{}",
                config.os,
                config.architecture,
                architecture()
            )));
        }
        let (layers, digests) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != digests {
            return Err(ManifestError::Refused(format!("it has {layers} layers and {digests} digests for them")));
        }
        Ok(config)
    }

    /// The configuration of an image that Gantry makes.
    #[must_use]
    pub fn new(diff_ids: Vec<Digest>, runtime: Runtime) -> Self {
        Self {
            architecture: architecture().to_owned(),
            os: "linux".to_owned(),
            config: runtime,
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
            rest: BTreeMap::new(),
        }
    }
}

impl Manifest {
    /// The manifest of an image that Gantry makes.
    #[must_use]
    pub fn new(config: (Digest, u64), layers: Vec<Descriptor>) -> Self {
        let descriptor =
            Descriptor { media_type: CONFIG_OCI.to_owned(), digest: config.0, size: config.1, platform: None };
        Self { schema_version: 2, media_type: oci(), config: descriptor, layers, artifact_type: None }
    }
}
