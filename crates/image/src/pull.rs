//! An image from another registry into the blobs, by the OCI distribution specification 1.1. The registry is foreign:
//! every answer is bounded, every blob checked against its digest.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use gantry_blobs::{BlobError, Blobs, Hasher};
use gantry_model::Digest;
use reqwest::header::{ACCEPT, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::manifest::{
    Config, Descriptor, INDEX_DOCKER, INDEX_OCI, Index, MANIFEST_DOCKER, MANIFEST_OCI, Manifest, ManifestError,
};
use crate::remote::{Remote, is_local};

/// The largest manifest: what registries take (distribution specification, "Pushing Manifests").
const MANIFEST_MAX: usize = 4 << 20;

/// The largest answer of a token service.
const TOKEN_MAX: usize = 64 << 10;

/// To reach a registry, and from one piece of an answer to the next.
const PATIENCE: Duration = Duration::from_secs(30);

/// All of it. A registry that sends a byte now and then is not waited for.
const DEADLINE: Duration = Duration::from_secs(3600);

/// As many as clients follow.
const REDIRECTIONS_MAX: usize = 5;

/// Blobs that are fetched at once.
const AT_ONCE: usize = 3;

/// Who asks.
#[derive(Clone, Deserialize)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// A password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials of {:?}", self.username)
    }
}

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry could not be reached, or broke off.
    #[error("{registry} cannot be reached: {why}")]
    Unreachable {
        /// Which.
        registry: String,
        /// Why.
        why: String,
    },
    /// It said no.
    #[error("{what}: the registry answered {status}{hint}")]
    Refused {
        /// What was asked for.
        what: String,
        /// With what.
        status: StatusCode,
        /// What may help.
        hint: &'static str,
    },
    /// Its answer makes no sense.
    #[error("the registry's answer is refused: {0}")]
    Answer(String),
    /// There is no room for it.
    #[error("{0}")]
    NoRoom(String),
    /// The image is not one that runs here.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A blob could not be kept, or is not what its name says.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Pulls an image; its manifest. `tell` hears what is being fetched; `fits` says why so many bytes do not.
///
/// # Errors
/// [`PullError`]. Blobs that came before stay; what nothing names is collected.
pub async fn pull(
    remote: &Remote,
    credentials: Option<&Credentials>,
    blobs: &Blobs,
    tell: impl Fn(String) + Sync,
    fits: impl Fn(u64) -> Result<(), String>,
) -> Result<Digest, PullError> {
    let registry = Registry::new(remote.clone(), credentials)?;
    let late = || PullError::Answer(format!("it took longer than {} s", DEADLINE.as_secs()));
    tokio::time::timeout(DEADLINE, whole(registry, blobs, tell, fits)).await.map_err(|_| late())?
}

async fn whole(
    mut registry: Registry<'_>,
    blobs: &Blobs,
    tell: impl Fn(String) + Sync,
    fits: impl Fn(u64) -> Result<(), String>,
) -> Result<Digest, PullError> {
    let remote = &registry.remote;
    tell(format!("Reading {remote}"));
    let (digest, text) = registry.image().await?;
    let manifest = Manifest::parse(&text)?;
    let mut missing: Vec<&Descriptor> = Vec::new();
    for descriptor in manifest.blobs() {
        let known = missing.iter().any(|other| other.digest == descriptor.digest);
        if !known && blobs.size(&descriptor.digest).await?.is_none() {
            missing.push(descriptor);
        }
    }
    let bytes: u64 = missing.iter().map(|descriptor| descriptor.size).sum();
    fits(bytes).map_err(PullError::NoRoom)?;
    tell(format!("Fetching {} of {} blobs, {}", missing.len(), manifest.blobs().count(), gantry_model::Bytes(bytes)));
    let mut fetches = Vec::new();
    for descriptor in missing {
        fetches.push(fetch(&registry, descriptor, blobs, &tell).boxed());
    }
    stream::iter(fetches).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Config::parse(&blobs.read(&manifest.config.digest).await?, &manifest)?;
    blobs.put(text).await?;
    Ok(digest)
}

