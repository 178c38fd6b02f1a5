//! Address of a store.

use std::path::PathBuf;
use std::str::FromStr;

/// Address of a store: a file, or `etcd://host:port[,host:port…][/prefix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// The embedded store in the file at this path.
    File(PathBuf),
    /// An etcd cluster.
    Etcd {
        /// URLs of the cluster's members, each `http://host:port`.
        endpoints: Vec<String>,
        /// Prefix of every key, ending in a slash.
        prefix: String,
    },
}

/// The text that [`StoreAddress::from_str`] reads.
impl std::fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Etcd { endpoints, prefix } => {
                let hosts: Vec<&str> = endpoints.iter().map(|url| url.trim_start_matches("http://")).collect();
                write!(f, "etcd://{}/{}", hosts.join(","), prefix.trim_end_matches('/'))
            }
        }
    }
}

/// Parse error: the text is not an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid store address {0:?}: write etcd://host:2379[,host:2379][/prefix] or the path of a file")]
pub struct AddressError(String);

impl FromStr for StoreAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(rest) = text.strip_prefix("etcd://") else {
            let plain = !text.is_empty() && !text.contains("://") && !text.contains('\0');
            return if plain { Ok(Self::File(PathBuf::from(text))) } else { Err(AddressError(text.to_owned())) };
        };
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, "gantry"));
        if hosts.split(',').any(|host| !host.contains(':') || host.starts_with(':')) {
            return Err(AddressError(text.to_owned()));
        }
        let endpoints = hosts.split(',').map(|host| format!("http://{host}")).collect();
        Ok(Self::Etcd { endpoints, prefix: format!("{}/", prefix.trim_matches('/')) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_files_and_etcd_urls_and_refuses_the_rest() {
        let etcd =
            StoreAddress::Etcd { endpoints: vec!["http://a:1".into(), "http://b:2".into()], prefix: "x/".into() };
        assert_eq!("etcd://a:1,b:2/x".parse(), Ok(etcd));
        assert_eq!("/var/lib/s.db".parse(), Ok(StoreAddress::File("/var/lib/s.db".into())));
        for bad in ["", "etcd://", "etcd://a", "http://a:1", "etcd://a:1,"] {
            assert!(bad.parse::<StoreAddress>().is_err(), "{bad}");
        }
    }
}
