//! The identity of a machine, in the folder [`FOLDER`] of the data folder.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use gantry_model::{MachineId, MachineName, MachineSubnet};
use serde::{Deserialize, Serialize};

use crate::TrustError;
use crate::credentials::Credentials;
use crate::key::MachineKey;

/// Name of the identity's folder in the data folder.
pub const FOLDER: &str = "cluster";

/// The files of an identity. `identity.json` is written last: without it a machine has not joined.
const IDENTITY: &str = "identity.json";
const CA: &str = "ca.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// Identity of a machine in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the machine.
    pub machine: MachineName,
    /// Id of the machine.
    pub id: MachineId,
    /// True if the machine runs a server.
    pub is_server: bool,
    /// Addresses of the servers, each `host:port`.
    pub servers: Vec<String>,
    /// The network of the machine's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<MachineSubnet>,
    /// Host name or IP address by which other machines reach this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Address of the store, on a machine that runs a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

impl Identity {
    /// Reads the identity from its folder (`DATA/cluster`). Returns `None` for a machine that has not joined a cluster.
    ///
    /// # Errors
    /// [`TrustError::File`] and [`TrustError::Parse`].
    pub fn load(folder: &Path) -> Result<Option<Self>, TrustError> {
        let text = match fs::read(folder.join(IDENTITY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(file("read", &folder.join(IDENTITY)))?,
        };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|error| TrustError::Parse { what: "the machine's identity", why: error.to_string() })
    }

    /// Writes the identity. The machine has joined when this returns; key and certificates must be there before.
    ///
    /// # Errors
    /// [`TrustError::File`].
    pub fn store(&self, folder: &Path) -> Result<(), TrustError> {
        make_folder(folder)?;
        let path = folder.join(IDENTITY);
        gantry_ledger::Replacement::of(&path).mode(0o600).write_json(self).map_err(file("write", &path))
    }

    /// Makes the machine's key, or reads the key that an interrupted join has made.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn prepare_key(folder: &Path) -> Result<MachineKey, TrustError> {
        make_folder(folder)?;
        let path = folder.join(KEY);
        match read_key(&path) {
            Err(TrustError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            read => return read,
        }
        let key = MachineKey::generate()?;
        let written = gantry_ledger::Replacement::of(&path).mode(0o600).write(key.to_pem().as_bytes());
        written.map_err(file("write", &path))?;
        Ok(key)
    }

    /// Writes the certificate chain and the authority's certificate, at a join and at each renewal.
    ///
    /// # Errors
    /// [`TrustError::File`].
    pub fn store_certificate(folder: &Path, chain: &str, ca: &str) -> Result<(), TrustError> {
        for (name, content) in [(CA, ca), (CERTIFICATE, chain)] {
            let path = folder.join(name);
            gantry_ledger::replace(&path, content.as_bytes()).map_err(file("write", &path))?;
        }
        Ok(())
    }

    /// Reads key and certificates.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn credentials(folder: &Path) -> Result<Credentials, TrustError> {
        let [ca, chain] = read_certificates(folder)?;
        Credentials::new(&ca, &chain, &read_key(&folder.join(KEY))?)
    }
}

/// Reads the authority's certificate and the machine's chain.
pub(crate) fn read_certificates(folder: &Path) -> Result<[String; 2], TrustError> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).map_err(file("read", &folder.join(name)));
    Ok([read(CA)?, read(CERTIFICATE)?])
}

/// Reads a key that only its owner may read.
pub(crate) fn read_key(path: &Path) -> Result<MachineKey, TrustError> {
    let mode = fs::metadata(path).map_err(file("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TrustError::KeyOpen { path: path.to_owned(), mode });
    }
    MachineKey::from_pem(&fs::read_to_string(path).map_err(file("read", path))?)
}

pub(crate) fn key_path(folder: &Path) -> std::path::PathBuf {
    folder.join(KEY)
}

fn make_folder(folder: &Path) -> Result<(), TrustError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file("make", folder))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrustError + use<> {
    let path = path.to_owned();
    move |source| TrustError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use gantry_model::Moment;

    use super::*;
    use crate::CertificateAuthority;

    #[test]
    fn an_identity_survives_an_interrupted_join() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = data.path().join(FOLDER);
        assert_eq!(Identity::load(&folder).expect("read"), None);
        let key = Identity::prepare_key(&folder).expect("a key");
        assert_eq!(Identity::prepare_key(&folder).expect("the same").public(), key.public());
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&key_path(&folder))), (0o700, 0o600));
        let ca = CertificateAuthority::generate(Moment(1_764_000_000_000)).expect("an authority");
        let machine: MachineName = "m1".parse().expect("a name");
        let chain = ca.issue(&key.public(), &machine, false, Moment(1_764_000_000_000)).expect("issued");
        Identity::store_certificate(&folder, &chain, ca.certificate_pem()).expect("written");
        assert_eq!(Identity::load(&folder).expect("read"), None, "the machine has not joined yet");
        let identity = Identity {
            machine,
            id: MachineId::from_random(1),
            is_server: false,
            servers: vec!["m1:7000".into()],
            subnet: Some("10.64.16.0/20".parse().expect("a network")),
            advertise: None,
            store: None,
        };
        identity.store(&folder).expect("written");
        assert_eq!(Identity::load(&folder).expect("read"), Some(identity));
        Identity::credentials(&folder).expect("complete");
        fs::set_permissions(key_path(&folder), fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(matches!(Identity::credentials(&folder), Err(TrustError::KeyOpen { mode: 0o644, .. })));
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(IDENTITY), "{").expect("written");
        let error = Identity::load(folder.path()).expect_err("damaged").to_string();
        assert!(error.starts_with("cannot read the machine's identity"), "{error}");
    }
}
