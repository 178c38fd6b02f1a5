//! Trust between the machines of a cluster: the internal certificate authority, join tokens, a machine's identity on
//! disk, and the one way to TLS between machines.
//!
//! ```text
//! CertificateAuthority ── issue(PublicKey, machine, is_server, now) ──► certificate chain (leaf, CA)
//!        │                                                                  │
//!     CaHash ── in JoinToken, in `gantry login --ca-hash`                 Credentials ── key + chain + CA; replaceable
//!                                                                           │
//!                        client_config() · server_config() · cluster_config() ──► Peer / machine_of_peer
//! ```
//! **Names.** A certificate names its machine: `<machine>.machine.gantry.internal`, and for a server also
//! `server.gantry.internal` ([`PeerName`]). Peers verify these names and never IP addresses.
//!
//! **To connect to a peer:** `TlsConnector::from(credentials.client_config(&[b"h2"]))`, then
//! `connector.connect(PeerName::Machine(name).server_name(), stream)`.
//!
//! **To accept peers:** `TlsAcceptor::from(credentials.server_config(&[b"h2"]))`. The handshake fails without a
//! certificate of the CA. `machine_of_peer(connection.peer_certificates())` names the verified machine.
//!
//! **Renewal.** The configurations look the certificate up at each handshake. [`Credentials::reload`] reads a renewed
//! certificate from the disk, and configurations that were made before use it from the next handshake on.
//!
//! The certificates begin one hour before they are issued, so that a clock may differ. The core of this crate reads no
//! clock: `now` is an argument. TLS itself verifies by the system's clock.
//!
//! A server's public key is verified by possession in the handshake. Therefore no certificate request is parsed: a
//! machine that joins or renews shows its key by a self-signed or expired certificate ([`Peer::Key`]).

mod authority;
mod credentials;
mod identity;
mod key;
mod name;
mod pinned;
mod renewal;
mod tls;
mod token;

pub use authority::{CaHash, CaHashError, CertificateAuthority, LIFE_MILLIS};
pub use credentials::Credentials;
pub use identity::{FOLDER, Identity};
pub use key::{KeyHash, MachineKey, PublicKey};
pub use name::PeerName;
pub use pinned::{PeerFailure, peer_failure, pinned_config};
pub use renewal::is_renewal_due;
pub use tls::{Peer, machine_of_peer};
pub use token::{JoinToken, JoinTokenError, TokenHash};

/// Failure in handling keys, certificates, or the identity's files.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A key or a certificate cannot be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// A key, certificate or authority cannot be read.
    #[error("cannot read {what}: {why}")]
    Parse {
        /// The object, such as `the certificate`.
        what: &'static str,
        /// The fault.
        why: String,
    },
    /// TLS refuses the key or the certificate.
    #[error("TLS refuses the key or the certificate")]
    Tls(#[source] tokio_rustls::rustls::Error),
    /// A file of the identity cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// The failed action.
        action: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Other users may read the key.
    #[error("others may read the key {path} (mode {mode:o}); chmod 600 {path}", path = path.display())]
    KeyOpen {
        /// The file.
        path: std::path::PathBuf,
        /// The file's permissions.
        mode: u32,
    },
}
