//! `container/compile`: the last step of a build. The compile step runs in the same sandbox as applications, as the
//! app's user. Its exit status decides whether the build succeeds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gantry_build::{BuildError, Output};
use gantry_control::builds::CompileLimits;
use gantry_error::ErrorChain;
use gantry_image::{APP_USER, Accounts, Layer, diff};
use gantry_linux::disk;
use gantry_model::output::{explaining_line, within_a_line};
use gantry_model::remedy::{self, Program};
use gantry_model::{BuildPhase, Bytes, Digest};
use gantry_relay::LogTail;
use gantry_sandbox::{BindMount, Container, ContainerLimits, ContainerSpec, ProcessUser};

use super::{TAIL, cancelled};
use crate::instance::InstanceError;
use crate::workload::{ContainerEnd, ContainerParts, StartAttempts, TransientWorkload, Verdict};

/// CPU limit in thousandths of a CPU: all processors of the machine.
const MILLI_CPU: u32 = 64_000;

/// Limit of processes and threads.
const PIDS: u32 = 4096;

/// Default `PATH`, if the base image sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Mount point of the app's cache. Files in the cache survive builds.
const CACHE: &str = "/cache";

/// Paths under a mount. The step's layer leaves them out.
const MOUNTED: [&str; 11] = [
    ".gantry",
    "cache",
    "dev",
    "etc/group",
    "etc/hostname",
    "etc/hosts",
    "etc/passwd",
    "etc/resolv.conf",
    "proc",
    "sys",
    "tmp",
];

/// Poll interval of the step's output and limits.
const POLL: Duration = Duration::from_millis(100);

/// A compile step to run.
pub(super) struct CompileStep {
    /// Folders of the unpacked layers, from the top down.
    pub(super) layers: Vec<PathBuf>,
    /// Environment. The app's configuration is left out, so the image is the same for every configuration.
    pub(super) env: Vec<(String, String)>,
    /// True if `/bin/sh` reads the file.
    pub(super) by_shell: bool,
    /// Newest time that a file of the step's layer may have.
    pub(super) newest: u64,
    /// First host id of the step's own user range; `None` if the machine has no such ranges.
    pub(super) users: Option<u32>,
    /// The base image, whose layers garbage collection keeps.
    pub(super) image: Digest,
    /// Folder of the app's cache.
    pub(super) cache: PathBuf,
    /// Folder for temporary files.
    pub(super) scratch: PathBuf,
    /// Resource limits.
    pub(super) limits: CompileLimits,
}

/// Environment of a compile step: defaults, the variables of the base image, and Gantry's build variables.
pub(super) fn env(base: &[String], commit: &str, time: u64) -> Vec<(String, String)> {
    let defaults = [("PATH", PATH), ("LANG", "C.UTF-8")];
    let own = [("HOME", "/app"), ("CACHE_DIR", CACHE), ("REVISION", commit)];
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut env: BTreeMap<String, String> = defaults.map(pair).into();
    let of_base = base.iter().filter_map(|entry| entry.split_once('=')).filter(|(name, _)| !name.is_empty());
    env.extend(of_base.map(pair));
    env.extend(own.map(pair));
    // Tools that write times into their products use this time, so the products are reproducible
    // (reproducible-builds.org).
    env.insert("SOURCE_DATE_EPOCH".to_owned(), time.to_string());
    env.into_iter().collect()
}

