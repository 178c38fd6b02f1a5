//! Pulls an image from another registry, by the OCI distribution specification 1.1. The registry is foreign: every response
//! is bounded. The image goes to a [`PullTarget`], which checks each blob against its digest.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use gantry_blobs::DigestHasher;
use gantry_model::Digest;
use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderName, RANGE, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::manifest::{
    Config, Descriptor, INDEX_DOCKER, INDEX_OCI, MANIFEST_DOCKER, MANIFEST_OCI, Manifest, ManifestError,
};
use crate::remote::{Remote, is_local};
use crate::selection::{ManifestDecision, Selection};

/// Limit on the size of a manifest: the size that registries accept (distribution specification, "Pushing Manifests").
const MANIFEST_MAX: usize = 4 << 20;

/// Limit on the size of a token service's response.
const TOKEN_MAX: usize = 64 << 10;

/// Timeout for connecting to a registry, and between two reads of a response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of a whole pull. It also ends a pull from a registry that sends a byte now and then.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Limit on redirections; other clients follow as many.
const REDIRECTIONS_MAX: usize = 5;

/// Limit on consecutive tries without a single byte.
const TRIES_MAX: u32 = 3;

/// Limit on the resumptions of a transfer.
const RESUMES_MAX: u32 = 100;

/// Pause before the first retry; the pause doubles before each further retry.
const PAUSE: Duration = Duration::from_millis(200);

/// Number of blobs fetched concurrently.
const AT_ONCE: usize = 3;

/// Credentials for a registry.
#[derive(Clone, Deserialize)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials of {:?}", self.username)
    }
}

/// Reasons why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry could not be reached, or closed the connection.
    #[error("{registry} cannot be reached: {why}")]
    Unreachable {
        /// Host and port of the registry.
        registry: String,
        /// Cause of the failure.
        why: String,
    },
    /// The registry refused a request.
    #[error("{what}the registry answered {status}{hint}")]
    Refused {
        /// The requested object with a colon; empty for the image itself.
        what: String,
        /// Status of the response.
        status: StatusCode,
        /// Advice for the user.
        hint: &'static str,
    },
    /// The registry's response is invalid.
    #[error("the registry sent an invalid response: {0}")]
    Answer(String),
    /// The reference leads to this cloud's own registry.
    #[error("{0} is in this cloud's own registry")]
    Own(Remote),
    /// The disk has no space for the image.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The image cannot run on this machine.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The transfer of a blob broke off.
    #[error(transparent)]
    Transfer(io::Error),
    /// A blob could not be stored, or does not match its digest.
    #[error("the image cannot be stored")]
    Target(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// There is no space for an image. The cause says so.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NoRoom(pub Box<dyn std::error::Error + Send + Sync>);

/// The place where a pulled image goes.
pub trait PullTarget: Sync {
    /// Cause of a failed operation.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Reports whether the blob is there, and matches its digest.
    fn is_intact(&self, digest: &Digest) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Fails if there is no space for that many bytes; the error says so.
    fn check_room(&self, bytes: u64) -> impl Future<Output = Result<(), NoRoom>> + Send;

    /// Stores a blob. Fails if the content does not match the digest, and when the stream fails.
    fn put_stream(
        &self,
        digest: &Digest,
        pieces: BoxStream<'_, io::Result<Bytes>>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Stores a small blob.
    fn put(&self, digest: &Digest, document: Bytes) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Reads a small blob.
    fn read(&self, digest: &Digest) -> impl Future<Output = Result<Bytes, Self::Error>> + Send;
}

fn target(error: impl std::error::Error + Send + Sync + 'static) -> PullError {
    PullError::Target(error.into())
}

/// The identity of the puller.
#[derive(Debug, Clone, Copy)]
pub struct PullIdentity<'a> {
    /// Credentials for the registry, if there are any.
    pub credentials: Option<&'a Credentials>,
    /// Value of the header [`REGISTRY_ID`] in responses of this cloud's own registry.
    pub own: Option<&'a str>,
}

/// Response header by which a Gantry registry recognizes itself, under any host name.
pub const REGISTRY_ID: &str = "gantry-registry";

/// Pulls an image and returns the digest of its manifest. `progress` receives progress messages.
///
/// # Errors
/// [`PullError`]. Blobs received before the error stay until garbage collection removes the unreferenced blobs.
pub async fn pull(
    remote: &Remote,
    identity: PullIdentity<'_>,
    blobs: &impl PullTarget,
    progress: impl Fn(String) + Sync,
) -> Result<Digest, PullError> {
    let registry = Registry::new(remote.clone(), identity)?;
    let late = || PullError::Answer(format!("it took longer than {} s", DEADLINE.as_secs()));
    tokio::time::timeout(DEADLINE, whole(&registry, blobs, progress)).await.map_err(|_| late())?
}

async fn whole(
    registry: &Registry<'_>,
    blobs: &impl PullTarget,
    progress: impl Fn(String) + Sync,
) -> Result<Digest, PullError> {
    progress(format!("Reading {}", registry.remote));
    let (digest, text) = registry.image().await?;
    let manifest = Manifest::parse(&text)?;
    let mut missing: Vec<&Descriptor> = Vec::new();
    for descriptor in manifest.blobs() {
        let known = missing.iter().any(|other| other.digest == descriptor.digest);
        if !known && !blobs.is_intact(&descriptor.digest).await.map_err(target)? {
            missing.push(descriptor);
        }
    }
    let bytes: u64 = missing.iter().map(|descriptor| descriptor.size).sum();
    blobs.check_room(bytes).await?;
    progress(format!(
        "Fetching {} of {} blobs, {}",
        missing.len(),
        manifest.blobs().count(),
        gantry_model::Bytes(bytes)
    ));
    let mut fetches = Vec::new();
    for descriptor in missing {
        fetches.push(fetch(registry, descriptor, blobs, &progress).boxed());
    }
    stream::iter(fetches).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Config::parse(&blobs.read(&manifest.config.digest).await.map_err(target)?, &manifest)?;
    blobs.put(&digest, text).await.map_err(target)?;
    Ok(digest)
}

async fn fetch(
    registry: &Registry<'_>,
    descriptor: &Descriptor,
    blobs: &impl PullTarget,
    progress: &(impl Fn(String) + Sync),
) -> Result<(), PullError> {
    let transfer = Transfer::begin(registry, descriptor).await?;
    // The target only knows that the stream ended; the cause is the registry's.
    let broken = std::sync::Mutex::new(None);
    let note = |error: io::Error| {
        let told = io::Error::new(error.kind(), error.to_string());
        *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        told
    };
    let stored = blobs.put_stream(&descriptor.digest, transfer.pieces().map_err(note).boxed()).await;
    if let Some(error) = broken.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(PullError::Transfer(error));
    }
    stored.map_err(target)?;
    progress(format!("{} {}", descriptor.digest.short(), gantry_model::Bytes(descriptor.size)));
    Ok(())
}

