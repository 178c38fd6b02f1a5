//! The doer: recipe, base, layers, compile, image.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_blobs::Blobs;
use gantry_image::{Config, Descriptor, Layer, Layers, Manifest, Runtime};
use gantry_model::{AppName, DeployNumber, Digest, Role, RoleName};
pub use gantry_sandbox::Network;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::BuildError;
use crate::compile::{self, CompileLimits, Step};
use crate::recipe::{self, EnvRequest, Recipe};
use crate::source::{self, APP_USER};

/// The lines that a build keeps for a refusal.
const TAIL_MAX: usize = 200;

/// The most output of one build.
const OUTPUT_MAX: u64 = 16 << 20;

/// Where a build works.
#[derive(Debug, Clone)]
pub struct Folders {
    /// For what is on its way; on the same file system as everything else of Gantry.
    pub scratch: PathBuf,
    /// One cache folder per app.
    pub caches: PathBuf,
    /// The static init.
    pub init: PathBuf,
    /// The `/etc/resolv.conf` of build containers.
    pub resolv: PathBuf,
    /// The control group that build containers are in.
    pub cgroup: String,
}

/// A build's output: a file that is followed by whoever looks on, and the last lines for a refusal.
pub struct Output {
    /// None where it could not be opened.
    file: Mutex<(Option<File>, u64)>,
    tail: Mutex<VecDeque<String>>,
    cancelled: AtomicBool,
}

impl Output {
    /// Writes to `path`, which is emptied. A log that cannot be written is no reason to fail a build.
    #[must_use]
    pub fn to(path: &Path) -> Arc<Self> {
        let file =
            File::create(path).inspect_err(|error| tracing::warn!(path = %path.display(), %error, "no log of a build"));
        let file = Mutex::new((file.ok(), 0));
        Arc::new(Self { file, tail: Mutex::new(VecDeque::new()), cancelled: AtomicBool::new(false) })
    }

    /// A step that begins.
    pub fn step(&self, text: &str) {
        self.write(&format!("-----> {text}"));
    }

    /// Something to know about a step.
    pub fn note(&self, text: &str) {
        self.write(&format!("       {text}"));
    }

    /// A line that a program of the app's printed.
    pub fn program(&self, line: &str) {
        let clean: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        self.write(&format!("       {clean}"));
        let mut tail = self.tail.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if tail.len() == TAIL_MAX {
            tail.pop_front();
        }
        tail.push_back(clean);
    }

    fn write(&self, line: &str) {
        let mut guard = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (file, written) = &mut *guard;
        let Some(file) = file.as_mut().filter(|_| *written < OUTPUT_MAX) else { return };
        if writeln!(file, "{line}").is_ok() {
            *written += line.len() as u64 + 1;
        }
    }

    /// The last lines of the app's programs.
    #[must_use]
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let tail = self.tail.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tail.iter().skip(tail.len().saturating_sub(lines)).cloned().collect()
    }

    /// Calls the build off.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was called off.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What a build gave.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image's manifest.
    pub image: Digest,
    /// The roles, complete.
    pub roles: BTreeMap<RoleName, Role>,
    /// Configuration that the app asks for.
    pub env: BTreeMap<String, EnvRequest>,
}

/// Makes images.
#[derive(Clone)]
pub struct Builder {
    /// Where images are kept.
    pub blobs: Blobs,
    /// The machine's unpacked layers.
    pub layers: Layers,
    /// Where to work.
    pub folders: Folders,
    /// What `container/compile` may use.
    pub compile: CompileLimits,
}

impl Builder {
    /// Fetches a source archive and reads its recipe.
    ///
    /// # Errors
    /// In phase `source` or `roles`.
    pub async fn open(&self, source: &Digest) -> Result<(Source, Recipe), BuildError> {
        let fail = |error: &dyn std::fmt::Display| BuildError::new("source", error);
        let mut blob = self.blobs.get(source).await.map_err(|error| fail(&error))?;
        let file = tempfile::tempfile_in(&self.folders.scratch).map_err(|error| fail(&error))?;
        let mut into = tokio::fs::File::from_std(file);
        while let Some(piece) = blob.stream.next().await {
            into.write_all(&piece.map_err(|error| fail(&error))?).await.map_err(|error| fail(&error))?;
        }
        into.flush().await.map_err(|error| fail(&error))?;
        let mut file = into.into_std().await;
        let (file, found) = tokio::task::spawn_blocking(move || {
            use std::io::Seek;
            file.rewind().map_err(|error| BuildError::new("source", error))?;
            let found = source::scan(std::io::BufReader::new(&file))?;
            Ok::<_, BuildError>((file, found))
        })
        .await
        .map_err(|error| fail(&error))??;
        Ok((Source { file }, Recipe::read(&found)?))
    }

