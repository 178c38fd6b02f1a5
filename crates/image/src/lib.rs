//! OCI images: manifests, layers made and unpacked.
//!
//! - [`Manifest`], [`Config`]: what an image is (OCI image specification 1.1), read strictly where safety hangs on it.
//! - [`LayerWriter`]: a tar stream into a layer; the same input gives the same digest.
//! - [`diff`]: what a container changed in its root, as a layer.
//! - [`Merged`]: the root that unpacked layers make together.
//! - [`unpack`]: a layer into a folder; foreign bytes, so every path is resolved inside the folder by the kernel.
//! - [`members`]: a foreign tar stream, member by member, bounded.
//! - [`import`]: an OCI archive into the blobs.
//! - [`Selection`]: the image of an index for this machine.
//! - [`Referrer`]: what names an image as its subject.
//! - [`pull`]: an image of another registry ([`Remote`]) into the blobs.
//! - [`Accounts`]: an image's users and groups, by its own files.
//! - [`Layers`]: a machine's unpacked layers, each unpacked once.

mod accounts;
mod archive;
mod diff;
#[cfg(fuzzing)]
pub mod fuzz;
mod import;
mod layer;
mod layers;
mod manifest;
mod merged;
mod pull;
mod referrer;
mod remote;
mod selection;
mod sparse;
mod tree;
mod unpack;

pub use accounts::{Account, AccountError, Accounts};
pub use archive::{Metered, members};
pub use diff::diff;
pub use import::{ImportError, import};
pub use layer::{Layer, LayerWriter, Meta};
pub use layers::{Layers, LayersError};
pub use manifest::{
    APP_USER, Config, Descriptor, INDEX_DOCKER, INDEX_OCI, Index, LAYER_GZIP, MANIFEST_DOCKER, MANIFEST_OCI, Manifest,
    ManifestError, RECIPE_LABEL, Runtime,
};
pub use merged::{Looked, Merged};
pub use pull::{Asker, Credentials, PullError, REGISTRY_ID, pull};
pub use referrer::{Referrer, subject};
pub use remote::{Parts, Remote};
pub use selection::{Next, Selection};
pub use unpack::{Bounds, UnpackError, Unpacked, unpack};
