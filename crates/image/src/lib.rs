//! OCI images: reads manifests, writes and unpacks layers.
//!
//! - [`Manifest`], [`Config`]: the parts of an image (OCI image specification 1.1). Fields that safety depends on are
//!   read strictly.
//! - [`LayerWriter`]: writes a tar stream as a layer; the same input gives the same digest.
//! - [`diff`]: writes a container's changes to its root as a layer.
//! - [`MergedLayers`]: the root that results from unpacked layers.
//! - [`unpack`]: unpacks a layer into a folder. The bytes are foreign, so the kernel resolves every path inside the
//!   folder.
//! - [`export`], [`unpack_volume`]: a volume as a tar stream, and back.
//! - [`members`]: reads a foreign tar stream, member by member, with bounds.
//! - [`import`]: imports an OCI archive into the blobs.
//! - [`Selection`]: chooses an index's image for this machine.
//! - [`Referrer`]: a manifest that names an image as its subject.
//! - [`Reporter`]: size by layer, hidden bytes, and files that no program needs.
//! - [`pull`]: copies an image of another registry ([`Remote`]) into the blobs.
//! - [`Accounts`]: an image's users and groups, from its own files.
//! - [`Layers`]: a machine's unpacked layers, each unpacked once.

mod accounts;
mod archive;
mod compare;
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
mod report;
mod selection;
mod sparse;
mod tree;
mod unpack;
mod volume;

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
pub use merged::{MergedLayers, PathLookup};
pub use pull::{Credentials, NoRoom, PullError, PullIdentity, PullTarget, REGISTRY_ID, pull};
pub use referrer::{Referrer, subject};
pub use remote::{ReferenceError, ReferenceParts, Remote};
pub use report::{FileReport, LayerReport, Report, Reporter, Surplus};
pub use selection::{ManifestDecision, Selection};
pub use tree::volume_may_carry;
pub use unpack::{Bounds, UnpackError, Unpacked, unpack, unpack_volume};
pub use volume::{Archived, VolumeWriter, export};
