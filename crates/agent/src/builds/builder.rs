//! The steps of a build: source, base, layers, compile step, image.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use gantry_build::{BuildError, Compile, ImageDraft, Output, Source, Times, build_fingerprint};
use gantry_control::builds::BuildOrder;
use gantry_error::ErrorChain;
use gantry_image::{Layer, MergedLayers, PathLookup};
use gantry_model::{BuildPhase, Digest};
use tokio_util::io::ReaderStream;

use super::cache::{self, AppCache};
use super::compile::{self, CompileStep};
use super::order_blobs::OrderBlobs;
use super::slots::BuildSlot;
use super::unless_cancelled;
use crate::workload::TransientWorkload;
use crate::{AgentContext, images};

/// Longest wait until the clock reaches the newest file time.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A build of this machine.
pub(super) struct Build<'a> {
    pub(super) agent: &'a Arc<AgentContext>,
    pub(super) blobs: &'a OrderBlobs,
    pub(super) order: &'a BuildOrder,
    pub(super) workload: &'a TransientWorkload,
    pub(super) slot: &'a BuildSlot,
}

impl Build<'_> {
    /// Builds the image, and returns its digest once the server has all of its blobs.
    pub(super) async fn run(&self, output: &Arc<Output>) -> Result<Digest, BuildError> {
        let scratch = self.workload.scratch().map_err(|error| BuildError::new(BuildPhase::Source, error))?;
        let download = self.blobs.download(&self.order.source, &scratch);
        let archive = unless_cancelled(output, download).await?.map_err(failed(BuildPhase::Source))?;
        let (mut source, recipe) = blocking(BuildPhase::Source, move || Source::open(archive)).await?;
        gantry_failpoint::failpoint!("build.fetched");
        let _pin = self.agent.layers.pin().map_err(failed(BuildPhase::Base))?;
        let blobs = self.blobs.source();
        let fetch = images::fetch_from(self.agent, &blobs, &self.order.base);
        let base = unless_cancelled(output, fetch).await?.map_err(failed(BuildPhase::Base))?;
        let mut image = ImageDraft::on_base(&base.manifest, &base.config);
        let cache = cache::claim(self.agent, &self.order.app, self.order.created);
        let cache = cache.map_err(|error| BuildError::new(BuildPhase::Source, error))?;
        let mut times = self.times(&source, &cache, recipe.compile.is_some(), &scratch).await?;
        let fresh = {
            let (times, commit, scratch) = (times.clone(), self.order.commit.clone(), scratch.clone());
            let folders = base.layers.clone();
            let layers = move || {
                let root = source.has_files().then(|| MergedLayers::of(&folders)).transpose();
                let root = root.map_err(|error| BuildError::new(BuildPhase::Base, error))?;
                source.layers(&times, &commit, root.as_ref(), &scratch)
            };
            blocking(BuildPhase::Source, layers).await?
        };
        gantry_failpoint::failpoint!("build.layered");
        for layer in fresh {
            self.keep(&mut image, layer, output).await?;
        }
        if let Some(compile) = &recipe.compile {
            output.step("Running container/compile");
            let compiled = self.compiled(&image, compile, &times, &cache, &scratch, output).await;
            // A failed step has also written to the cache, so its end counts too.
            times.close(now());
            write_times(&cache, &times, &scratch).await?;
            if let Some(layer) = compiled? {
                self.keep(&mut image, layer, output).await?;
            }
        }
        output.step("Keeping the image");
        let documents = image.finish(&self.order.commit, &recipe.texts);
        let documents = documents.map_err(|error| BuildError::new(BuildPhase::Image, error))?;
        let put = async {
            tokio::try_join!(
                self.blobs.put(&documents.config_digest, documents.config),
                self.blobs.put(&documents.image, documents.manifest)
            )
        };
        unless_cancelled(output, put).await?.map_err(failed(BuildPhase::Image))?;
        gantry_failpoint::failpoint!("build.configured");
        Ok(documents.image)
    }

    /// Computes the times of this build's files. Writes the record before the build makes anything from the files.
    async fn times(
        &self,
        source: &Source,
        cache: &AppCache,
        compiles: bool,
        scratch: &Path,
    ) -> Result<Times, BuildError> {
        // An unknown build filled a cache that has no record.
        let unrecorded = || if cache.is_empty() { Times::default() } else { Times::unknown() };
        let before = Times::read(&cache.times).unwrap_or_else(unrecorded);
        let times = source.times(&before, &self.order.commit, &self.order.base.to_string(), now(), compiles);
        write_times(cache, &times, scratch).await?;
        Ok(times)
    }

    async fn compiled(
        &self,
        image: &ImageDraft,
        compile: &Compile,
        times: &Times,
        cache: &AppCache,
        scratch: &Path,
        output: &Output,
    ) -> Result<Option<Layer>, BuildError> {
        let layers: Vec<PathBuf> = image.diff_ids().map(|diff_id| self.agent.layers.path(diff_id)).collect();
        can_run(compile, &layers)?;
        // The products of the step must be newer than their sources.
        let left = Duration::from_secs(times.newest()).saturating_sub(wall());
        if !left.is_zero() {
            unless_cancelled(output, tokio::time::sleep(left.min(WAIT_MAX))).await?;
        }
        let newest = times.of(build_fingerprint());
        let step = CompileStep {
            layers,
            env: compile::env(image.env(), &self.order.commit, newest),
            by_shell: *compile == Compile::Shell,
            newest,
            users: self.agent.users.mapped().then(|| self.slot.first_user()),
            image: self.order.base.clone(),
            cache: cache.folder.clone(),
            scratch: scratch.to_owned(),
            limits: self.order.limits,
        };
        compile::run(&step, self.workload, output).await
    }

    /// Unpacks a layer on this machine, and gives the layer to the server.
    async fn keep(&self, image: &mut ImageDraft, layer: Layer, output: &Output) -> Result<(), BuildError> {
        let (descriptor, diff_id) = (layer.descriptor(), layer.diff_id.clone());
        let unpack = async {
            let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(reopened(&layer)?), 256 << 10).boxed();
            let unpacked = self.agent.layers.unpack(&descriptor, &diff_id, stream).await;
            unpacked.map_err(failed(BuildPhase::Image))
        };
        let upload = async { self.blobs.upload(&layer).await.map_err(failed(BuildPhase::Image)) };
        unless_cancelled(output, async { tokio::try_join!(unpack, upload) }).await??;
        image.push(descriptor, diff_id);
        gantry_failpoint::failpoint!("build.kept");
        Ok(())
    }
}

