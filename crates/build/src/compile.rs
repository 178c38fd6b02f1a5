//! `container/compile`: the last step of a build. The compile step runs in the same sandbox as applications, as the
//! app's user. Its exit status decides whether the build succeeds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use gantry_error::ErrorChain;
use gantry_image::{Accounts, Layer, diff};
use gantry_linux::cgroup::Cgroup;
use gantry_linux::{disk, tree};
use gantry_model::output::{telling_line, within_a_line};
use gantry_model::remedy;
use gantry_relay::LogTail;
use gantry_sandbox::{
    BindMount, Container, ContainerLimits, ContainerNetwork, ContainerSpec, ExitRecord, LogFiles, ProcessUser,
    RootFilesystem, kill_rest, launch,
};

use crate::BuildError;
use crate::builder::Folders;
use crate::output::Output;
use crate::source::APP_USER;

/// Resource limits of a compile step.
#[derive(Debug, Clone, Copy)]
pub struct CompileLimits {
    /// Timeout of the step.
    pub time: Duration,
    /// Memory limit in bytes.
    pub memory: u64,
    /// Disk limit in bytes: the step's files plus the app's cache.
    pub disk: u64,
}

/// CPU limit in thousandths of a CPU: all processors of the machine.
const MILLI_CPU: u32 = 64_000;

/// Limit of processes and threads.
const PIDS: u32 = 4096;

/// Default `PATH`, if the base image sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Mount point of the app's cache. Files in the cache survive builds.
const CACHE: &str = "/cache";

/// Paths under a mount. The step's layer leaves them out.
const MOUNTED: [&str; 10] =
    [".gantry", "cache", "dev", "etc/group", "etc/hosts", "etc/passwd", "etc/resolv.conf", "proc", "sys", "tmp"];

/// Lines of output in a build error.
const TAIL: usize = 20;

/// A compile step to run.
pub(crate) struct Step<'a> {
    /// Unique name of the step's container.
    pub(crate) name: String,
    /// Folders of the unpacked layers, from the top down.
    pub(crate) layers: Vec<std::path::PathBuf>,
    /// Environment. The app's configuration is left out, so the image is the same for every configuration.
    pub(crate) env: Vec<(String, String)>,
    /// True if `/bin/sh` reads the file.
    pub(crate) by_shell: bool,
    /// Newest time that a file of the step's layer may have.
    pub(crate) newest: u64,
    /// First host id of the step's own user range; `None` if the machine has no such ranges.
    pub(crate) users: Option<u32>,
    /// Network access, for package registries.
    pub(crate) network: Option<ContainerNetwork>,
    /// Folder of the app's cache.
    pub(crate) cache: &'a Path,
    /// Working folders of the builder.
    pub(crate) folders: &'a Folders,
    /// Path of the file to mount at `/etc/resolv.conf`.
    pub(crate) resolv: &'a Path,
    /// The cgroup that holds build containers.
    pub(crate) cgroup: String,
    /// Resource limits.
    pub(crate) limits: CompileLimits,
}