async fn fetch(
    registry: &Registry<'_>,
    descriptor: &Descriptor,
    blobs: &Blobs,
    tell: &(impl Fn(String) + Sync),
) -> Result<(), PullError> {
    blobs.put_stream(registry.blob(descriptor).await?.boxed(), Some(&descriptor.digest)).await?;
    tell(format!("{} {}", descriptor.digest.short(), gantry_model::Bytes(descriptor.size)));
    Ok(())
}

struct Registry<'a> {
    remote: Remote,
    credentials: Option<&'a Credentials>,
    client: Client,
    /// What the registry asked for and got.
    token: Option<Token>,
}

enum Token {
    Basic,
    Bearer(String),
}

impl<'a> Registry<'a> {
    fn new(remote: Remote, credentials: Option<&'a Credentials>) -> Result<Self, PullError> {
        let on_loopback = remote.is_local();
        let client = Client::builder()
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::custom(move |attempt| match attempt.previous().len() {
                0..=REDIRECTIONS_MAX if may_lead_to(on_loopback, attempt.url()) => attempt.follow(),
                0..=REDIRECTIONS_MAX => attempt.error("it leads to an address without TLS, or to this machine's own"),
                _ => attempt.error("it leads on and on"),
            }))
            .build()
            .map_err(|error| PullError::Unreachable { registry: remote.registry.clone(), why: causes(&error) })?;
        Ok(Self { remote, credentials, client, token: None })
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> PullError {
        PullError::Unreachable { registry: self.remote.registry.clone(), why: causes(error) }
    }

    fn request(&self, path: &str) -> RequestBuilder {
        let request = self.client.get(format!("{}/{path}", self.remote.url()));
        match (&self.token, self.credentials) {
            (Some(Token::Bearer(token)), _) => request.bearer_auth(token),
            (Some(Token::Basic), Some(who)) => request.basic_auth(&who.username, Some(&who.password)),
            _ => request,
        }
    }