struct Registry<'a> {
    remote: Remote,
    identity: PullIdentity<'a>,
    client: Client,
    login: Mutex<Login>,
}

/// The state of the login at the registry.
#[derive(Default)]
struct Login {
    /// Number of logins so far. Several transfers may learn at once that a token has expired; only the first of them
    /// logs in again.
    count: u64,
    token: Option<Token>,
}

enum Token {
    Basic,
    Bearer(String),
}

impl<'a> Registry<'a> {
    fn new(remote: Remote, identity: PullIdentity<'a>) -> Result<Self, PullError> {
        let on_loopback = remote.is_local();
        let client = Client::builder()
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(TIMEOUT)
            .read_timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::custom(move |attempt| match attempt.previous().len() {
                0..=REDIRECTIONS_MAX if may_lead_to(on_loopback, attempt.url()) => attempt.follow(),
                0..=REDIRECTIONS_MAX => attempt.error("it leads to an address without TLS, or to this machine's own"),
                _ => attempt.error("it leads through too many redirections"),
            }))
            .build()
            .map_err(|error| PullError::Unreachable { registry: remote.registry.clone(), why: causes(&error) })?;
        Ok(Self { remote, identity, client, login: Mutex::default() })
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> PullError {
        PullError::Unreachable { registry: self.remote.registry.clone(), why: causes(error) }
    }

    /// Requests a path, with a login if the registry asks for a login. Renews an expired token once. `what` names the
    /// object in an error.
    async fn get(&self, path: &str, more: &[(HeaderName, String)], what: &str) -> Result<Response, PullError> {
        let (mut logged_in, mut tries) = (false, 0);
        loop {
            let mut request = self.client.get(format!("{}/{path}", self.remote.url()));
            for (name, value) in more {
                request = request.header(name, value);
            }
            let count = {
                let login = self.login.lock().await;
                request = match (&login.token, self.identity.credentials) {
                    (Some(Token::Bearer(token)), _) => request.bearer_auth(token),
                    (Some(Token::Basic), Some(account)) => {
                        request.basic_auth(&account.username, Some(&account.password))
                    }
                    _ => request,
                };
                login.count
            };
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let id = response.headers().get(REGISTRY_ID).and_then(|id| id.to_str().ok());
            if self.identity.own.is_some() && id == self.identity.own {
                return Err(PullError::Own(self.remote.clone()));
            }
            match response.status() {
                status if status.is_success() => return Ok(response),
                StatusCode::UNAUTHORIZED if !logged_in && self.log_in(&response, count).await? => logged_in = true,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE
                    if tries < TRIES_MAX =>
                {
                    tokio::time::sleep(pause(tries)).await;
                    tries += 1;
                }
                _ => return Err(self.refused(&response, what)),
            }
        }
    }