/// Environment of a compile step: defaults, the variables of the base image, and Gantry's build variables.
pub(crate) fn env(base: &[String], commit: &str, time: u64) -> Vec<(String, String)> {
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

/// Runs the step and returns the layer of its changes; `None` without changes. Afterwards removes the container and all
/// files of the step, after a failure too.
pub(crate) async fn run(step: Step<'_>, output: &Output) -> Result<Option<Layer>, BuildError> {
    // After a cancel, the cache may belong to another app of the same name.
    if output.is_cancelled() {
        return Err(BuildError::new("compile", "it was called off"));
    }
    let folder = step.folders.scratch.join(&step.name);
    let spec = spec(&step, &folder);
    let mut begun = begin(&step, &folder, &spec).await;
    if let Err(error) = &begun
        && !output.is_cancelled()
    {
        // A transient failure, such as a killed launcher, must not fail a build. Try once more.
        output.note(&format!("{}; once more", error.message));
        discard(&spec, &folder).await?;
        begun = begin(&step, &folder, &spec).await;
    }
    let layer = match begun {
        Ok(container) => finish(&step, &container, &spec, output).await,
        Err(error) => Err(error),
    };
    if let Err(error) = discard(&spec, &folder).await {
        // The server looks for leftover containers again at its next start.
        output.note(&error.message);
    }
    layer
}

fn failed(error: impl std::error::Error) -> BuildError {
    BuildError::new("compile", format!("it could not be run: {}", ErrorChain(&error)))
}

async fn begin(step: &Step<'_>, folder: &Path, spec: &ContainerSpec) -> Result<Container, BuildError> {
    prepare(step, folder).map_err(failed)?;
    let mut spec = spec.clone();
    spec.binds.extend(accounts(&step.layers, folder).map_err(failed)?);
    gantry_failpoint::failpoint!("compile.prepared");
    let container = launch(&spec).await.map_err(failed)?;
    gantry_failpoint::failpoint!("compile.launched");
    Ok(container)
}

/// Waits for the end of the step, and makes the layer of its changes.
async fn finish(
    step: &Step<'_>,
    container: &Container,
    spec: &ContainerSpec,
    output: &Output,
) -> Result<Option<Layer>, BuildError> {
    let outcome = watch(container, spec, step.limits, step.cache, output).await;
    let usage = container.usage();
    gantry_failpoint::failpoint!("compile.ended");
    container.destroy().await.map_err(failed)?;
    outcome?;
    check_exit(spec, usage.oom_kills > 0, output)?;
    let (upper, scratch, users) = (spec.root.upper.clone(), step.folders.scratch.clone(), step.users);
    let newest = step.newest;
    let read = move || diff(&upper, &MOUNTED, users, newest, &scratch);
    let layer = tokio::task::spawn_blocking(read).await.map_err(failed)?;
    gantry_failpoint::failpoint!("compile.read");
    layer.map_err(|error| BuildError::new("compile", format!("its changes cannot be read: {error}")))
}

/// Ends the remaining processes of the step, and removes the container and its files.
async fn discard(spec: &ContainerSpec, folder: &Path) -> Result<(), BuildError> {
    let stays = |error: &dyn std::error::Error| {
        BuildError::new("compile", format!("its container cannot be removed: {}", ErrorChain(error)))
    };
    match Container::adopt(&spec.state, &spec.cgroup) {
        Some(container) => container.destroy().await,
        None => kill_rest(&spec.cgroup).await,
    }
    .map_err(|error| stays(&error))?;
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || tree::remove(&folder)).await.map_err(failed)?.map_err(|error| stays(&error))
}

