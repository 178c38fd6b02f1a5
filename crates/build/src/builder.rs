//! Image builder: reads the recipe, makes the layers on the base image, runs the compile step and stores the image.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_blobs::{BlobError, BlobStore, DigestHasher};
use gantry_image::{Config, Descriptor, Layer, Layers, Looked, Manifest, Merged, Runtime};
use gantry_model::{AppName, DeployNumber, Digest, Role, RoleName};
pub use gantry_sandbox::ContainerNetwork;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::BuildError;
use crate::compile::{self, CompileLimits, Step};
use crate::output::Output;
use crate::recipe::{self, EnvRequest, Recipe};
use crate::script::Compile;
use crate::source::{self, APP_USER, Contents, LayerInput};
use crate::times::Times;
use crate::turns::Turns;

/// Folders and cgroup of the builder.
#[derive(Debug, Clone)]
pub struct Folders {
    /// Temporary files; on the same file system as all other data of Gantry.
    pub scratch: PathBuf,
    /// Cache folders of the compile steps, per app.
    pub caches: PathBuf,
    /// Records of file times, per app. Builds have no access to these records.
    pub times: PathBuf,
    /// Path of the static init program.
    pub init: PathBuf,
    /// File that build containers see as `/etc/resolv.conf`.
    pub resolv: PathBuf,
    /// Parent cgroup of the build containers.
    pub cgroup: String,
}

/// Result of a build.
#[derive(Debug, Clone)]
pub struct Built {
    /// Manifest of the image.
    pub image: Digest,
    /// The roles, with all defaults filled in.
    pub roles: BTreeMap<RoleName, Role>,
    /// Configuration values that the app asks for.
    pub env: BTreeMap<String, EnvRequest>,
}

/// Image builder.
#[derive(Clone)]
pub struct Builder {
    /// Store of the images' blobs.
    pub blobs: BlobStore,
    /// Unpacked layers on this machine.
    pub layers: Layers,
    /// Folders and cgroup of the builder.
    pub folders: Folders,
    /// Resource limits of `container/compile`.
    pub compile: CompileLimits,
    /// Build turns. An app has at most one build at a time, because its builds share a cache.
    pub turns: Turns,
}

/// Longest wait until the clock reaches the newest file time.
const WAIT_MAX: Duration = Duration::from_secs(2);

impl Builder {
    /// Opens a source archive and reads its recipe.
    ///
    /// # Errors
    /// An error in phase `source`, `roles` or `compile`.
    pub async fn open(&self, source: &Digest) -> Result<(Source, Recipe), BuildError> {
        let fail = |error: &dyn std::fmt::Display| BuildError::new("source", error);
        let mut file = match self.blobs.local_file(source).await.map_err(|error| fail(&error))? {
            Some(file) => file,
            None => self.fetch(source).await.map_err(|error| fail(&error))?,
        };
        let (file, scanned) = tokio::task::spawn_blocking(move || {
            let scanned = source::scan(&mut std::io::BufReader::new(&mut file))?;
            Ok::<_, BuildError>((file, scanned))
        })
        .await
        .map_err(|error| fail(&error))??;
        Ok((Source { file, contents: scanned.contents }, Recipe::read(&scanned.found)?))
    }

