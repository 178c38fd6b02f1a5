//! Image builder: turns a source tree at a commit into an image.
//!
//! ```text
//! source.tar ─► recipe (roles, settings, name of the base image) ─► base image
//!                 ├─► layer: container/files → /                       ┐
//!                 ├─► layer: everything → /app                         ├─► manifest
//!                 └─► container/compile in a sandbox ─► layer: changes ┘
//! ```
//! - [`Recipe`]: read from `container/`, `Procfile` and `app.json`; pure.
//! - [`Builder`]: makes the image, and prints a line for each action.
//! - `times`: modification time of each source file, for the compile step and the image.
//! - [`bases`]: base images for app images, made by mmdebstrap.

mod app_json;
pub mod bases;
mod builder;
mod compile;
mod foreign;
#[cfg(fuzzing)]
pub mod fuzz;
mod lookalike;
mod output;
mod procfile;
mod recipe;
mod roles;
mod script;
mod source;
mod text;
mod times;
mod tree;
mod turns;

pub use builder::{Builder, Built, ContainerNetwork, Folders, Job, Source};
pub use compile::CompileLimits;
pub use foreign::{is_foreign, lost};
pub use lookalike::Lookalike;
pub use output::{Doing, Output};
pub use recipe::{EnvRequest, Recipe, revision};
pub use roles::check_volume;
pub use script::Compile;
pub use turns::Turns;

/// The failed phase of a build, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// Name of the phase: `source`, `roles`, `base`, `compile` or `image`.
    pub phase: &'static str,
    /// The cause and the remedy.
    pub message: String,
    /// The last lines of the failing program's output.
    pub tail: Vec<String>,
}

impl BuildError {
    pub(crate) fn new(phase: &'static str, message: impl ToString) -> Self {
        Self { phase, message: message.to_string(), tail: Vec::new() }
    }
}
