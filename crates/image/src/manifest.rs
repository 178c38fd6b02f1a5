//! Manifests and configurations. Docker's and OCI's formats differ only in the media types.

use std::collections::BTreeMap;
use std::fmt;

use gantry_model::Digest;
use serde::{Deserialize, Serialize};

/// Media type of an OCI manifest.
pub const MANIFEST_OCI: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of a Docker manifest.
pub const MANIFEST_DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of an OCI index.
pub const INDEX_OCI: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a Docker manifest list.
pub const INDEX_DOCKER: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const CONFIG_OCI: &str = "application/vnd.oci.image.config.v1+json";
const CONFIG_DOCKER: &str = "application/vnd.docker.container.image.v1+json";
/// Media type of the layers that Gantry writes.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Limit in bytes on all blobs of an image: twice the limit on an unpacked layer.
const SIZE_MAX: u64 = 64 << 30;

/// Limit on layers. An overlay takes 500 (the kernel's `OVL_MAX_STACK`); the rest is left for the container's own
/// layers.
const LAYERS_MAX: usize = 400;

/// Reasons why an image is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not JSON of the expected form.
    #[error("the image's {what} cannot be read: {source}")]
    Unreadable {
        /// `manifest` or `configuration`.
        what: &'static str,
        /// Cause, with the position in the JSON.
        source: serde_json::Error,
    },
    /// The content is readable but invalid.
    #[error("the image is refused: {0}")]
    Refused(String),
    /// The manifest is of an artifact, such as a signature, a chart or a list of parts. Registries store artifacts like
    /// images, but artifacts cannot run.
    #[error("it is an artifact of type {kind}, not an image that runs")]
    Artifact {
        /// The `artifactType`, or the media type of the configuration.
        kind: String,
    },
    /// The index has no image for this machine.
    #[error("it has no image for this machine, which is {this}; {}", has_images(has))]
    NoImage {
        /// Platform of this machine.
        this: String,
        /// Platforms that the index names.
        has: Vec<String>,
    },
}

/// Limit on the characters of an artifact's type in a message.
const KIND_SHOWN: usize = 200;

/// Limit on the platforms in a message.
const PLATFORMS_SHOWN: usize = 10;

fn has_images(has: &[String]) -> String {
    match has {
        [] => "it names no platform".to_owned(),
        _ => format!("it has images for {}", has[..has.len().min(PLATFORMS_SHOWN)].join(", ")),
    }
}

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// In an index: the platform of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A platform: operating system and processor architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Architecture: `amd64`, `arm64`, …
    pub architecture: String,
    /// Operating system: `linux`.
    pub os: String,
    /// Variant of the architecture: `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// An image's manifest: references to the configuration and the layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Schema version; always 2.
    pub schema_version: u32,
    /// Media type: [`MANIFEST_OCI`] or [`MANIFEST_DOCKER`].
    #[serde(default = "oci")]
    pub media_type: String,
    /// Descriptor of the configuration.
    pub config: Descriptor,
    /// Descriptors of the layers, from the bottom up.
    pub layers: Vec<Descriptor>,
    /// Type of an artifact; images have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

fn oci() -> String {
    MANIFEST_OCI.to_owned()
}

/// An index: several images under one name.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Media type: [`INDEX_OCI`] or [`INDEX_DOCKER`].
    #[serde(default = "oci_index")]
    pub media_type: String,
    /// Descriptors of the images' manifests.
    pub manifests: Vec<Descriptor>,
}

fn oci_index() -> String {
    INDEX_OCI.to_owned()
}

impl Index {
    /// Parses an index. Returns none if the bytes are something else, such as a manifest.
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

/// An image's configuration: settings for running the image, and digests for checking its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Architecture: `amd64`, …
    pub architecture: String,
    /// Operating system: `linux`.
    pub os: String,
    /// Settings for running the image.
    #[serde(default)]
    pub config: Runtime,
    /// Digests of the uncompressed layers.
    pub rootfs: RootFs,
    /// All other fields.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

/// Digests of the uncompressed layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests from the bottom up, one per layer of the manifest.
    pub diff_ids: Vec<Digest>,
}

/// Settings for running an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Runtime {
    /// User: `uid`, `uid:gid`, or names from the image's account files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Environment variables, each as `NAME=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Entry point: the program and arguments before the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Working folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Ports that the image exposes: `8080/tcp` → `{}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    /// Paths of persistent data: `/data` → `{}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    /// Signal that asks the application to shut down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Label with the files of the recipe of an image, as a JSON object from path to content. With this label, an image
/// that Gantry built can be deployed as another app, or by another Gantry.
pub const RECIPE_LABEL: &str = "dev.gantry.recipe";

/// User id of the application in images that Gantry built. This user owns the source and runs the process.
pub const APP_USER: u32 = 1000;

impl Runtime {
    /// Returns whether Gantry built the image and chose its user.
    #[must_use]
    pub fn is_built(&self) -> bool {
        let labelled = self.labels.as_ref().is_some_and(|labels| labels.contains_key(RECIPE_LABEL));
        labelled && self.user.as_deref() == Some(&format!("{APP_USER}:{APP_USER}"))
    }

    /// Returns the command's working folder as an absolute path without `.` and `..`, as Docker does.
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
    /// Parses a manifest.
    ///
    /// # Errors
    /// When the bytes are not a valid manifest, or the image could not be run.
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
        // The manifest's author chose the sizes, and the sizes bound the bytes to fetch.
        let total = manifest.blobs().try_fold(0u64, |total, blob| total.checked_add(blob.size));
        if total.is_none_or(|total| total > SIZE_MAX) {
            return refused(format!("it says that it has more than {SIZE_MAX} bytes"));
        }
        Ok(manifest)
    }

    /// Returns the type of an artifact; none for an image.
    fn artifact(&self) -> Option<String> {
        let named = self.artifact_type.clone().filter(|kind| !kind.is_empty());
        let of_config =
            Some(&self.config.media_type).filter(|kind| ![CONFIG_OCI, CONFIG_DOCKER, ""].contains(&kind.as_str()));
        // The manifest's author chose the text, so its length is limited.
        named.or_else(|| of_config.cloned()).map(|kind| kind.chars().take(KIND_SHOWN).collect())
    }

    /// Iterates over every blob of the image except its manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

impl Config {
    /// Parses the configuration that belongs to `manifest`.
    ///
    /// # Errors
    /// When the bytes are not a valid configuration, or the image is for another platform, or the layers do not fit the
    /// manifest.
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

    /// Creates the configuration of an image that Gantry builds.
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
    /// Creates the manifest of an image that Gantry builds.
    #[must_use]
    pub fn new(config: (Digest, u64), layers: Vec<Descriptor>) -> Self {
        let descriptor =
            Descriptor { media_type: CONFIG_OCI.to_owned(), digest: config.0, size: config.1, platform: None };
        Self { schema_version: 2, media_type: oci(), config: descriptor, layers, artifact_type: None }
    }
}
