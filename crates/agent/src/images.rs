//! Images: fetched from the server's registry or from other machines, with each layer unpacked once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use gantry_api::ClientError;
use gantry_image::{Config, MANIFEST_OCI, Manifest};
use gantry_model::{AppName, Digest};
use gantry_supervision::{Backoff, Retry};
use tokio_util::io::ReaderStream;

use crate::{AgentContext, exchange};

/// Size of one read of a layer on the disk.
const PIECE: usize = 256 << 10;

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
    #[error("cannot write the image to disk")]
    Disk(#[from] std::io::Error),
    #[error("cannot receive a layer")]
    Part(#[from] exchange::PartError),
    #[error("the servers ended the transfer of a layer early")]
    Broken(#[source] std::io::Error),
    #[error("the servers sent wrong bytes of layer {layer}; push the image again")]
    WrongFromServers { layer: Digest, source: exchange::PartError },
    #[error("cannot fetch layer {layer} from the servers; if the failure lasts, look at the servers' logs")]
    FromServers { layer: Digest, source: Box<FetchCause> },
}

/// Paths at which the server serves the parts of an image; a digest is added.
pub(crate) struct ImageSource {
    manifests: String,
    blobs: String,
    /// Other machines may have the layers, too.
    is_shared: bool,
}

impl ImageSource {
    /// The repository of an app.
    fn repository(app: &AppName) -> Self {
        let (manifests, blobs) = (format!("/v2/{app}/manifests"), format!("/v2/{app}/blobs"));
        Self { manifests, blobs, is_shared: true }
    }

    /// A folder with all blobs.
    pub(crate) fn folder(path: &str) -> Self {
        Self { manifests: path.to_owned(), blobs: path.to_owned(), is_shared: false }
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
            let manifest = until_reachable(|| agent.client.bytes(&path, MANIFEST_OCI)).await?;
            let parsed = Manifest::parse(&manifest)?;
            let path = format!("{}/{}", source.blobs, parsed.config.digest);
            let config = until_reachable(|| agent.client.bytes(&path, "*/*")).await?;
            let config = Config::parse(&config, &parsed)?;
            keep(&kept, &parsed, &config)?;
            gantry_failpoint::failpoint!("image.kept");
            (parsed, config)
        }
    };
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids).rev() {
        if !agent.layers.has(diff_id) {
            let path = format!("{}/{}", source.blobs, descriptor.digest);
            let obtained = match source.is_shared {
                true => exchange::obtain(agent, &path, descriptor).await?,
                false => None,
            };
            // Copies of a role start together and need the same layers. The lock makes one copy unpack a layer while
            // the others wait.
            let _unpacking = agent.unpacking.lock().await;
            if !agent.layers.has(diff_id) {
                let is_from_disk = obtained.is_some();
                let stream = match obtained {
                    Some(file) => ReaderStream::with_capacity(file, PIECE).boxed(),
                    None => stream(agent, &path).await?,
                };
                let unpacked = agent.layers.unpack(descriptor, diff_id, stream).await;
                if is_from_disk && unpacked.is_err() {
                    agent.exchange.discard(&descriptor.digest);
                }
                unpacked?;
            }
        }
        layers.push(agent.layers.path(diff_id));
    }
    Ok(LocalImage { manifest, config, layers })
}

/// Streams a layer from the servers.
async fn stream(agent: &AgentContext, path: &str) -> Result<BoxStream<'static, std::io::Result<Bytes>>, ClientError> {
    let stream = until_reachable(|| agent.client.stream(path)).await?;
    let unpacked = Arc::clone(&agent.unpacked);
    let counted = stream.inspect_ok(move |piece| {
        unpacked.fetch_add(piece.len() as u64, Ordering::Relaxed);
    });
    Ok(counted.boxed())
}

/// Calls the server until the server is reachable. After a boot the agent starts its instances before the server
/// listens, and that must not fail a deploy. The caller ends the wait: when the plan no longer wants the instance,
/// which the deadline of a deploy brings about.
pub(crate) async fn until_reachable<T, F>(call: impl Fn() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let attempt = || async {
        match call().await {
            Err(error @ ClientError::Unreachable { .. }) => Err(error),
            result => Ok(result),
        }
    };
    Retry::new("fetch of an image", Backoff::constant(SERVER_RETRY)).until_done(attempt).await
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

/// Keeps the manifest and configuration of an image.
pub(crate) fn keep(folder: &std::path::Path, manifest: &Manifest, config: &Config) -> std::io::Result<()> {
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
        let answer = until_reachable(|| {
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
        let result: Result<(), _> = until_reachable(refused).await;
        assert!(matches!(result, Err(ClientError::Answer { .. })), "{result:?}");
    }
}