    /// Copies a blob that is not in a local folder into a temporary file.
    async fn fetch(&self, source: &Digest) -> Result<File, Box<dyn std::error::Error + Send + Sync>> {
        let mut blob = self.blobs.get(source).await?;
        let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(&self.folders.scratch)?);
        while let Some(piece) = blob.stream.next().await {
            file.write_all(&piece?).await?;
        }
        file.flush().await?;
        Ok(file.into_std().await)
    }

    /// Builds the image of a source tree on the job's base image.
    ///
    /// # Errors
    /// An error in the failed phase.
    pub async fn build(
        &self,
        job: &Job<'_>,
        source: Source,
        recipe: Recipe,
        output: &Arc<Output>,
    ) -> Result<Built, BuildError> {
        let (base, base_config) = self.image(job.base).await.map_err(|error| BuildError::new("base", error))?;
        let mut image = ImageParts::on(&base, &base_config);
        let _turn = self.turns.take(job.app).await;
        let _held = self.layers.hold().map_err(|error| BuildError::new("base", error))?;
        let root = match source.contents.has_files() {
            true => Some(self.root(&image).await.map_err(|error| BuildError::new("base", error))?),
            false => None,
        };
        let mut times = self.times(job, &source.contents, recipe.compile.is_some()).await?;
        let fresh = self.source_layers(source, times.clone(), job.commit, root).await?;
        gantry_failpoint::failpoint!("build.layered");
        for layer in fresh {
            self.keep(&mut image, layer).await.map_err(|error| BuildError::new("image", error))?;
        }
        if let Some(compile) = &recipe.compile {
            output.step("Running container/compile");
            let compiled = self.compiled(job, &image, compile, &times, output).await;
            // A failed step has also written to the cache, so its end counts too.
            times.close(now());
            self.keep_times(job.app, &times).await?;
            if let Some(layer) = compiled? {
                self.keep(&mut image, layer).await.map_err(|error| BuildError::new("image", error))?;
            }
        }
        output.step("Keeping the image");
        let digest =
            self.finish(image, job.commit, &recipe.texts).await.map_err(|error| BuildError::new("image", error))?;
        Ok(Built { image: digest, roles: recipe.roles, env: recipe.env })
    }

    /// Computes the times of this build's files. Writes the record before the build makes anything from the files.
    async fn times(&self, job: &Job<'_>, contents: &Contents, compiles: bool) -> Result<Times, BuildError> {
        let before = Times::read(&self.folders.times.join(job.app.as_str())).unwrap_or_else(|| {
            let cache = std::fs::read_dir(self.folders.caches.join(job.app.as_str()));
            // An unknown build filled a cache that has no record.
            if cache.is_ok_and(|mut entries| entries.next().is_some()) { Times::unknown() } else { Times::default() }
        });
        let prints = contents.prints(job.commit, &job.base.to_string());
        let times = before.next(&prints, contents.committed, now(), compiles);
        self.keep_times(job.app, &times).await?;
        Ok(times)
    }

    async fn keep_times(&self, app: &AppName, times: &Times) -> Result<(), BuildError> {
        let (path, times) = (self.folders.times.join(app.as_str()), times.clone());
        let scratch = self.folders.scratch.clone();
        let kept = tokio::task::spawn_blocking(move || times.write(&path, &scratch)).await;
        kept.map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| BuildError::new("source", format!("the times of its files cannot be kept: {error}")))
    }

    async fn source_layers(
        &self,
        source: Source,
        times: Times,
        commit: &str,
        root: Option<Merged>,
    ) -> Result<Vec<Layer>, BuildError> {
        let (scratch, commit) = (self.folders.scratch.clone(), commit.to_owned());
        let Source { mut file, contents } = source;
        let making = move || {
            let making = LayerInput {
                contents: &contents,
                times: &times,
                commit: &commit,
                base: root.as_ref(),
                scratch: &scratch,
            };
            source::layers(&mut file, &making)
        };
        tokio::task::spawn_blocking(making).await.map_err(|error| BuildError::new("source", error))?
    }

    async fn compiled(
        &self,
        job: &Job<'_>,
        image: &ImageParts,
        compile: &Compile,
        times: &Times,
        output: &Output,
    ) -> Result<Option<Layer>, BuildError> {
        let layers = self.unpacked(image).await.map_err(|error| BuildError::new("base", error))?;
        can_run(compile, &layers)?;
        // The products of the step must be newer than their sources.
        let newest = UNIX_EPOCH + Duration::from_secs(times.newest());
        if let Ok(left) = newest.duration_since(SystemTime::now()) {
            tokio::time::sleep(left.min(WAIT_MAX)).await;
        }
        let newest = times.of(source::build_print());
        let step = Step {
            name: format!("build-{}-{}", job.app, job.number.0),
            layers,
            env: compile::env(image.runtime.env.as_deref().unwrap_or_default(), job.commit, newest),
            by_shell: *compile == Compile::Shell,
            newest,
            users: job.users,
            network: job.network.clone(),
            cache: &self.folders.caches.join(job.app.as_str()),
            folders: &self.folders,
            resolv: &self.folders.resolv,
            cgroup: self.folders.cgroup.clone(),
            limits: self.compile,
        };
        compile::run(step, output).await
    }

    /// Merged root file system of the image's present layers.
    async fn root(&self, image: &ImageParts) -> Result<Merged, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Merged::of(&self.unpacked(image).await?)?)
    }

    /// Reads the manifest and configuration of an image.
    ///
    /// # Errors
    /// When a blob is missing or malformed.
    pub async fn image(&self, digest: &Digest) -> Result<(Manifest, Config), Box<dyn std::error::Error + Send + Sync>> {
        let manifest = Manifest::parse(&self.blobs.read(digest).await?)?;
        let config = Config::parse(&self.blobs.read(&manifest.config.digest).await?, &manifest)?;
        Ok((manifest, config))
    }

    /// Every part of an image is there and undamaged.
    ///
    /// # Errors
    /// When the blobs cannot be asked.
    pub async fn is_whole(&self, digest: &Digest) -> Result<bool, BlobError> {
        let bytes = match self.blobs.read(digest).await {
            Ok(bytes) => bytes,
            Err(BlobError::Missing(_) | BlobError::WrongDigest { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let Ok(manifest) = Manifest::parse(&bytes) else { return Ok(false) };
        for part in manifest.blobs() {
            if !self.blobs.is_intact(&part.digest).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn keep(&self, image: &mut ImageParts, layer: Layer) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let descriptor = layer.descriptor();
        if !self.blobs.is_intact(&layer.digest).await? {
            let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(layer.file), 256 << 10).boxed();
            self.blobs.put_stream(stream, Some(&layer.digest)).await?;
        }
        image.layers.push((descriptor, layer.diff_id));
        gantry_failpoint::failpoint!("build.kept");
        Ok(())
    }

    /// Unpacks every layer. Returns the folders from the top down.
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
        let described = (DigestHasher::of(&config), config.len() as u64);
        let manifest = Bytes::from(serde_json::to_vec(&Manifest::new(described, layers))?);
        let (_, manifest) = tokio::try_join!(self.blobs.put(config), self.blobs.put(manifest))?;
        gantry_failpoint::failpoint!("build.configured");
        Ok(manifest)
    }
}

/// A build to run.
pub struct Job<'a> {
    /// The app.
    pub app: &'a AppName,
    /// Number of the deploy.
    pub number: DeployNumber,
    /// Full SHA of the commit.
    pub commit: &'a str,
    /// Manifest of the base image.
    pub base: &'a Digest,
    /// First host id of the compile step's own user range; `None` if the machine has no such ranges.
    pub users: Option<u32>,
    /// Network access of the compile step.
    pub network: Option<ContainerNetwork>,
}

/// A fetched source archive.
pub struct Source {
    file: File,
    contents: Contents,
}

/// Present time in Unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Refuses a compile step if the image lacks the step's program or interpreter. For a missing interpreter, the kernel
/// reports the same error as for a missing script.
fn can_run(compile: &Compile, layers: &[PathBuf]) -> Result<(), BuildError> {
    let failed = |error: std::io::Error| BuildError::new("base", error);
    let root = Merged::of(layers).map_err(failed)?;
    let is_there = |path: &str| Ok(matches!(root.look(Path::new(path)).map_err(failed)?, Looked::Other { .. }));
    let refuse = |why: String| Err(BuildError::new("compile", why));
    match compile {
        Compile::Script { interpreter } if !is_there(interpreter)? => refuse(format!(
            "container/compile is to be run by {interpreter}, which the image does not have; \
             add the package that has it to the base, or name another interpreter in its first line"
        )),
        Compile::Shell if !is_there("/bin/sh")? => {
            refuse("container/compile has no `#!` line, and the image has no /bin/sh to run it".to_owned())
        }
        Compile::Program if !is_there("/app/container/compile")? => {
            refuse("container/compile is a link to a program that the image does not have".to_owned())
        }
        _ => Ok(()),
    }
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
