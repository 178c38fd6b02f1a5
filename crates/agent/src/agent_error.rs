//! Errors at the agent's start.

use std::path::PathBuf;

use gantry_ledger::ContentError;
use gantry_trust::TrustError;

use crate::network::{NetworkTaken, NftError};

/// Reason why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A folder or file of the agent's failed.
    #[error("cannot {action} {path}")]
    File {
        /// The attempted action.
        action: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A newer agent wrote a file. This agent has changed nothing, and all containers go on.
    #[error("cannot use {path}; all containers stay as they are")]
    Newer {
        /// The path of the file.
        path: PathBuf,
        /// The versions.
        source: ContentError,
    },
    /// The machine's network could not be set up or removed.
    #[error("cannot change the machine's network")]
    Network(#[from] gantry_linux::LinuxError),
    /// The firewall rules could not be changed.
    #[error("cannot change the machine's network")]
    Rules(#[from] NftError),
    /// Another cloud owns a resource that the settings name.
    #[error(transparent)]
    Taken(#[from] NetworkTaken),
    /// The store of unpacked layers failed.
    #[error(transparent)]
    Layers(#[from] gantry_image::LayersError),
    /// The machine's certificate cannot be used.
    #[error("cannot use this machine's certificate for connections to other machines")]
    Trust(#[from] TrustError),
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] gantry_sandbox::SandboxError),
}