    fn refused(&self, response: &Response, what: &str) -> PullError {
        let hint = match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.identity.credentials.is_none() => {
                "; say who asks with GANTRY_REGISTRY_USER and GANTRY_REGISTRY_PASSWORD"
            }
            _ => "",
        };
        PullError::Refused { what: what.to_owned(), status: response.status(), hint }
    }

    /// Returns the manifest for this machine, and its digest.
    async fn image(&self) -> Result<(Digest, Bytes), PullError> {
        let (mut digest, mut text) = self.manifest(&self.remote.reference).await?;
        let mut selection = Selection::default();
        while let ManifestDecision::Read(descriptor) = selection.next(&digest, &text)? {
            (digest, text) = self.manifest(descriptor.digest.as_str()).await?;
        }
        Ok((digest, text))
    }

    async fn manifest(&self, reference: &str) -> Result<(Digest, Bytes), PullError> {
        let accepted = [MANIFEST_OCI, MANIFEST_DOCKER, INDEX_OCI, INDEX_DOCKER].join(", ");
        let what = if reference == self.remote.reference { String::new() } else { format!("manifest {reference}: ") };
        let response = self.get(&format!("manifests/{reference}"), &[(ACCEPT, accepted)], &what).await?;
        let text = self.read(response, MANIFEST_MAX).await?;
        let digest = DigestHasher::of(&text);
        match reference.parse::<Digest>() {
            Ok(parsed_digest) if parsed_digest != digest => {
                Err(PullError::Answer(format!("{parsed_digest} was asked for, {digest} was sent")))
            }
            _ => Ok((digest, text)),
        }
    }

    /// Logs in as the registry's challenge demands. Returns false if the challenge is missing or of an unknown kind.
    /// `count` is the login count of the refused request.
    async fn log_in(&self, refused: &Response, count: u64) -> Result<bool, PullError> {
        let challenge = refused.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let Some((scheme, parameters)) = challenge.and_then(|text| text.split_once(' ')) else {
            return Ok(false);
        };
        let mut login = self.login.lock().await;
        if login.count != count {
            return Ok(true);
        }
        let token = if scheme.eq_ignore_ascii_case("basic") {
            if self.identity.credentials.is_none() {
                return Ok(false);
            }
            Token::Basic
        } else if scheme.eq_ignore_ascii_case("bearer") {
            Token::Bearer(self.token(parameters).await?)
        } else {
            return Ok(false);
        };
        *login = Login { count: count + 1, token: Some(token) };
        Ok(true)
    }

    async fn token(&self, parameters: &str) -> Result<String, PullError> {
        let mut request = self.client.get(token_url(parameters, &self.remote)?);
        if let Some(account) = self.identity.credentials {
            request = request.basic_auth(&account.username, Some(&account.password));
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(self.refused(&response, "the registry's token service: "));
        }
        let text = self.read(response, TOKEN_MAX).await?;
        let answer: TokenResponse = serde_json::from_slice(&text)
            .map_err(|error| PullError::Answer(format!("the token of its token service: {error}")))?;
        answer
            .token
            .or(answer.access_token)
            .ok_or_else(|| PullError::Answer("its token service sent no token".to_owned()))
    }

    async fn read(&self, response: Response, limit: usize) -> Result<Bytes, PullError> {
        let mut text = BytesMut::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            text.extend_from_slice(&piece.map_err(|error| self.unreachable(&error))?);
            if text.len() > limit {
                return Err(PullError::Answer(format!("a document is longer than {limit} bytes")));
            }
        }
        Ok(text.freeze())
    }
}

/// Returns the pause before the next try.
fn pause(tries: u32) -> Duration {
    PAUSE * 2u32.saturating_pow(tries.min(10))
}

