//! Errors of the router.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Errors that keep the router from starting.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The address is taken, or does not belong to this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Error of the system call.
        source: std::io::Error,
    },
    /// The operating system refused to start a thread.
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// The operation.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system call.
        source: std::io::Error,
    },
    /// TLS refuses the machine's key or certificates.
    #[error("cannot open tunnels to other machines")]
    Trust(#[from] gantry_trust::TrustError),
    /// The certificate or its key is unusable.
    #[error("cannot use certificate {path}: {why}")]
    Certificate {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        why: String,
    },
}