/// Opens the file of a layer again, with a position of its own. The file has no name.
fn reopened(layer: &Layer) -> Result<std::fs::File, BuildError> {
    let path = format!("/proc/self/fd/{}", layer.file.as_raw_fd());
    std::fs::File::open(path).map_err(|error| BuildError::new(BuildPhase::Image, error))
}

/// Present time of the wall clock, since 1970: the time that files get.
fn wall() -> Duration {
    Duration::from_millis(gantry_linux::clock::wall())
}

/// Present time in Unix seconds.
fn now() -> u64 {
    wall().as_secs()
}

/// An error of a phase, with its causes.
pub(super) fn failed<E: std::error::Error + Send + Sync + 'static>(phase: BuildPhase) -> impl Fn(E) -> BuildError {
    move |error| BuildError::new(phase, ErrorChain(&error))
}

/// An error of the machine, such as a lack of addresses.
pub(super) fn on_machine(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    failed(BuildPhase::Machine)(error)
}

/// Runs a step on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    phase: BuildPhase,
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.map_err(failed(phase))?
}

async fn write_times(cache: &AppCache, times: &Times, scratch: &Path) -> Result<(), BuildError> {
    let (path, times, scratch) = (cache.times.clone(), times.clone(), scratch.to_owned());
    let written = tokio::task::spawn_blocking(move || times.write(&path, &scratch)).await;
    written
        .map_err(io::Error::other)
        .flatten()
        .map_err(|error| BuildError::new(BuildPhase::Source, format!("the times of its files cannot be kept: {error}")))
}

/// Refuses a compile step if the image lacks the step's program or interpreter. For a missing interpreter, the kernel
/// reports the same error as for a missing script.
fn can_run(compile: &Compile, layers: &[PathBuf]) -> Result<(), BuildError> {
    let failed = |error: io::Error| BuildError::new(BuildPhase::Base, error);
    let root = MergedLayers::of(layers).map_err(failed)?;
    let is_there = |path: &str| Ok(matches!(root.lookup(Path::new(path)).map_err(failed)?, PathLookup::Other { .. }));
    let refuse = |why: String| Err(BuildError::new(BuildPhase::Compile, why));
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
