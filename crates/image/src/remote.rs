//! References to images of other registries: `ghcr.io/team/shop:v3`, `localhost:5000/shop@sha256:…`.

use std::fmt;
use std::net::IpAddr;

use gantry_model::{Digest, DigestError};
use reqwest::Url;

/// Limit on the length of a reference.
const LENGTH_MAX: usize = 500;

/// The parts of `app`, `app:tag`, `app@sha256:…` or `app:tag@sha256:…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceParts<'a> {
    /// Name before the tag and the digest.
    pub name: &'a str,
    /// Tag, after a colon.
    pub tag: Option<&'a str>,
    /// Digest, after an `@`. A digest decides which image is meant; a tag beside the digest is for people.
    pub digest: Option<&'a str>,
}

impl<'a> ReferenceParts<'a> {
    /// Splits a reference without any checks.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let (tagged, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        // A colon before a slash belongs to a port.
        match tagged.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((name, tag)) => Self { name, tag: Some(tag), digest },
            None => Self { name: tagged, tag: None, digest },
        }
    }
}

/// An image of another registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Host and port.
    pub registry: String,
    /// Path of the repository in the registry.
    pub repository: String,
    /// Tag or digest.
    pub reference: String,
}

/// Reason why a text is no reference of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text has another form.
    #[error("{0:?} is not an image reference; write for example registry.example/team/app:tag")]
    Malformed(String),
    /// The digest in the text is invalid.
    #[error("{text:?}: {error}")]
    Digest {
        /// The text.
        text: String,
        /// The fault of the digest.
        error: DigestError,
    },
    /// The text names no registry.
    #[error("{0:?} names no registry")]
    NoRegistry(String),
}

impl Remote {
    /// Parses a reference that names its registry: the first part has a dot or a port, or is `localhost`. Returns none
    /// for any other reference; such a reference means this cloud's own registry.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn parse(text: &str) -> Result<Option<Self>, ReferenceError> {
        let text = text.trim_start_matches("docker://");
        let Some((registry, rest)) = text.split_once('/') else {
            return Ok(None);
        };
        if !(registry.contains(['.', ':']) || registry == "localhost") {
            return Ok(None);
        }
        let ReferenceParts { name: repository, tag, digest } = ReferenceParts::of(rest);
        let wrong = || ReferenceError::Malformed(text.to_owned());
        let host_part = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        let name_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        let tag_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let sound = text.len() <= LENGTH_MAX
            && registry.chars().all(host_part)
            && !repository.is_empty()
            && repository.chars().all(name_part)
            && repository.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
            && tag.is_none_or(|tag| !tag.is_empty() && tag.chars().all(tag_part));
        if !sound {
            return Err(wrong());
        }
        if let Some(Err(error)) = digest.map(str::parse::<Digest>) {
            return Err(ReferenceError::Digest { text: text.to_owned(), error });
        }
        let reference = digest.or(tag).unwrap_or("latest");
        let hub = ["docker.io", "index.docker.io"].contains(&registry);
        // Docker's own short names.
        let registry = if hub { "registry-1.docker.io" } else { registry };
        let repository =
            if hub && !repository.contains('/') { format!("library/{repository}") } else { repository.to_owned() };
        Ok(Some(Self { registry: registry.to_owned(), repository, reference: reference.to_owned() }))
    }

    /// The reference without its registry.
    #[must_use]
    pub fn local(&self) -> String {
        let mark = if self.reference.contains(':') { '@' } else { ':' };
        format!("{}{mark}{}", self.repository, self.reference)
    }

    /// Returns whether the registry is this machine, in any spelling of the address, or has a link-local address.
    /// Services there are not meant for every user.
    #[must_use]
    pub fn is_local(&self) -> bool {
        Url::parse(&format!("https://{}", self.registry)).map_or(true, |url| is_local(&url))
    }

    /// Returns whether the registry is on loopback, so that no network is in between.
    fn is_loopback(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Returns the address of the repository: with TLS, except on loopback, where people try out registries.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_loopback() { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}", self.registry, self.repository)
    }
}

/// Returns whether the address leads to this machine, or to a service for machines of the same link only (such as a
/// cloud provider's metadata).
pub(crate) fn is_local(url: &Url) -> bool {
    url.host_str().is_none_or(|host| {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.');
        host == "localhost"
            || host.ends_with(".localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| {
                let ip = ip.to_canonical();
                ip.is_loopback() || ip.is_unspecified() || matches!(ip, IpAddr::V4(v4) if v4.is_link_local())
            })
    })
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.local())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_references_as_docker_does() {
        let text = |text| Remote::parse(text).expect("read").map(|remote| remote.to_string());
        assert_eq!(text("shop:v1"), None);
        assert_eq!(text("base/debian"), None);
        assert_eq!(text("ghcr.io/team/shop").as_deref(), Some("ghcr.io/team/shop:latest"));
        assert_eq!(text("localhost/shop:1").as_deref(), Some("localhost/shop:1"));
        assert_eq!(text("docker://docker.io/redis:7").as_deref(), Some("registry-1.docker.io/library/redis:7"));
        let digest = format!("127.0.0.1:5000/a/b@sha256:{}", "0".repeat(64));
        assert_eq!(text(&digest), Some(digest.clone()));
        assert_eq!(text(&digest.replace("/b@", "/b:v1.2@")), Some(digest.clone()), "the digest counts");
        let tagged = digest.replace("/b@", "/b:v 1@");
        for bad in [
            &tagged,
            "a.b/x@v1",
            "a.b/x:v1@",
            "a.b/x:@sha256:0",
            "a.b/x@sha512:00",
            "a.b/",
            "a.b/../x",
            "a.b/X",
            "a.b/x:",
            "a.b/x:t t",
            "a.b/x\n",
            "a.b/-/%2e%2e",
            "x@y.z/a",
        ] {
            assert!(Remote::parse(bad).is_err(), "{bad:?}");
        }
        let remote = |text: &str| Remote::parse(text).expect("read").expect("remote");
        for local in [
            "127.0.0.9:5000",
            "[::1]:5000",
            "localhost",
            "localhost.:443",
            "a.localhost",
            "0.0.0.0:443",
            "[::]:443",
            "[::ffff:127.0.0.1]:443",
            "2130706433:443",
            "127.1:443",
            "169.254.169.254",
        ] {
            assert!(remote(&format!("{local}/x")).is_local(), "{local}");
        }
        assert!(!remote("127.0.0.1.example/x").is_local() && !remote("ghcr.io/x").is_local());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in prop_oneof!["\\PC{0,200}", "[a-z0-9./:@_-]{0,80}"]) {
            let _ = Remote::parse(&text);
        }
    }
}
