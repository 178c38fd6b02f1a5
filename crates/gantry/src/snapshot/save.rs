//! `gantry snapshot save`: fetches the images from the registry, blob by blob, and writes them as they come.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use bytes::Bytes as Piece;
use futures_util::StreamExt;
use gantry_agent::OfflineImages;
use gantry_api::endpoints::bases;
use gantry_api::{Client, ClientError};
use gantry_blobs::DigestHasher;
use gantry_image::{Config, Manifest};
use gantry_model::{Bytes, Digest};

use super::{
    BLOBS, DOCUMENT_MAX, DOCUMENTS_MAX, END_MEMBER, FORMAT, HEADING, IMAGES_MAX, SnapshotBlob, SnapshotHeading,
    SnapshotImage, image_line,
};
use crate::args::Machine;
use crate::coded::{fail, require};
use crate::exit::{DONE, Exit};
use crate::new_file::NewFile;
use crate::printer::{out, status};

/// A blob of any repository: blobs are found by their digests alone.
const BLOB_PATH: &str = "/v2/snapshot/blobs";

/// Runs `gantry snapshot save`.
pub(crate) async fn save(client: &Client, machine: &Machine, to: &Path) -> anyhow::Result<Exit> {
    let gathered = gather(client, machine).await?;
    let heading = gathered.heading();
    let (new, file) = NewFile::create(to)?;
    let mut writer = SnapshotWriter::begin(BufWriter::with_capacity(1 << 20, file), &heading)?;
    for blob in &heading.blobs {
        match gathered.documents.get(&blob.digest) {
            Some(text) => writer.whole_blob(&blob.digest, text)?,
            None => copy(client, blob, &mut writer).await?,
        }
    }
    let file = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    gantry_failpoint::failpoint!("snapshot.written");
    new.finish(&file)?;
    for image in &heading.images {
        out!("{}", image_line(&image.digest, &image.names));
    }
    let size = Bytes(heading.blobs.iter().map(|blob| blob.size).sum());
    status!("{} images, {size}, in {}", heading.images.len(), to.display());
    Ok(DONE)
}

/// Manifests and configurations, and what they name.
#[derive(Default)]
struct SnapshotContent {
    images: Vec<SnapshotImage>,
    documents: BTreeMap<Digest, Piece>,
    blobs: Vec<SnapshotBlob>,
    known: BTreeSet<Digest>,
}

impl SnapshotContent {
    fn heading(&self) -> SnapshotHeading {
        let (images, blobs) = (self.images.clone(), self.blobs.clone());
        SnapshotHeading { gantry_snapshot: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), images, blobs }
    }

    fn blob(&mut self, digest: &Digest, size: u64) {
        if self.known.insert(digest.clone()) {
            self.blobs.push(SnapshotBlob { digest: digest.clone(), size });
        }
    }

    /// Adds an image with its manifest and configuration.
    async fn image(&mut self, client: &Client, digest: &Digest, names: Vec<String>) -> anyhow::Result<()> {
        let text = self.document(client, digest).await?;
        let manifest = Manifest::parse(&text)?;
        let text = self.document(client, &manifest.config.digest).await?;
        Config::parse(&text, &manifest)?;
        for layer in &manifest.layers {
            self.blob(&layer.digest, layer.size);
        }
        self.images.push(SnapshotImage { digest: digest.clone(), names });
        Ok(())
    }

    async fn document(&mut self, client: &Client, digest: &Digest) -> anyhow::Result<Piece> {
        if let Some(known) = self.documents.get(digest) {
            return Ok(known.clone());
        }
        let text = client.bytes(&format!("{BLOB_PATH}/{digest}"), "*/*").await?;
        let found = DigestHasher::of(&text);
        require!(
            found == *digest,
            UnexpectedResponse,
            "the registry's blob {digest} is damaged: its content is {found}"
        );
        let all: u64 = self.documents.values().map(|text| text.len() as u64).sum();
        let fits = text.len() as u64 <= DOCUMENT_MAX && all + text.len() as u64 <= DOCUMENTS_MAX;
        require!(fits, InvalidSnapshot, "the manifests and configurations of the images are too large");
        self.blob(digest, text.len() as u64);
        self.documents.insert(digest.clone(), text.clone());
        Ok(text)
    }
}

