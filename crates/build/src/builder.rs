//! The doer: recipe, base, layers, compile, image.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_blobs::Blobs;
use gantry_image::{Config, Descriptor, Layer, Layers, Looked, Manifest, Merged, Runtime};
use gantry_model::{AppName, DeployNumber, Digest, Role, RoleName};
pub use gantry_sandbox::Network;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::BuildError;
use crate::compile::{self, CompileLimits, Step};
use crate::output::Output;
use crate::recipe::{self, EnvRequest, Recipe};
use crate::script::Compile;
use crate::source::{self, APP_USER, Contents, Making};
use crate::times::Times;
use crate::turns::Turns;

/// Where a build works.
#[derive(Debug, Clone)]
pub struct Folders {
    /// For what is on its way; on the same file system as everything else of Gantry.
    pub scratch: PathBuf,
    /// One cache folder per app.
    pub caches: PathBuf,
    /// One record of file times per app, out of the reach of its builds.
    pub times: PathBuf,
    /// The static init.
    pub init: PathBuf,
    /// The `/etc/resolv.conf` of build containers.
    pub resolv: PathBuf,
    /// The control group that build containers are in.
    pub cgroup: String,
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
    /// One build of an app at a time: they share a cache.
    pub turns: Turns,
}

/// A build waits no longer than this for the newest of its files' times to come.
const WAIT_MAX: Duration = Duration::from_secs(2);

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
        let (file, scanned) = tokio::task::spawn_blocking(move || {
            let scanned = source::scan(&mut std::io::BufReader::new(&mut file))?;
            Ok::<_, BuildError>((file, scanned))
        })
        .await
        .map_err(|error| fail(&error))??;
        Ok((Source { file, contents: scanned.contents }, Recipe::read(&scanned.found)?))
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
        let mut image = ImageParts::on(&base, &base_config);
        let _turn = self.turns.take(job.app).await;
        let _held = self.layers.hold().map_err(|error| BuildError::new("base", error))?;
        let root = match source.contents.has_files() {
            true => Some(self.root(&image).await.map_err(|error| BuildError::new("base", error))?),
            false => None,
        };
        let mut times = self.times(job, &source.contents, recipe.compile.is_some()).await?;
        let fresh = self.source_layers(source, times.clone(), job.commit, root).await?;
        gantry_linux::step!("build.layered");
        for layer in fresh {
            self.keep(&mut image, layer).await.map_err(|error| BuildError::new("image", error))?;
        }
        if let Some(compile) = &recipe.compile {
            output.step("Running container/compile");
            let compiled = self.compiled(job, &image, compile, &times, output).await;
            // Also of a step that failed: it has written to the cache.
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

    /// The times of this build's files, kept before anything is made from them.
    async fn times(&self, job: &Job<'_>, contents: &Contents, compiles: bool) -> Result<Times, BuildError> {
        let before = Times::read(&self.folders.times.join(job.app.as_str())).unwrap_or_else(|| {
            let cache = std::fs::read_dir(self.folders.caches.join(job.app.as_str()));
            // What is in a cache was made from something.
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
            let making =
                Making { contents: &contents, times: &times, commit: &commit, base: root.as_ref(), scratch: &scratch };
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
        // What the step makes is to be newer than what it makes it from.
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

    /// The root that an image has before anything is added.
    async fn root(&self, image: &ImageParts) -> Result<Merged, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Merged::of(&self.unpacked(image).await?)?)
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
    contents: Contents,
}

/// Unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Refuses a compile step whose program or interpreter the image does not have: the kernel's word for it is that of a script that
/// is not there.
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
