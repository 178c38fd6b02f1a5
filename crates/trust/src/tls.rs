//! The configurations of TLS between machines. All are TLS 1.3 without resumption: each connection verifies the peer.

use std::sync::Arc;

use gantry_model::{MachineName, Moment};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};

use crate::TrustError;
use crate::credentials::{Credentials, provider};
use crate::key::PublicKey;
use crate::name::PeerName;
use crate::renewal::is_valid;

impl Credentials {
    /// Configuration of connections to peers: shows this machine's certificate, and accepts certificates of the
    /// authority for the name that the connection is made with ([`PeerName::server_name`]).
    ///
    /// # Errors
    /// [`TrustError::Tls`].
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TrustError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(TrustError::Tls)?
            .with_root_certificates(self.roots())
            .with_client_cert_resolver(Arc::new(self.clone()));
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Configuration of a listener for machines alone: a peer without a valid certificate of the authority fails the
    /// handshake. [`machine_of_peer`] names the peer.
    ///
    /// # Errors
    /// [`TrustError::Tls`].
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TrustError> {
        self.listener(self.verifier()?, alpn)
    }

    /// Configuration of the servers' listener, which also serves people and machines that are about to join. A peer may
    /// show no certificate, or any: the handshake proves that the peer has the key, and nothing more.
    /// [`Credentials::peer`] decides who the peer is.
    ///
    /// # Errors
    /// [`TrustError::Tls`].
    pub fn cluster_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TrustError> {
        self.listener(Arc::new(AnyKey(self.verifier()?)), alpn)
    }

    /// Decides who the peer of a [`Credentials::cluster_config`] connection is.
    #[must_use]
    pub fn peer(&self, certificates: Option<&[CertificateDer<'_>]>, now: Moment) -> Peer {
        let Some(key) = certificates.and_then(|chain| PublicKey::of(chain.first()?)) else { return Peer::Anonymous };
        let verified = certificates.filter(|chain| chain.first().is_some_and(|leaf| is_valid(leaf, self.ca(), now)));
        match machine_of_peer(verified) {
            Some(name) => Peer::Machine { name, key, is_server: names(verified).contains(&PeerName::Server) },
            None => Peer::Key(key),
        }
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TrustError> {
        WebPkiClientVerifier::builder_with_provider(self.roots(), provider())
            .build()
            .map_err(|error| TrustError::Parse { what: "the authority's certificate", why: error.to_string() })
    }

    fn listener(&self, verifier: Arc<dyn ClientCertVerifier>, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TrustError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(TrustError::Tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.clone()));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// The peer of a connection. A server that forwards a request sends this value along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// A peer without a certificate: a person, or another client of the public API.
    Anonymous,
    /// A peer that has this key, and no valid certificate: a machine that joins, or a machine with an expired certificate.
    Key(PublicKey),
    /// A machine with a valid certificate. The caller checks that the records still know the machine and the key.
    Machine {
        /// Name of the machine.
        name: MachineName,
        /// The machine's key.
        key: PublicKey,
        /// True for the process of a server.
        is_server: bool,
    },
}

/// The machine that a peer's *verified* certificate names. Call it only with the certificates of a connection under
/// [`Credentials::server_config`] or [`Credentials::client_config`].
#[must_use]
pub fn machine_of_peer(certificates: Option<&[CertificateDer<'_>]>) -> Option<MachineName> {
    names(certificates).into_iter().find_map(|name| match name {
        PeerName::Machine(machine) => Some(machine),
        PeerName::Server => None,
    })
}

/// The names in a peer's certificate.
fn names(certificates: Option<&[CertificateDer<'_>]>) -> Vec<PeerName> {
    let leaf = certificates.and_then(<[_]>::first).and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
    leaf.iter().flat_map(|leaf| leaf.valid_dns_names()).filter_map(PeerName::parse).collect()
}

/// Accepts any certificate in the handshake, which still proves the possession of its key.
#[derive(Debug)]
struct AnyKey(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match PublicKey::of(certificate) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<tokio_rustls::rustls::client::danger::HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<tokio_rustls::rustls::client::danger::HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
