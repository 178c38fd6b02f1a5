//! Images: fetched from the server's registry, with each layer unpacked once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use gantry_api::ClientError;
use gantry_image::{Config, MANIFEST_OCI, Manifest};
use gantry_model::{AppName, Digest};

use crate::AgentContext;

/// Retry interval while the server does not answer.
const SERVER_RETRY: Duration = Duration::from_millis(100);

/// An image that is complete on this machine.
pub(crate) struct LocalImage {
    pub(crate) manifest: Manifest,
    pub(crate) config: Config,
    /// Folders of the unpacked layers, topmost first.
    pub(crate) layers: Vec<PathBuf>,
}

/// Reason why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch image {image}")]
pub(crate) struct FetchError {
    image: String,
    source: FetchCause,
}

/// The part of a fetch that failed. Each error names its object itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchCause {
    #[error(transparent)]
    Server(#[from] ClientError),
    #[error(transparent)]
    Manifest(#[from] gantry_image::ManifestError),
    #[error(transparent)]
    Layers(#[from] gantry_image::LayersError),
    #[error("cannot write the manifest to disk")]
    Disk(#[from] std::io::Error),
}

/// Paths at which the server serves the parts of an image; a digest is added.
pub(crate) struct ImageSource {
    manifests: String,
    blobs: String,
}

impl ImageSource {
    /// The repository of an app.
    fn repository(app: &AppName) -> Self {
        Self { manifests: format!("/v2/{app}/manifests"), blobs: format!("/v2/{app}/blobs") }
    }

    /// A folder with all blobs.
    pub(crate) fn folder(path: &str) -> Self {
        Self { manifests: path.to_owned(), blobs: path.to_owned() }
    }
}

/// Fetches the missing parts of an app's image.
pub(crate) async fn fetch(agent: &AgentContext, app: &AppName, digest: &Digest) -> Result<LocalImage, FetchError> {
    fetch_from(agent, &ImageSource::repository(app), digest).await
}

/// Fetches the missing parts of an image.
pub(crate) async fn fetch_from(
    agent: &AgentContext,
    source: &ImageSource,
    digest: &Digest,
) -> Result<LocalImage, FetchError> {
    let fetched = fetch_parts(agent, source, digest).await;
    fetched.map_err(|source| FetchError { image: digest.short().to_string(), source })
}

async fn fetch_parts(agent: &AgentContext, source: &ImageSource, digest: &Digest) -> Result<LocalImage, FetchCause> {
    let kept = folder_of(agent, digest);
    let (manifest, config) = match read(&kept) {
        Some(known) => known,
        None => {
            let path = format!("{}/{digest}", source.manifests);
            let manifest = reached(|| agent.client.bytes(&path, MANIFEST_OCI)).await?;
            let parsed = Manifest::parse(&manifest)?;
            let path = format!("{}/{}", source.blobs, parsed.config.digest);
            let config = reached(|| agent.client.bytes(&path, "*/*")).await?;
            let config = Config::parse(&config, &parsed)?;
            keep(&kept, &parsed, &config)?;
            gantry_failpoint::failpoint!("image.kept");
            (parsed, config)
        }
    };
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids).rev() {
        if !agent.layers.has(diff_id) {
            // Copies of a role start together and need the same layers. The lock makes one copy unpack a layer while
            // the others wait.
            let _unpacking = agent.unpacking.lock().await;
            if !agent.layers.has(diff_id) {
                let path = format!("{}/{}", source.blobs, descriptor.digest);
                let stream = reached(|| agent.client.stream(&path)).await?;
                let unpacked = Arc::clone(&agent.unpacked);
                let counted = stream.inspect_ok(move |piece| {
                    unpacked.fetch_add(piece.len() as u64, Ordering::Relaxed);
                });
                let stream = counted.boxed();
                agent.layers.unpack(descriptor, diff_id, stream).await?;
            }
        }
        layers.push(agent.layers.path(diff_id));
    }
    Ok(LocalImage { manifest, config, layers })
}

/// Calls the server until the server is reachable. After a boot the agent starts its instances before the server
/// listens, and that must not fail a deploy. The caller ends the wait: when the plan no longer wants the instance,
/// which the deadline of a deploy brings about.
async fn reached<T, F>(call: impl Fn() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut waits = false;
    loop {
        match call().await {
            Err(error @ ClientError::Unreachable { .. }) => {
                if !std::mem::replace(&mut waits, true) {
                    tracing::warn!(%error, "the agent waits for the server to fetch an image");
                }
                tokio::time::sleep(SERVER_RETRY).await;
            }
            result => return result,
        }
    }
}

/// Reads the manifest and configuration of an image that was fetched before. Such an image starts again without the
/// server.
pub(crate) fn read(folder: &std::path::Path) -> Option<(Manifest, Config)> {
    let manifest = Manifest::parse(&std::fs::read(folder.join("manifest.json")).ok()?).ok()?;
    let config = Config::parse(&std::fs::read(folder.join("config.json")).ok()?, &manifest).ok()?;
    Some((manifest, config))
}

/// The folder with the manifest and configuration of an image.
pub(crate) fn folder_of(agent: &AgentContext, digest: &Digest) -> PathBuf {
    agent.settings.data.join("images").join(digest.hex())
}

fn keep(folder: &std::path::Path, manifest: &Manifest, config: &Config) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), serde_json::to_vec(config)?)?;
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(manifest)?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn waits_for_an_unreachable_server() {
        let calls = Cell::new(0);
        let answer = reached(|| {
            calls.set(calls.get() + 1);
            let unreachable = calls.get() < 4;
            async move {
                if unreachable {
                    return Err(ClientError::Unreachable { url: "http://s".to_owned(), source: "refused".into() });
                }
                Ok("manifest")
            }
        });
        assert_eq!(answer.await.expect("reached"), "manifest");
        assert_eq!(calls.get(), 4);
    }

    #[tokio::test]
    async fn passes_an_error_response_on_at_once() {
        let refused = || async { Err(ClientError::Answer { url: String::new(), what: "404".to_owned() }) };
        let result: Result<(), _> = reached(refused).await;
        assert!(matches!(result, Err(ClientError::Answer { .. })), "{result:?}");
    }
}
