//! The internal certificate authority.

use std::time::Duration;

use base64::Engine;
use gantry_model::{MachineName, Moment};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::TrustError;
use crate::key::{MachineKey, PublicKey};
use crate::name::PeerName;

/// Life of a machine's certificate: 30 days.
pub const LIFE_MILLIS: u64 = 30 * DAY;

/// Life of the authority: 20 years.
const CA_LIFE_MILLIS: u64 = 20 * 365 * DAY;

/// Certificates begin this long before they are issued, for machines whose clocks differ.
const EARLIER_MILLIS: i64 = 3600 * 1000;

const DAY: u64 = 24 * 3600 * 1000;

/// The authority: its certificate, and the key that signs machines' certificates.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").field("hash", &self.hash()).finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// [`TrustError::Make`].
    pub fn generate(now: Moment) -> Result<Self, TrustError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(TrustError::Make)?;
        let mut params = params();
        params.serial_number = Some(serial());
        set_validity(&mut params, now, CA_LIFE_MILLIS);
        let certificate = params.self_signed(&key).map_err(TrustError::Make)?;
        Ok(Self { certificate_pem: certificate.pem(), certificate: certificate.der().clone(), key })
    }

    /// Reads an authority in PEM form.
    ///
    /// # Errors
    /// [`TrustError::Parse`]; the message contains nothing of the key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TrustError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes());
        let der = der.map_err(|e| TrustError::Parse { what: "the authority's certificate", why: e.to_string() })?;
        let key = MachineKey::from_pem(key)?.0;
        Ok(Self { certificate: der, certificate_pem: certificate.to_owned(), key })
    }

    /// The authority's certificate in PEM form.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's key in PEM form. A holder of this text can pass for any machine.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Hash of the authority's certificate.
    #[must_use]
    pub fn hash(&self) -> CaHash {
        CaHash::of(&self.certificate)
    }

    /// Issues a certificate for a machine's key. Returns the chain in PEM form: the machine's certificate, then the
    /// authority's. Peers that know only the authority's hash find the authority in the chain.
    ///
    /// # Errors
    /// [`TrustError::Make`].
    pub fn issue(
        &self,
        key: &PublicKey,
        machine: &MachineName,
        is_server: bool,
        now: Moment,
    ) -> Result<String, TrustError> {
        let server = is_server.then(|| PeerName::Server.to_string());
        self.issue_for(key, machine, server.into_iter().collect(), now)
    }

    /// Issues a certificate for the key of a server, which people reach at these hosts. git and other clients of HTTPS
    /// verify the host of the URL. No host can pass for a machine.
    ///
    /// # Errors
    /// [`TrustError::Make`].
    pub fn issue_server(
        &self,
        key: &PublicKey,
        machine: &MachineName,
        hosts: &[String],
        now: Moment,
    ) -> Result<String, TrustError> {
        let hosts = hosts.iter().filter(|host| !PeerName::is_reserved(host)).cloned();
        self.issue_for(key, machine, [PeerName::Server.to_string()].into_iter().chain(hosts).collect(), now)
    }

    fn issue_for(
        &self,
        key: &PublicKey,
        machine: &MachineName,
        mut names: Vec<String>,
        now: Moment,
    ) -> Result<String, TrustError> {
        names.insert(0, PeerName::Machine(machine.clone()).to_string());
        let mut params = CertificateParams::new(names).map_err(TrustError::Make)?;
        params.distinguished_name = distinguished_name(machine.as_str());
        params.serial_number = Some(serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, now, LIFE_MILLIS);
        let issuer = Issuer::new(self::params(), &self.key);
        let certificate = params.signed_by(key, &issuer).map_err(TrustError::Make)?;
        Ok(format!("{}{}", certificate.pem(), self.certificate_pem))
    }
}

/// Parameters that every authority shares. Only the name, the usage and the identifier's method enter the certificates
/// that the authority issues.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("Gantry cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn distinguished_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// A random serial number of 16 bytes, positive as RFC 5280 demands.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Sets the time in which a certificate is valid, in whole seconds.
fn set_validity(params: &mut CertificateParams, now: Moment, life: u64) {
    let time = |moment: Moment| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(moment.0 / 1000);
    params.not_before = time(now.moved(-EARLIER_MILLIS));
    params.not_after = time(Moment(now.0 + life));
}

/// Hash of an authority's certificate (SHA-256): what join tokens carry, and what `gantry login` pins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaHash([u8; 32]);

/// The text is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid CA hash: expected 64 lower-case hex digits")]
pub struct CaHashError;

impl CaHash {
    /// The hash of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// The certificate of the authority with this hash among those of a chain, in PEM form.
    #[must_use]
    pub fn find(&self, chain: &[CertificateDer<'_>]) -> Option<String> {
        let found = chain.iter().find(|certificate| Self::of(certificate) == *self)?;
        let text = base64::engine::general_purpose::STANDARD.encode(found);
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        Some(format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n")))
    }
}

impl std::fmt::Display for CaHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl std::str::FromStr for CaHash {
    type Err = CaHashError;
    fn from_str(text: &str) -> Result<Self, CaHashError> {
        let is_lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
        let bytes = hex::decode(text).ok().filter(|_| is_lower).ok_or(CaHashError)?;
        bytes.try_into().map(Self).map_err(|_| CaHashError)
    }
}

impl TryFrom<String> for CaHash {
    type Error = CaHashError;
    fn try_from(text: String) -> Result<Self, CaHashError> {
        text.parse()
    }
}

impl From<CaHash> for String {
    fn from(hash: CaHash) -> Self {
        hash.to_string()
    }
}
