//! Images: fetched from the server's registry, with each layer unpacked once.

use std::path::PathBuf;

use gantry_image::{Config, MANIFEST_OCI, Manifest};
use gantry_model::{AppName, Digest};

use crate::Agent;

/// An image that is complete on this machine.
pub(crate) struct Image {
    pub(crate) config: Config,
    /// Folders of the unpacked layers, topmost first.
    pub(crate) layers: Vec<PathBuf>,
}

/// Fetches the missing parts of an image. The error text is shown to people.
pub(crate) async fn fetch(agent: &Agent, app: &AppName, digest: &Digest) -> Result<Image, String> {
    let text = |error: &dyn std::fmt::Display| format!("its image {} cannot be fetched: {error}", digest.short());
    let kept = agent.settings.data.join("images").join(digest.hex());
    let (manifest, config) = match read(&kept) {
        Some(known) => known,
        None => {
            let path = format!("/v2/{app}/manifests/{digest}");
            let manifest = agent.client.bytes(&path, MANIFEST_OCI).await.map_err(|error| text(&error))?;
            let parsed = Manifest::parse(&manifest).map_err(|error| text(&error))?;
            let path = format!("/v2/{app}/blobs/{}", parsed.config.digest);
            let config = agent.client.bytes(&path, "*/*").await.map_err(|error| text(&error))?;
            let config = Config::parse(&config, &parsed).map_err(|error| text(&error))?;
            keep(&kept, &parsed, &config).map_err(|error| text(&error))?;
            gantry_linux::step!("image.kept");
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
                let path = format!("/v2/{app}/blobs/{}", descriptor.digest);
                let stream = agent.client.stream(&path).await.map_err(|error| text(&error))?;
                agent.layers.unpack(descriptor, diff_id, stream).await.map_err(|error| text(&error))?;
            }
        }
        layers.push(agent.layers.path(diff_id));
    }
    Ok(Image { config, layers })
}

/// Reads the manifest and configuration of an image that was fetched before. Such an image starts again without the
/// server.
pub(crate) fn read(folder: &std::path::Path) -> Option<(Manifest, Config)> {
    let manifest = Manifest::parse(&std::fs::read(folder.join("manifest.json")).ok()?).ok()?;
    let config = Config::parse(&std::fs::read(folder.join("config.json")).ok()?, &manifest).ok()?;
    Some((manifest, config))
}

fn keep(folder: &std::path::Path, manifest: &Manifest, config: &Config) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), serde_json::to_vec(config)?)?;
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(manifest)?)
}
