//! How people reach the apps: the scheme and the port of the apps' URLs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Scheme and port of the apps' URLs, written `http`, `https`, or with a port that is not the scheme's: `http:8080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppUrl {
    /// True for `https`.
    pub tls: bool,
    /// The port.
    pub port: u16,
}

/// The text is no scheme with or without a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} says not how the apps are reached; write http, https, or a port as well: http:8080")]
pub struct AppUrlError(String);

/// Characters of a refused text that an error shows.
const SHOWN_MAX: usize = 60;

impl AppUrl {
    /// HTTP at its usual port.
    pub const HTTP: Self = Self { tls: false, port: 80 };

    /// HTTPS at its usual port.
    pub const HTTPS: Self = Self { tls: true, port: 443 };

    /// Returns the URL of a host name.
    #[must_use]
    pub fn of_host(self, host: &str) -> String {
        match self.unusual_port() {
            None => format!("{}://{host}/", self.scheme()),
            Some(port) => format!("{}://{host}:{port}/", self.scheme()),
        }
    }

    fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// The port, unless it is the scheme's.
    fn unusual_port(self) -> Option<u16> {
        let usual = if self.tls { Self::HTTPS } else { Self::HTTP };
        Some(self.port).filter(|port| *port != usual.port)
    }
}

impl fmt::Display for AppUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unusual_port() {
            None => f.write_str(self.scheme()),
            Some(port) => write!(f, "{}:{port}", self.scheme()),
        }
    }
}

impl FromStr for AppUrl {
    type Err = AppUrlError;

    fn from_str(text: &str) -> Result<Self, AppUrlError> {
        let wrong = || AppUrlError(text.chars().take(SHOWN_MAX).collect());
        let (scheme, port) = text.split_once(':').map_or((text, None), |(scheme, port)| (scheme, Some(port)));
        let usual = match scheme {
            "http" => Self::HTTP,
            "https" => Self::HTTPS,
            _ => return Err(wrong()),
        };
        let port = match port {
            None => usual.port,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
        };
        Ok(Self { port, ..usual })
    }
}

impl TryFrom<String> for AppUrl {
    type Error = AppUrlError;

    fn try_from(text: String) -> Result<Self, AppUrlError> {
        text.parse()
    }
}

impl From<AppUrl> for String {
    fn from(url: AppUrl) -> String {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_makes_urls() {
        for (text, shown, url) in [
            ("http", "http", "http://shop.test/"),
            ("http:80", "http", "http://shop.test/"),
            ("http:8080", "http:8080", "http://shop.test:8080/"),
            ("https", "https", "https://shop.test/"),
            ("https:443", "https", "https://shop.test/"),
            ("https:80", "https:80", "https://shop.test:80/"),
        ] {
            let read: AppUrl = text.parse().expect(text);
            assert_eq!((read.to_string().as_str(), read.of_host("shop.test").as_str()), (shown, url));
            assert_eq!(shown.parse(), Ok(read));
        }
    }

    #[test]
    fn refuses_other_texts() {
        for bad in ["", "ftp", "http:", "http:0", "http:65536", "https://shop.test", "HTTP", ":80"] {
            assert_eq!(bad.parse::<AppUrl>(), Err(AppUrlError(bad.to_owned())), "{bad}");
        }
    }
}
