//! Connections by a client that knows only the hash of the authority: a machine that joins, or a person's command line.

use std::sync::Arc;

use rcgen::CertificateParams;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::TrustError;
use crate::authority::CaHash;
use crate::credentials::{certified, provider, roots};
use crate::key::MachineKey;

/// Configuration of a connection to a server whose chain contains the authority with this hash. With a key, the client
/// proves in the handshake that it has the key.
///
/// # Errors
/// [`TrustError`].
pub fn pinned_config(ca: &CaHash, key: Option<&MachineKey>) -> Result<Arc<ClientConfig>, TrustError> {
    let verifier =
        PinnedAuthority { ca: ca.clone(), schemes: provider().signature_verification_algorithms.supported_schemes() };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TrustError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self_signed(key)?))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Reason why a peer's certificate was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerFailure {
    /// The authority of the peer is not the expected one.
    Authority,
    /// The certificate is not valid at this machine's time.
    Time,
    /// The certificate is refused for another reason, such as its name.
    Other,
}

/// Finds out why a TLS connection failed, from one error of its chain of causes; `None` for an error of another kind.
#[must_use]
pub fn peer_failure(error: &(dyn std::error::Error + 'static)) -> Option<PeerFailure> {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let tls = inner.and_then(|inner| inner.downcast_ref::<Error>()).or_else(|| error.downcast_ref::<Error>())?;
    let Error::InvalidCertificate(certificate) = tls else { return None };
    Some(match certificate {
        CertificateError::UnknownIssuer => PeerFailure::Authority,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => PeerFailure::Time,
        _ => PeerFailure::Other,
    })
}

/// A certificate that shows a key and names no machine.
fn self_signed(key: &MachineKey) -> Result<CertifiedKey, TrustError> {
    let certificate = CertificateParams::default().self_signed(&key.0).map_err(TrustError::Make)?;
    certified(&certificate.pem(), key)
}

/// Accepts a server if its chain contains the authority with the expected hash, and that authority issued the server's
/// certificate for the expected name.
#[derive(Debug)]
struct PinnedAuthority {
    ca: CaHash,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(ca) = chain.iter().find(|certificate| CaHash::of(certificate) == self.ca) else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(&ca.clone().into_owned()), provider()).build();
        let verifier = verifier.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        verifier.verify_server_cert(certificate, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