fn prepare(step: &Step<'_>, folder: &Path) -> std::io::Result<()> {
    tree::remove(folder)?;
    for name in ["state", "upper", "work", "root"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    let machine =
        step.network.as_ref().map(|network| format!("{} host.internal host.docker.internal\n", network.gateway));
    let hosts = format!("127.0.0.1 localhost\n::1 localhost\n{}", machine.unwrap_or_default());
    std::fs::write(folder.join("hosts"), hosts)?;
    std::fs::create_dir_all(step.cache)?;
    std::os::unix::fs::chown(step.cache, Some(APP_USER), Some(APP_USER))
}

/// Mounts passwd and group files with the step's user, if the base image lacks the user. Programs look the user up.
fn accounts(layers: &[std::path::PathBuf], folder: &Path) -> std::io::Result<Vec<BindMount>> {
    let Some(with) = Accounts::read(layers).with(APP_USER, "app", "/app") else { return Ok(Vec::new()) };
    let [passwd, group] = with.write(folder)?;
    Ok(vec![
        BindMount { source: passwd, target: "/etc/passwd".into(), writable: false },
        BindMount { source: group, target: "/etc/group".into(), writable: false },
    ])
}

fn spec(step: &Step<'_>, folder: &Path) -> ContainerSpec {
    let shell = step.by_shell.then_some("/bin/sh");
    ContainerSpec {
        state: folder.join("state"),
        cgroup: format!("{}/{}", step.cgroup, step.name),
        root: RootFilesystem {
            layers: step.layers.clone(),
            upper: folder.join("upper"),
            work: folder.join("work"),
            mountpoint: folder.join("root"),
        },
        hostname: "build".to_owned(),
        args: shell.into_iter().chain(["/app/container/compile"]).map(str::to_owned).collect(),
        env: step.env.clone(),
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
        network: step.network.clone(),
        binds: vec![
            BindMount { source: folder.join("hosts"), target: "/etc/hosts".into(), writable: false },
            BindMount { source: step.resolv.to_owned(), target: "/etc/resolv.conf".into(), writable: false },
            BindMount { source: step.cache.to_owned(), target: CACHE.into(), writable: true },
        ],
        log: LogFiles { segments: [folder.join("log.0"), folder.join("log.1")], limit: 16 << 20 },
        exit: folder.join("exit"),
        init: step.folders.init.clone(),
    }
}

/// Forwards the output until the step ends. Fails on a cancel and above the time or disk limit.
async fn watch(
    container: &Container,
    spec: &ContainerSpec,
    limits: CompileLimits,
    cache: &Path,
    output: &Output,
) -> Result<(), BuildError> {
    let mut log = LogTail::new(spec.log.segments.clone());
    let mut disk = disk::UsageSchedule::default();
    let deadline = tokio::time::Instant::now() + limits.time;
    let stopped = |message: String| BuildError { phase: "compile", message, tail: output.shown(TAIL) };
    loop {
        let ended = tokio::time::timeout(Duration::from_millis(100), container.ended()).await.is_ok();
        for line in log.new_lines() {
            // Gantry's own lines must not count as the last output of the program.
            if line.own { output.note(&line.text) } else { output.program(&line.text) }
        }
        if ended {
            return Ok(());
        }
        if output.is_cancelled() {
            return Err(BuildError::new("compile", "it was called off"));
        }
        if tokio::time::Instant::now() > deadline {
            let seconds = limits.time.as_secs();
            return Err(stopped(format!(
                "container/compile did not end in {seconds} s and was stopped; --compile-time of the server sets it"
            )));
        }
        if disk.is_due(disk::free(cache), Instant::now()) && written_bytes(spec, cache, limits.disk).await > limits.disk
        {
            return Err(stopped(format!(
                "container/compile wrote more than {}, with its cache, and was stopped; --compile-disk of the server sets it",
                gantry_model::Bytes(limits.disk)
            )));
        }
    }
}

/// Bytes of the step's files and of its app's cache. Counting stops above `most`.
async fn written_bytes(spec: &ContainerSpec, cache: &Path, most: u64) -> u64 {
    let (folders, cache) = ([spec.root.upper.clone(), cache.to_owned()], cache.to_owned());
    let group = Cgroup::named(&spec.cgroup);
    let count = move || {
        let named = folders.iter().map(|folder| tree::usage(folder, most).unwrap_or_default());
        named.fold(disk::nameless(&group.processes(), Some(&cache), most), u64::saturating_add)
    };
    tokio::task::spawn_blocking(count).await.unwrap_or_default()
}

fn check_exit(spec: &ContainerSpec, out_of_memory: bool, output: &Output) -> Result<(), BuildError> {
    let record = ExitRecord::read(&spec.exit);
    let message = match record {
        _ if out_of_memory => {
            let limit = gantry_model::Bytes(spec.limits.memory);
            format!(
                "container/compile ran out of memory: a build may use {limit}; raise --compile-memory of `gantry up`"
            )
        }
        Some(ExitRecord { code: Some(0), .. }) => return Ok(()),
        Some(ExitRecord { code: Some(126), .. }) => format!(
            "container/compile, or a program that it runs, cannot be executed{}: it is for another machine, or not executable (git update-index --chmod=+x FILE)",
            output.tail(1).first().map(|line| format!(" (last output: {})", line.trim())).unwrap_or_default()
        ),
        Some(ExitRecord { code: Some(code), .. }) => {
            let tail = output.tail(TAIL);
            let said = telling_line(&tail).map(|line| format!(" (last output: {})", within_a_line(&line)));
            let remedy = remedy::of_output(Some(code), &tail).map(|remedy| format!("; {remedy}"));
            format!("container/compile exited with {code}{}{}", said.unwrap_or_default(), remedy.unwrap_or_default())
        }
        Some(ExitRecord { signal: Some(signal), .. }) => format!("container/compile was killed by signal {signal}"),
        _ => "container/compile ended without a record".to_owned(),
    };
    Err(BuildError { phase: "compile", message, tail: output.shown(TAIL) })
}
