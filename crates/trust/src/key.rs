//! Keys of machines: ECDSA on P-256.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::TrustError;

/// The beginning of each public key in DER form (RFC 5480): an elliptic curve key on P-256, an uncompressed point of 65
/// bytes. Every other form is refused, so that no key is parsed.
const HEADER: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The private key of a machine, made on the machine. The key never leaves the machine.
pub struct MachineKey(pub(crate) KeyPair);

impl MachineKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`TrustError::Make`] if the system has no randomness.
    pub fn generate() -> Result<Self, TrustError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(TrustError::Make)
    }

    /// Reads a key in PEM form.
    ///
    /// # Errors
    /// [`TrustError::Parse`]; the message contains nothing of the key.
    pub fn from_pem(pem: &str) -> Result<Self, TrustError> {
        KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|_| TrustError::Parse { what: "the private key", why: "it is not a P-256 key in PEM form".into() })
    }

    /// The key in PEM form. The text is secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.der_bytes().to_vec())
    }
}

impl std::fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MachineKey(secret)")
    }
}

/// The public key of a machine. Its text is the point in hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(Vec<u8>);

/// The text is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid public key: expected an uncompressed P-256 point in hex digits")]
pub struct PublicKeyError;

impl TryFrom<String> for PublicKey {
    type Error = PublicKeyError;
    fn try_from(text: String) -> Result<Self, PublicKeyError> {
        Self::of_point(&hex::decode(text).map_err(|_| PublicKeyError)?).ok_or(PublicKeyError)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        hex::encode(key.0)
    }
}

impl PublicKey {
    /// The key of a certificate that a peer showed; `None` unless the key is on P-256.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        let key = certificate.subject_public_key_info();
        Self::of_point(key.as_ref().strip_prefix(&HEADER)?)
    }

    fn of_point(point: &[u8]) -> Option<Self> {
        (point.len() == 65 && point[0] == 4).then(|| Self(point.to_vec()))
    }

    /// The key's hash, by which records name the key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(hex::encode(Sha256::digest(&self.0)))
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Hash of a public key: 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyHash(String);

impl std::fmt::Display for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_pem_and_is_not_printed() {
        let key = MachineKey::generate().expect("a key");
        let pem = key.to_pem();
        let again = MachineKey::from_pem(&pem).expect("read");
        assert_eq!(again.public(), key.public());
        assert_eq!(again.public().hash(), key.public().hash());
        assert_eq!(PublicKey::try_from(String::from(key.public())), Ok(key.public()));
        assert_eq!(PublicKey::try_from("04ab".to_owned()), Err(PublicKeyError));
        assert_eq!(format!("{key:?}"), "MachineKey(secret)");
        let broken = pem.replace("MIG", "AAA");
        let error = MachineKey::from_pem(&broken).expect_err("broken").to_string();
        assert_eq!(error, "cannot read the private key: it is not a P-256 key in PEM form");
    }

    #[test]
    fn the_header_is_that_of_a_key() {
        let key = MachineKey::generate().expect("a key");
        assert_eq!(key.0.subject_public_key_info(), [&HEADER[..], key.0.der_bytes()].concat());
    }
}
