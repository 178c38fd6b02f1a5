//! Builds: the library of the build workload. Reads the recipe of a source tree, and makes the layers and the documents
//! of the image.
//!
//! ```text
//! source.tar ─► recipe (roles, settings, name of the base image) ─► base image
//!                 ├─► layer: container/files → /                       ┐
//!                 ├─► layer: everything → /app                         ├─► manifest
//!                 └─► container/compile (run by the agent) ─► layer    ┘
//! ```
//! - [`Source`]: a scanned source archive; makes the layers.
//! - [`Recipe`]: read from `container/`, `Procfile` and `app.json`; pure.
//! - [`ImageDraft`]: the image, layer by layer.
//! - [`Times`]: modification time of each source file, for the compile step and the image.
//! - [`Output`]: the lines of a build.
//! - [`bases`]: base images for app images, made by mmdebstrap.
//! - [`stacks`]: bases with well-known recipes, for code that is uploaded.
//! - [`code`]: uploaded code, which becomes one layer over a stack.
//!
//! This crate starts no process and no container. The agent runs compile steps and mmdebstrap.

mod app_json;
mod archive;
pub mod bases;
pub mod code;
mod foreign;
#[cfg(fuzzing)]
pub mod fuzz;
mod image_draft;
mod lookalike;
mod output;
mod procfile;
mod recipe;
mod roles;
mod script;
mod source;
pub mod stacks;
mod text;
mod times;
mod tree;

pub use archive::Source;
pub use foreign::{is_foreign, lost};
pub use image_draft::{ImageDocuments, ImageDraft};
pub use lookalike::Lookalike;
pub use output::{BuildProgress, Output, OutputEvent};
pub use recipe::{EnvRequest, Recipe, revision};
pub use roles::{HealthConflict, SettingError, check_volume};
pub use script::Compile;
pub use source::build_fingerprint;
pub use text::TextError;
pub use times::{Fingerprint, Times};

use gantry_model::BuildPhase;

/// The failed phase of a build, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// The phase.
    pub phase: BuildPhase,
    /// The cause and the remedy.
    pub message: String,
    /// The last lines of the failing program's output.
    pub tail: Vec<String>,
}

impl BuildError {
    /// An error without output of a program.
    #[must_use]
    pub fn new(phase: BuildPhase, message: impl ToString) -> Self {
        Self { phase, message: message.to_string(), tail: Vec::new() }
    }
}