    /// Builds the image of a source tree on `base`.
    ///
    /// # Errors
    /// In the phase that failed.
    pub async fn build(
        &self,
        job: &Job<'_>,
        source: Source,
        recipe: Recipe,
        output: &Arc<Output>,
    ) -> Result<Built, BuildError> {
        let (base, base_config) = self.image(job.base).await.map_err(|error| BuildError::new("base", error))?;
        let scratch = self.folders.scratch.clone();
        let (mut file, commit) = (source.file, job.commit.to_owned());
        let fresh = tokio::task::spawn_blocking(move || source::layers(&mut file, &commit, &scratch))
            .await
            .map_err(|error| BuildError::new("source", error))??;
        gantry_linux::step!("build.layered");
        let mut image = ImageParts::on(&base, &base_config);
        for layer in fresh {
            self.keep(&mut image, layer).await.map_err(|error| BuildError::new("image", error))?;
        }
        if recipe.compile {
            output.step("Running container/compile");
            let _held = self.layers.hold().map_err(|error| BuildError::new("base", error))?;
            let layers = self.unpacked(&image).await.map_err(|error| BuildError::new("base", error))?;
            let env = vec![("REVISION".to_owned(), job.commit.to_owned())];
            let step = Step {
                name: format!("build-{}-{}", job.app, job.number.0),
                layers,
                env,
                users: job.users,
                network: job.network.clone(),
                cache: &self.folders.caches.join(job.app.as_str()),
                folders: &self.folders,
                resolv: &self.folders.resolv,
                cgroup: self.folders.cgroup.clone(),
                limits: self.compile,
            };
            if let Some(layer) = compile::run(step, output).await? {
                self.keep(&mut image, layer).await.map_err(|error| BuildError::new("image", error))?;
            }
        }
        output.step("Keeping the image");
        let digest =
            self.finish(image, job.commit, &recipe.texts).await.map_err(|error| BuildError::new("image", error))?;
        Ok(Built { image: digest, roles: recipe.roles, env: recipe.env })
    }

    /// Reads an image's manifest and configuration.
    ///
    /// # Errors
    /// When a blob is missing or not what it should be.
    pub async fn image(&self, digest: &Digest) -> Result<(Manifest, Config), Box<dyn std::error::Error + Send + Sync>> {
        let manifest = Manifest::parse(&self.blobs.read(digest).await?)?;
        let config = Config::parse(&self.blobs.read(&manifest.config.digest).await?, &manifest)?;
        Ok((manifest, config))
    }

    async fn keep(&self, image: &mut ImageParts, layer: Layer) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let descriptor = layer.descriptor();
        if self.blobs.size(&layer.digest).await?.is_none() {
            let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(layer.file), 256 << 10).boxed();
            self.blobs.put_stream(stream, Some(&layer.digest)).await?;
        }
        image.layers.push((descriptor, layer.diff_id));
        gantry_linux::step!("build.kept");
        Ok(())
    }

    /// Every layer unpacked, from the top down.
    async fn unpacked(&self, image: &ImageParts) -> Result<Vec<PathBuf>, Box<dyn std::error::Error + Send + Sync>> {
        let mut paths = Vec::new();
        for (descriptor, diff_id) in image.layers.iter().rev() {
            let stream = self.blobs.get(&descriptor.digest).await?.stream;
            paths.push(self.layers.unpack(descriptor, diff_id, stream).await?);
        }
        Ok(paths)
    }

    async fn finish(
        &self,
        image: ImageParts,
        commit: &str,
        texts: &BTreeMap<String, String>,
    ) -> Result<Digest, Box<dyn std::error::Error + Send + Sync>> {
        let mut runtime = image.runtime;
        runtime.user = Some(format!("{APP_USER}:{APP_USER}"));
        runtime.working_dir = Some("/app".to_owned());
        runtime.entrypoint = None;
        runtime.cmd = None;
        let revision = (recipe::REVISION.to_owned(), commit.to_owned());
        let recipe = (recipe::LABEL.to_owned(), serde_json::to_string(texts)?);
        runtime.labels.get_or_insert_default().extend([revision, recipe]);
        let (layers, diff_ids) = image.layers.into_iter().unzip();
        let config = Bytes::from(serde_json::to_vec(&Config::new(diff_ids, runtime))?);
        let size = config.len() as u64;
        let config = self.blobs.put(config).await?;
        gantry_linux::step!("build.configured");
        Ok(self.blobs.put(Bytes::from(serde_json::to_vec(&Manifest::new((config, size), layers))?)).await?)
    }
}

/// What to build.
pub struct Job<'a> {
    /// Whose.
    pub app: &'a AppName,
    /// For which deploy.
    pub number: DeployNumber,
    /// The full SHA.
    pub commit: &'a str,
    /// The base's manifest.
    pub base: &'a Digest,
    /// The first number of a compile step's own users, where the machine has such.
    pub users: Option<u32>,
    /// A compile step's way out.
    pub network: Option<Network>,
}

/// A source archive at hand.
pub struct Source {
    file: File,
}

struct ImageParts {
    layers: Vec<(Descriptor, Digest)>,
    runtime: Runtime,
}

impl ImageParts {
    fn on(manifest: &Manifest, config: &Config) -> Self {
        let layers = manifest.layers.iter().cloned().zip(config.rootfs.diff_ids.iter().cloned()).collect();
        Self { layers, runtime: config.config.clone() }
    }
}
