//! Address of a store.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Address of a store: a file, or `etcd://host:port[,host:port…][/prefix][?ca=FILE&cert=FILE&key=FILE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// The embedded store in the file at this path.
    File(PathBuf),
    /// An etcd cluster.
    Etcd {
        /// URLs of the cluster's members, each `http://host:port`, or `https://host:port` with TLS.
        endpoints: Vec<String>,
        /// Prefix of every key, ending in a slash.
        prefix: String,
        /// Files for TLS; none for plain connections.
        tls: Option<EtcdTls>,
    },
}

/// Files for TLS to etcd, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificate of the authority that issued the certificates of etcd's members.
    pub ca: PathBuf,
    /// The client's certificate and key; none if etcd asks for no certificate.
    pub client: Option<ClientFiles>,
}

/// Certificate and key of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl EtcdTls {
    /// Returns all files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let client = self.client.iter().flat_map(|client| [&client.cert, &client.key]);
        [&self.ca].into_iter().chain(client).map(PathBuf::as_path)
    }

    /// Parses the part of an address after the question mark.
    fn parse(query: &str) -> Option<Self> {
        let (mut ca, mut cert, mut key) = (None, None, None);
        for (name, value) in query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))) {
            let file = match name {
                "ca" => &mut ca,
                "cert" => &mut cert,
                "key" => &mut key,
                _ => return None,
            };
            // A service has another working directory than the person who gave the path.
            if !value.starts_with('/') || file.replace(PathBuf::from(value)).is_some() {
                return None;
            }
        }
        let client = match (cert, key) {
            (Some(cert), Some(key)) => Some(ClientFiles { cert, key }),
            (None, None) => None,
            _ => return None,
        };
        Some(Self { ca: ca?, client })
    }
}

/// Parse error: the text is not an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "invalid store address {0:?}: write etcd://host:2379[,host:2379][/prefix], for TLS with ?ca=/FILE&cert=/FILE&key=/FILE, \
     or the path of a file"
)]
pub struct AddressError(String);

impl FromStr for StoreAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(rest) = text.strip_prefix("etcd://") else {
            let plain = !text.is_empty() && !text.contains("://") && !text.contains('\0');
            return if plain { Ok(Self::File(PathBuf::from(text))) } else { Err(AddressError(text.to_owned())) };
        };
        let invalid = || AddressError(text.to_owned());
        let (rest, tls) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(EtcdTls::parse(query).ok_or_else(invalid)?)),
            None => (rest, None),
        };
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, "gantry"));
        if hosts.split(',').any(|host| !host.contains(':') || host.starts_with(':')) {
            return Err(invalid());
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoints = hosts.split(',').map(|host| format!("{scheme}://{host}")).collect();
        Ok(Self::Etcd { endpoints, prefix: format!("{}/", prefix.trim_matches('/')), tls })
    }
}

impl std::fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (endpoints, prefix, tls) = match self {
            Self::File(path) => return write!(f, "{}", path.display()),
            Self::Etcd { endpoints, prefix, tls } => (endpoints, prefix, tls),
        };
        let hosts: Vec<&str> = endpoints.iter().filter_map(|url| Some(url.split_once("://")?.1)).collect();
        write!(f, "etcd://{}/{}", hosts.join(","), prefix.trim_end_matches('/'))?;
        if let Some(tls) = tls {
            write!(f, "?ca={}", tls.ca.display())?;
            if let Some(ClientFiles { cert, key }) = &tls.client {
                write!(f, "&cert={}&key={}", cert.display(), key.display())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_files_and_etcd_urls_and_refuses_the_rest() {
        let etcd = StoreAddress::Etcd {
            endpoints: vec!["http://a:1".into(), "http://b:2".into()],
            prefix: "x/".into(),
            tls: None,
        };
        assert_eq!("etcd://a:1,b:2/x".parse(), Ok(etcd));
        assert_eq!("/var/lib/s.db".parse(), Ok(StoreAddress::File("/var/lib/s.db".into())));
        for bad in ["", "etcd://", "etcd://a", "http://a:1", "etcd://a:1,"] {
            assert!(bad.parse::<StoreAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_with_tls_files_round_trips() {
        let client = Some(ClientFiles { cert: "/c.pem".into(), key: "/k.pem".into() });
        let etcd = StoreAddress::Etcd {
            endpoints: vec!["https://a:1".into()],
            prefix: "gantry/".into(),
            tls: Some(EtcdTls { ca: "/ca.pem".into(), client }),
        };
        assert_eq!("etcd://a:1?ca=/ca.pem&cert=/c.pem&key=/k.pem".parse(), Ok(etcd));
        for bad in ["?", "?ca=ca.pem", "?cert=/c&key=/k", "?ca=/a&cert=/c", "?ca=/a&x=/y", "?ca=/a&ca=/b"] {
            assert!(format!("etcd://a:1{bad}").parse::<StoreAddress>().is_err(), "{bad}");
        }
        for text in ["/var/lib/s.db", "etcd://a:1,b:2/x", "etcd://a:1/x?ca=/ca", "etcd://a:1/x?ca=/ca&cert=/c&key=/k"] {
            assert_eq!(text.parse::<StoreAddress>().expect("an address").to_string(), text);
        }
    }
}
