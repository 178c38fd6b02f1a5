//! `gantry snapshot`: images with their layers as one file, for machines that must start without a registry.
//!
//! The file is a tar archive:
//! - `snapshot.json`: the images, and the digest and size of every blob, in the order of the file;
//! - `blobs/<digest>`: manifests, configurations and layers;
//! - `end`: the digest of `snapshot.json`. A file that was cut has no `end`.
//!
//! `load` reads the whole file first and verifies every digest; nothing is written before. Then it unpacks the missing
//! layers, which are verified again, writes the images, and marks them. A kill between two steps leaves whole layers
//! and images; the next `load` goes on.

mod read;
mod save;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use anyhow::Context;
use futures_util::StreamExt;
use gantry_agent::OfflineImages;
use gantry_api::ErrorCode;
use gantry_model::{Bytes, Digest};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use self::read::{BlobRange, CheckedSnapshot};
pub(crate) use self::save::save;
use crate::args::Machine;
use crate::coded::WithCode;
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::printer::{one_line, out, status};

/// Version of the format.
const FORMAT: u32 = 1;

/// Names of the first and the last member, and the folder of the others.
const HEADING: &str = "snapshot.json";
const END_MEMBER: &str = "end";
const BLOBS: &str = "blobs";

/// Maximum number of images of a snapshot.
const IMAGES_MAX: usize = 1000;

/// Largest manifest or configuration, and all of them together, in bytes. They are held in memory.
const DOCUMENT_MAX: u64 = 4 << 20;
const DOCUMENTS_MAX: u64 = 256 << 20;

/// Largest heading, in bytes.
const HEADING_MAX: u64 = 32 << 20;

/// The content of `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotHeading {
    gantry_snapshot: u32,
    version: String,
    images: Vec<SnapshotImage>,
    blobs: Vec<SnapshotBlob>,
}

/// An image of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotImage {
    digest: Digest,
    /// Names for people: `base/python`.
    names: Vec<String>,
}

/// A blob of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotBlob {
    digest: Digest,
    size: u64,
}

/// Runs `gantry snapshot load`.
pub(crate) async fn load(machine: &Machine, from: &Path) -> anyhow::Result<Exit> {
    require_root()?;
    let reading = from.to_owned();
    let checked = tokio::task::spawn_blocking(move || {
        let file = File::open(&reading).context("cannot read it").with_code(ErrorCode::FileUnreadable)?;
        read::check(file).with_code(ErrorCode::InvalidSnapshot)
    });
    let snapshot = checked.await?.with_context(|| format!("{} was not loaded", from.display()))?;
    gantry_failpoint::failpoint!("snapshot.checked");
    crate::services::make_folders(machine)?;
    let images = OfflineImages::in_folder(&machine.data)?;
    // Garbage collection waits until the images are marked.
    let _pin = images.layers().pin()?;
    let mut unpacked = BTreeSet::new();
    for image in &snapshot.images {
        for (layer, diff_id) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
            if images.layers().has(diff_id) {
                continue;
            }
            let stream = stream(from, snapshot.place(&layer.digest)?).await?;
            images.layers().unpack(layer, diff_id, stream).await?;
            unpacked.insert(diff_id.clone());
            gantry_failpoint::failpoint!("snapshot.layer");
        }
        images.keep(&image.digest, &image.manifest, &image.config)?;
        gantry_failpoint::failpoint!("snapshot.image");
    }
    let digests = snapshot.images.iter().map(|image| image.digest.clone()).collect();
    images.mark(&digests)?;
    report(&snapshot, unpacked.len());
    Ok(DONE)
}

/// The bytes of a blob in the file.
async fn stream(
    path: &Path,
    BlobRange { offset, size }: BlobRange,
) -> anyhow::Result<futures_util::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(size), 256 << 10).boxed())
}

/// An image for people. Its names may come from a file of others.
fn image_line(digest: &Digest, names: &[String]) -> String {
    format!("{digest}  {}", one_line(&names.join(", "))).trim_end().to_owned()
}

fn report(snapshot: &CheckedSnapshot, unpacked: usize) {
    for image in &snapshot.images {
        out!("{}", image_line(&image.digest, &image.names));
    }
    let size = Bytes(snapshot.size());
    status!("{} images, {size}; {unpacked} layers unpacked, the others were there", snapshot.images.len());
}