    async fn send(&self, request: RequestBuilder, what: &str) -> Result<Response, PullError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let hint = match response.status() {
            status if status.is_success() => return Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.credentials.is_none() => {
                "; say who asks with GANTRY_REGISTRY_USER and GANTRY_REGISTRY_PASSWORD"
            }
            _ => "",
        };
        Err(PullError::Refused { what: what.to_owned(), status: response.status(), hint })
    }

    /// The manifest for this machine, with its digest.
    async fn image(&mut self) -> Result<(Digest, Bytes), PullError> {
        let reference = self.remote.reference.clone();
        let (digest, text) = self.manifest(&reference).await?;
        let Some(index) = Index::parse(&text) else {
            return Ok((digest, text));
        };
        let missing = || PullError::Answer(format!("{} has no image for this machine", self.remote));
        let wanted = index.for_this_machine().ok_or_else(missing)?.digest.to_string();
        self.manifest(&wanted).await
    }

    async fn manifest(&mut self, reference: &str) -> Result<(Digest, Bytes), PullError> {
        let path = format!("manifests/{reference}");
        let accepted = [MANIFEST_OCI, MANIFEST_DOCKER, INDEX_OCI, INDEX_DOCKER].join(", ");
        let first = self.request(&path).header(ACCEPT, &accepted).send().await;
        let first = first.map_err(|error| self.unreachable(&error))?;
        let response = if first.status() == StatusCode::UNAUTHORIZED && self.log_in(&first).await? {
            self.send(self.request(&path).header(ACCEPT, &accepted), &self.remote.to_string()).await?
        } else if first.status().is_success() {
            first
        } else {
            self.send(self.request(&path).header(ACCEPT, &accepted), &self.remote.to_string()).await?
        };
        let text = self.read(response, MANIFEST_MAX).await?;
        let digest = Hasher::of(&text);
        match reference.parse::<Digest>() {
            Ok(wanted) if wanted != digest => {
                Err(PullError::Answer(format!("{wanted} was asked for, {digest} was sent")))
            }
            _ => Ok((digest, text)),
        }
    }

    /// Gets what the registry asks for; false when it asks for nothing that is known.
    async fn log_in(&mut self, refused: &Response) -> Result<bool, PullError> {
        let challenge = refused.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let Some((scheme, parameters)) = challenge.and_then(|text| text.split_once(' ')) else {
            return Ok(false);
        };
        if scheme.eq_ignore_ascii_case("basic") {
            self.token = Some(Token::Basic);
            return Ok(self.credentials.is_some());
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(false);
        }
        let url = token_url(parameters, &self.remote)?;
        let mut request = self.client.get(url);
        if let Some(who) = self.credentials {
            request = request.basic_auth(&who.username, Some(&who.password));
        }
        let response = self.send(request, "the registry's token service").await?;
        let text = self.read(response, TOKEN_MAX).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&text).map_err(|error| PullError::Answer(format!("its token: {error}")))?;
        let token = answer.token.or(answer.access_token);
        self.token = Some(Token::Bearer(token.ok_or_else(|| PullError::Answer("it has no token".to_owned()))?));
        Ok(true)
    }

    async fn read(&self, response: Response, limit: usize) -> Result<Bytes, PullError> {
        let mut text = BytesMut::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            text.extend_from_slice(&piece.map_err(|error| self.unreachable(&error))?);
            if text.len() > limit {
                return Err(PullError::Answer(format!("it is longer than {limit} bytes")));
            }
        }
        Ok(text.freeze())
    }

    /// A blob as it comes, no longer than its manifest says.
    async fn blob(
        &self,
        descriptor: &Descriptor,
    ) -> Result<impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static, PullError> {
        let what = descriptor.digest.to_string();
        let response = self.send(self.request(&format!("blobs/{what}")), &what).await?;
        let mut left = descriptor.size;
        Ok(response.bytes_stream().map(move |piece| {
            let piece = piece.map_err(io::Error::other)?;
            left = left
                .checked_sub(piece.len() as u64)
                .ok_or_else(|| io::Error::other("it is longer than its manifest says"))?;
            Ok(piece)
        }))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Where a token is to be had: `realm="…",service="…",scope="…"`. Never over a plain connection, but on loopback.
pub(crate) fn token_url(parameters: &str, remote: &Remote) -> Result<Url, PullError> {
    let wrong = |why: &str| PullError::Answer(format!("its challenge {parameters:?}: {why}"));
    let value = |name: &str| {
        let (_, rest) = parameters.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value)
    };
    let realm = value("realm").ok_or_else(|| wrong("it names no realm"))?;
    let mut url: Url = realm.parse().map_err(|_| wrong("its realm is no address"))?;
    if !may_lead_to(remote.is_local(), &url) {
        return Err(wrong("its realm is not https, or this machine's own"));
    }
    let scope = format!("repository:{}:pull", remote.repository);
    url.query_pairs_mut().append_pair("scope", &scope);
    if let Some(service) = value("service") {
        url.query_pairs_mut().append_pair("service", service);
    }
    Ok(url)
}

/// A registry is somebody else's: what it leads to is on the network, and asked over TLS.
fn may_lead_to(on_loopback: bool, url: &Url) -> bool {
    on_loopback && matches!(url.scheme(), "http" | "https") || url.scheme() == "https" && !is_local(url)
}

/// An error with everything behind it, without addresses that may carry a token.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = error.source().or(Some(error));
    while let Some(cause) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_leads_nowhere_but_to_the_network_over_tls() {
        for (url, may) in [
            ("https://cdn.example/blob?token=x", true),
            ("https://192.0.2.7/blob", true),
            ("http://cdn.example/blob", false),
            ("https://localhost/blob", false),
            ("https://a.localhost:5000/blob", false),
            ("https://localhost./blob", false),
            ("https://127.0.0.1:4600/v1/apps", false),
            ("https://[::1]/", false),
            ("https://[::ffff:127.0.0.1]/", false),
            ("https://0.0.0.0/", false),
            ("https://169.254.169.254/latest/meta-data", false),
            ("ftp://cdn.example/", false),
        ] {
            assert_eq!(may_lead_to(false, &url.parse().expect(url)), may, "{url}");
        }
        assert!(may_lead_to(true, &"http://127.0.0.1:5000/blob".parse().expect("an address")));
        assert!(!may_lead_to(true, &"file:///etc/passwd".parse().expect("an address")));
    }
}
