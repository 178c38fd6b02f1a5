//! A source tree at a commit, to an image.
//!
//! ```text
//! source.tar ─► recipe (what the repository asks for) ─► base
//!                 ├─► layer: container/files → /      ┐
//!                 ├─► layer: everything → /app        ├─► manifest
//!                 └─► container/compile in a sandbox ─► layer: what it changed ┘
//! ```
//! - [`Recipe`]: read from `container/`, `Procfile` and `app.json`; pure.
//! - [`Builder`]: makes the image, with a line of output for each thing it does.
//! - `times`: when each file of the source changed, as the compile step and the image see it.
//! - [`bases`]: the images that app images are built on, made by mmdebstrap.

mod app_json;
pub mod bases;
mod builder;
mod compile;
mod foreign;
#[cfg(fuzzing)]
pub mod fuzz;
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

pub use builder::{Builder, Built, Folders, Job, Network, Source};
pub use compile::CompileLimits;
pub use foreign::{is_foreign, lost};
pub use output::{Doing, Output};
pub use recipe::{EnvRequest, Recipe, revision};
pub use roles::check_volume;
pub use script::Compile;
pub use turns::Turns;

/// Which part of a build failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// `source`, `roles`, `base`, `compile`, `image`.
    pub phase: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The last lines of the failing program's output.
    pub tail: Vec<String>,
}

impl BuildError {
    pub(crate) fn new(phase: &'static str, message: impl ToString) -> Self {
        Self { phase, message: message.to_string(), tail: Vec::new() }
    }
}
