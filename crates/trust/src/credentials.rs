//! A machine's key and certificates in memory.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_model::Moment;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{RootCertStore, SignatureScheme};

use crate::TrustError;
use crate::identity::{Identity, key_path, read_certificates, read_key};
use crate::key::MachineKey;
use crate::renewal::is_renewal_due;

/// Key, certificate and authority of a machine. Clones share the certificate: all clones, and the TLS
/// configurations made from them, use a renewed certificate.
#[derive(Clone)]
pub struct Credentials(Arc<Shared>);

struct Shared {
    ca: CertificateDer<'static>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("ca", &crate::CaHash::of(&self.0.ca)).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Makes credentials of an authority's certificate, a machine's chain, both in PEM form, and the machine's key.
    ///
    /// # Errors
    /// [`TrustError`] if a text is no certificate, or the key is not that of the certificate.
    pub fn new(ca: &str, chain: &str, key: &MachineKey) -> Result<Self, TrustError> {
        let ca = CertificateDer::from_pem_slice(ca.as_bytes());
        let ca = ca.map_err(|e| TrustError::Parse { what: "the authority's certificate", why: e.to_string() })?;
        let current = RwLock::new(Arc::new(certified(chain, key)?));
        Ok(Self(Arc::new(Shared { ca, current })))
    }

    /// Reads the credentials of a machine from its identity's folder (`DATA/cluster`).
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn load(folder: &Path) -> Result<Self, TrustError> {
        Identity::credentials(folder)
    }

    /// Takes a renewed certificate.
    ///
    /// # Errors
    /// [`TrustError`]; the old certificate stays.
    pub fn replace(&self, chain: &str, key: &MachineKey) -> Result<(), TrustError> {
        let renewed = Arc::new(certified(chain, key)?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// Reads the certificate again. Returns whether the folder has another one than before.
    ///
    /// # Errors
    /// [`TrustError`]; the old certificate stays.
    pub fn reload(&self, folder: &Path) -> Result<bool, TrustError> {
        let [_, chain] = read_certificates(folder)?;
        let key = read_key(&key_path(folder))?;
        let before = self.certificate();
        self.replace(&chain, &key)?;
        Ok(self.certificate() != before)
    }

    /// True once two thirds of the certificate's life are over.
    #[must_use]
    pub fn is_renewal_due(&self, now: Moment) -> bool {
        self.certificate().is_none_or(|certificate| is_renewal_due(&certificate, &self.0.ca, now))
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.0.ca
    }

    /// The machine's certificate.
    fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.current().cert.first().cloned()
    }

    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        roots(&self.0.ca)
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The cryptography of all connections between machines.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

pub(crate) fn roots(ca: &CertificateDer<'static>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // An authority that cannot be parsed verifies no peer.
    let _ = roots.add(ca.clone());
    Arc::new(roots)
}

/// Joins a chain in PEM form with its key, and checks that the two match.
pub(crate) fn certified(chain: &str, key: &MachineKey) -> Result<CertifiedKey, TrustError> {
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let certificates =
        certificates.map_err(|e| TrustError::Parse { what: "the machine's certificate", why: e.to_string() })?;
    let key = PrivateKeyDer::Pkcs8(key.0.serialized_der().to_vec().into());
    CertifiedKey::from_der(certificates, key, &provider()).map_err(TrustError::Tls)
}