/// Finds the images: every base, and what this machine holds.
async fn gather(client: &Client, machine: &Machine) -> anyhow::Result<SnapshotContent> {
    let mut names: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for base in client.fetch(&bases::List {}).await? {
        names.entry(base.image).or_default().push(format!("base/{}", base.name));
    }
    let bases: BTreeSet<Digest> = names.keys().cloned().collect();
    // Only root reads the agent's folder.
    let held = match machine.data.join("images").exists() {
        true => OfflineImages::in_folder(&machine.data)?.complete_images(),
        false => BTreeSet::new(),
    };
    for image in held {
        names.entry(image).or_default();
    }
    require!(!names.is_empty(), InvalidArguments, "there is no base, and this machine holds no image");
    require!(names.len() <= IMAGES_MAX, InvalidSnapshot, "there are more than {IMAGES_MAX} images");
    let mut gathered = SnapshotContent::default();
    for (digest, names) in names {
        match gathered.image(client, &digest, names).await {
            Ok(()) => {}
            Err(error) if is_gone(&error) && !bases.contains(&digest) => {
                status!(
                    "note: image {} is on this machine and not in the registry any more; it is left out",
                    digest.short()
                );
            }
            Err(error) => return Err(error.context(format!("cannot save image {digest}"))),
        }
    }
    Ok(gathered)
}

fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<ClientError>(), Some(ClientError::Problem(problem)) if problem.status == 404)
}

/// Copies a blob from the registry, and verifies it.
async fn copy(client: &Client, blob: &SnapshotBlob, writer: &mut SnapshotWriter<impl Write>) -> anyhow::Result<()> {
    let SnapshotBlob { digest, size } = blob;
    let mut pieces = client.stream(&format!("{BLOB_PATH}/{digest}")).await?;
    writer.begin_blob(digest, *size)?;
    while let Some(piece) = pieces.next().await {
        writer.piece(&piece.with_context(|| format!("cannot read layer {digest}"))?)?;
    }
    if let Err(why) = writer.end_blob() {
        fail!(
            UnexpectedResponse,
            "the registry's blob {digest}: {why}; `gantry check` on the server's machine names damage"
        );
    }
    Ok(())
}

/// A snapshot being written.
pub(super) struct SnapshotWriter<W> {
    file: W,
    heading: Digest,
    blob: Option<OpenBlob>,
}

/// The blob being written.
struct OpenBlob {
    digest: Digest,
    hasher: DigestHasher,
    size: u64,
    written: u64,
}

impl<W: Write> SnapshotWriter<W> {
    /// Begins with the heading.
    pub(super) fn begin(file: W, heading: &SnapshotHeading) -> anyhow::Result<Self> {
        let text = serde_json::to_vec(heading)?;
        let mut writer = Self { file, heading: DigestHasher::of(&text), blob: None };
        writer.member(HEADING, text.len() as u64)?;
        writer.file.write_all(&text)?;
        writer.pad(text.len() as u64)?;
        Ok(writer)
    }

    fn member(&mut self, name: &str, size: u64) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o600);
        header.set_cksum();
        self.file.write_all(header.as_bytes())
    }

    /// Fills the last block of a member.
    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size % 512).unwrap_or_default();
        if rest > 0 { self.file.write_all(&[0; 512][rest..]) } else { Ok(()) }
    }

    fn whole_blob(&mut self, digest: &Digest, content: &[u8]) -> anyhow::Result<()> {
        self.begin_blob(digest, content.len() as u64)?;
        self.piece(content)?;
        self.end_blob()
    }

    /// Begins a blob.
    pub(super) fn begin_blob(&mut self, digest: &Digest, size: u64) -> io::Result<()> {
        self.blob = Some(OpenBlob { digest: digest.clone(), hasher: DigestHasher::default(), size, written: 0 });
        self.member(&format!("{BLOBS}/{}", digest.hex()), size)
    }

    /// Writes the next piece of a blob.
    pub(super) fn piece(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        let blob = self.blob.as_mut().context("no blob was begun")?;
        blob.written += piece.len() as u64;
        anyhow::ensure!(blob.written <= blob.size, "it has more than {} bytes", blob.size);
        blob.hasher.update(piece);
        Ok(self.file.write_all(piece)?)
    }

    /// Ends a blob, whose size and digest must be the promised ones.
    pub(super) fn end_blob(&mut self) -> anyhow::Result<()> {
        let OpenBlob { digest, hasher, size, written } = self.blob.take().context("no blob was begun")?;
        anyhow::ensure!(written == size, "it has {written} bytes and should have {size}");
        let found = hasher.finish();
        anyhow::ensure!(found == digest, "it is damaged: its content is {found}");
        Ok(self.pad(size)?)
    }

    /// Writes the end.
    pub(super) fn finish(mut self) -> anyhow::Result<W> {
        let text = self.heading.to_string();
        self.member(END_MEMBER, text.len() as u64)?;
        self.file.write_all(text.as_bytes())?;
        self.pad(text.len() as u64)?;
        self.file.write_all(&[0; 1024])?;
        self.file.flush()?;
        Ok(self.file)
    }
}
