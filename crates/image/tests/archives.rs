//! Tests of OCI archives: finding the image through nested indexes, and refusals.

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_blobs::BlobStore;
use gantry_image::import;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const OCI: &str = "application/vnd.oci.image.";

/// An image layout as a tar file.
struct Layout(tar::Builder<Vec<u8>>);

impl Layout {
    fn add(&mut self, path: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).expect("added");
    }

    /// Adds a blob. Returns its descriptor for an index or a manifest.
    fn blob(&mut self, kind: &str, content: &[u8]) -> Value {
        let hex = hex::encode(Sha256::digest(content));
        self.add(&format!("blobs/sha256/{hex}"), content);
        json!({ "mediaType": format!("{OCI}{kind}"), "digest": format!("sha256:{hex}"), "size": content.len() })
    }

    /// Adds a valid image without layers.
    fn image(&mut self) -> Value {
        let config = json!({ "architecture": own(), "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } });
        let config = self.blob("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [] });
        self.blob("manifest.v1+json", manifest.to_string().as_bytes())
    }

    async fn import(mut self, entry: &Value) -> Result<String, String> {
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        self.add("index.json", index.to_string().as_bytes());
        let bytes = Bytes::from(self.0.into_inner().expect("a tar file"));
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = BlobStore::in_folder(&folder.path().join("blobs")).expect("blobs");
        let stream = futures_util::stream::iter([Ok(bytes)]).boxed();
        import(stream, &blobs, folder.path()).await.map(|digest| digest.to_string()).map_err(|error| error.to_string())
    }
}

fn own() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

fn layout() -> Layout {
    Layout(tar::Builder::new(Vec::new()))
}

#[tokio::test]
async fn the_image_is_found_through_indexes_to_a_bound() {
    for depth in 0..7 {
        let mut layout = layout();
        let image = layout.image();
        let mut entry = image.clone();
        for _ in 0..depth {
            entry["platform"] = json!({ "os": "linux", "architecture": own() });
            let note = json!({ "mediaType": "x", "digest": format!("sha256:{}", "0".repeat(64)), "size": 1,
                "platform": { "os": "unknown", "architecture": "unknown" } });
            let index =
                json!({ "schemaVersion": 2, "mediaType": format!("{OCI}index.v1+json"), "manifests": [note, entry] });
            entry = layout.blob("index.v1+json", index.to_string().as_bytes());
        }
        match layout.import(&entry).await {
            // The archive's own index counts as a level.
            Ok(digest) => assert!(depth <= 4 && image["digest"] == digest, "{depth}"),
            Err(why) => assert!(depth > 4 && why.contains("nested more than 5 deep"), "{depth}: {why}"),
        }
    }
}

#[tokio::test]
async fn an_archive_for_other_platforms_names_them() {
    let mut layout = layout();
    let mut entry = layout.image();
    entry["platform"] = json!({ "os": "linux", "architecture": "arm", "variant": "v7" });
    let why = layout.import(&entry).await.expect_err("refused");
    assert!(why.contains("it has images for linux/arm/v7"), "{why}");
}