/// A transfer of a blob, no longer than the manifest claims. After a broken connection, the transfer resumes
/// after the last byte received.
struct Transfer<'a> {
    registry: &'a Registry<'a>,
    descriptor: &'a Descriptor,
    /// The remainder of the current response.
    answer: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
    /// Number of bytes received.
    at: u64,
    /// Number of bytes to skip in the current response, because they were already received.
    passed: u64,
    /// Tries since the last byte, and tries in total.
    tries: (u32, u32),
}

impl<'a> Transfer<'a> {
    async fn begin(registry: &'a Registry<'a>, descriptor: &'a Descriptor) -> Result<Self, PullError> {
        let mut transfer = Self { registry, descriptor, answer: None, at: 0, passed: 0, tries: (0, 0) };
        transfer.send_request().await?;
        Ok(transfer)
    }

    async fn send_request(&mut self) -> Result<(), PullError> {
        let digest = &self.descriptor.digest;
        let range = (self.at > 0).then(|| (RANGE, format!("bytes={}-", self.at)));
        let what = format!("blob {digest}: ");
        let response = self.registry.get(&format!("blobs/{digest}"), range.as_slice(), &what).await?;
        let told = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let begins: Option<u64> = told.and_then(|told| told.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        self.passed = match (response.status(), begins) {
            (StatusCode::PARTIAL_CONTENT, Some(begins)) if begins == self.at => 0,
            (StatusCode::PARTIAL_CONTENT, _) => {
                return Err(PullError::Answer(format!(
                    "blob {digest}: the registry sent another range than Gantry requested"
                )));
            }
            _ => self.at,
        };
        self.answer = Some(response.bytes_stream().boxed());
        Ok(())
    }

    fn pieces(self) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'a {
        stream::try_unfold(self, async |mut transfer: Transfer<'a>| {
            let piece = transfer.next().await?;
            Ok(piece.map(|piece| (piece, transfer)))
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let piece = match &mut self.answer {
                Some(answer) => answer.next().await,
                None => None,
            };
            match piece {
                Some(Ok(mut piece)) => {
                    let known = piece.len().min(usize::try_from(self.passed).unwrap_or(usize::MAX));
                    self.passed -= known as u64;
                    let piece = piece.split_off(known);
                    if piece.is_empty() {
                        continue;
                    }
                    self.at += piece.len() as u64;
                    if self.at > self.descriptor.size {
                        return Err(io::Error::other("it is longer than its manifest says"));
                    }
                    self.tries.0 = 0;
                    return Ok(Some(piece));
                }
                _ if self.at == self.descriptor.size => return Ok(None),
                broken => self.resume(broken.and_then(Result::err)).await?,
            }
        }
    }

    /// Requests the remaining bytes, with a limited number of tries.
    async fn resume(&mut self, cause: Option<reqwest::Error>) -> io::Result<()> {
        let (since, all) = self.tries;
        if since >= TRIES_MAX || all >= RESUMES_MAX {
            let why = cause.map(|error| format!(": {}", causes(&error))).unwrap_or_default();
            let Descriptor { digest, size, .. } = self.descriptor;
            return Err(io::Error::other(format!("blob {digest} ended after {} of {size} bytes{why}", self.at)));
        }
        self.answer = None;
        tokio::time::sleep(pause(since)).await;
        self.tries = (since + 1, all + 1);
        match self.send_request().await {
            // The registry may be back in a moment.
            Err(PullError::Unreachable { .. }) => Ok(()),
            sent => sent.map_err(io::Error::other),
        }
    }
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
}

/// Builds the address of the token service from the challenge's parameters `realm="…",service="…",scope="…"`. The
/// address must use TLS, unless the registry is on this machine.
pub(crate) fn token_url(parameters: &str, remote: &Remote) -> Result<Url, PullError> {
    let wrong = |why: &str| PullError::Answer(format!("its challenge {parameters:?}: {why}"));
    let value = |name: &str| {
        let (_, rest) = parameters.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value)
    };
    let realm = value("realm").ok_or_else(|| wrong("it names no realm"))?;
    let mut url: Url = realm.parse().map_err(|_| wrong("its realm is not an address"))?;
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

/// Returns whether a registry may lead the client to the address. A foreign registry may lead only to the network, and
/// only with TLS.
fn may_lead_to(on_loopback: bool, url: &Url) -> bool {
    on_loopback && matches!(url.scheme(), "http" | "https") || url.scheme() == "https" && !is_local(url)
}

/// Formats an error with all its causes. Leaves out the request's address, which may contain a token.
fn causes(error: &dyn std::error::Error) -> String {
    gantry_error::ErrorChain(error.source().unwrap_or(error)).to_string()
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