/// Runs the step and returns the layer of its changes; `None` without changes. The caller discards the workload.
pub(super) async fn run(
    step: &CompileStep,
    workload: &TransientWorkload,
    output: &Output,
) -> Result<Option<Layer>, BuildError> {
    if output.is_cancelled() {
        return Err(cancelled());
    }
    let mut attempts = StartAttempts::default();
    let (container, spec) = loop {
        match begin(step, workload).await {
            Ok(begun) => break begun,
            Err(error) if attempts.is_another_due(workload.workload().name(), &error) => {
                output.note(&format!("cannot start container/compile: {}; Gantry tries again", ErrorChain(&error)));
                workload.workload().clear().await.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    };
    finish(step, workload, &container, &spec, output).await
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    let message = format!("cannot run container/compile: {}; deploy again", ErrorChain(&error));
    BuildError::new(BuildPhase::Compile, message)
}

async fn begin(step: &CompileStep, workload: &TransientWorkload) -> Result<(Container, ContainerSpec), InstanceError> {
    let parts = parts(step);
    let cache = step.cache.clone();
    let prepare = move || {
        std::fs::create_dir_all(&cache)?;
        std::os::unix::fs::chown(&cache, Some(APP_USER), Some(APP_USER))?;
        // Programs look the step's user up.
        let accounts = Accounts::read(&parts.layers).with(APP_USER, "app", "/app");
        Ok(ContainerParts { accounts, ..parts })
    };
    let spec = workload.prepare(&step.image, Bytes(step.limits.disk), None, prepare).await?;
    gantry_failpoint::failpoint!("compile.prepared");
    let container = workload.launch(&spec).await?;
    gantry_failpoint::failpoint!("compile.launched");
    Ok((container, spec))
}

/// Waits for the end of the step, and makes the layer of its changes.
async fn finish(
    step: &CompileStep,
    workload: &TransientWorkload,
    container: &Container,
    spec: &ContainerSpec,
    output: &Output,
) -> Result<Option<Layer>, BuildError> {
    watch(step, workload, container, spec, output).await?;
    let usage = container.usage();
    gantry_failpoint::failpoint!("compile.ended");
    container.destroy().await.map_err(failed)?;
    let workload = workload.workload();
    let end = ContainerEnd { exit: workload.exit(), usage, ..ContainerEnd::default() };
    check_exit(step.limits, &Verdict::of(workload.kind(), &end), output)?;
    let (upper, scratch, users) = (spec.root.upper.clone(), step.scratch.clone(), step.users);
    let newest = step.newest;
    let read = move || diff(&upper, &MOUNTED, users, newest, &scratch);
    let layer = tokio::task::spawn_blocking(read).await.map_err(failed)?;
    gantry_failpoint::failpoint!("compile.read");
    layer.map_err(|error| {
        BuildError::new(BuildPhase::Compile, format!("cannot read the changes of container/compile: {error}"))
    })
}

fn parts(step: &CompileStep) -> ContainerParts {
    let shell = step.by_shell.then_some("/bin/sh");
    ContainerParts {
        layers: step.layers.clone(),
        args: shell.into_iter().chain(["/app/container/compile"]).map(str::to_owned).collect(),
        env: step.env.clone(),
        hostname: "build".to_owned(),
        short: "build".to_owned(),
        cwd: "/app".to_owned(),
        user: ProcessUser { uid: APP_USER, gid: APP_USER },
        groups: Vec::new(),
        users: step.users,
        limits: ContainerLimits {
            memory: step.limits.memory,
            milli_cpu: MILLI_CPU,
            pids: PIDS,
            disk: Some(step.limits.disk),
        },
        accounts: None,
        volumes: vec![BindMount { source: step.cache.clone(), target: CACHE.into(), writable: true }],
        network: true,
    }
}

/// Forwards the output until the step ends. Fails on a cancellation and above the time or disk limit; the container
/// then ends when the caller discards the workload.
async fn watch(
    step: &CompileStep,
    workload: &TransientWorkload,
    container: &Container,
    spec: &ContainerSpec,
    output: &Output,
) -> Result<(), BuildError> {
    let mut log = LogTail::new(spec.log.segments.clone());
    let mut schedule = disk::UsageSchedule::default();
    let (limits, cache) = (step.limits, step.cache.as_path());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(limits.seconds);
    let stopped = |message: String| BuildError { phase: BuildPhase::Compile, message, tail: output.shown(TAIL) };
    loop {
        let ended = tokio::select! {
            () = container.ended() => true,
            () = output.cancelled() => false,
            () = tokio::time::sleep(POLL) => false,
        };
        for line in log.new_lines() {
            // Gantry's own lines must not count as the last output of the program.
            if line.own { output.note(&line.text) } else { output.program(&line.text) }
        }
        if ended {
            return Ok(());
        }
        if output.is_cancelled() {
            return Err(cancelled());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(stopped(format!(
                "container/compile did not end in {} s and was stopped; `gantry cluster policy set compile-time=TIME` changes the limit",
                limits.seconds
            )));
        }
        let due = schedule.is_due(disk::free(cache), Instant::now());
        if due && workload.workload().written(Some(cache), limits.disk).await > limits.disk {
            return Err(stopped(format!(
                "container/compile wrote more than {}, with its cache, and was stopped; `gantry cluster policy set compile-disk=SIZE` changes the limit",
                Bytes(limits.disk)
            )));
        }
    }
}

fn check_exit(limits: CompileLimits, verdict: &Verdict, output: &Output) -> Result<(), BuildError> {
    let message = match (verdict.code, verdict.signal) {
        _ if verdict.out_of_memory => {
            let limit = Bytes(limits.memory);
            format!(
                "container/compile ran out of memory: a build may use {limit}; `gantry cluster policy set compile-memory=SIZE` changes the limit"
            )
        }
        (Some(0), _) => return Ok(()),
        (Some(126), _) => format!(
            "container/compile, or a program that it runs, cannot be executed{}: it is for another machine, or not executable (git update-index --chmod=+x FILE)",
            output.tail(1).first().map(|line| format!(" (last output: {})", line.trim())).unwrap_or_default()
        ),
        (Some(code), _) => {
            let tail = output.tail(TAIL);
            let last_output = explaining_line(&tail).map(|line| format!(" (last output: {})", within_a_line(&line)));
            let remedy = remedy::of_output(Program::CompileStep, Some(code), &tail);
            let remedy = remedy.map(|remedy| format!("; {remedy}"));
            format!(
                "container/compile exited with {code}{}{}",
                last_output.unwrap_or_default(),
                remedy.unwrap_or_default()
            )
        }
        (None, Some(signal)) => format!("container/compile was killed by signal {signal}"),
        (None, None) => "container/compile ended without a record".to_owned(),
    };
    Err(BuildError { phase: BuildPhase::Compile, message, tail: output.shown(TAIL) })
}
