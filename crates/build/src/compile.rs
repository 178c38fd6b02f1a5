//! `container/compile`: the last step of a build, in the same sandbox as applications, as the app's user. Its exit status
//! decides the build.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use gantry_image::{Accounts, Layer, diff};
use gantry_linux::cgroup::Cgroup;
use gantry_linux::{disk, tree};
use gantry_model::output::{telling_line, within_a_line};
use gantry_relay::Tail;
use gantry_sandbox::{Bind, Container, ExitRecord, Limits, Log, Network, Root, Spec, User, end_rest, launch};

use crate::BuildError;
use crate::builder::Folders;
use crate::output::Output;
use crate::source::APP_USER;

/// What a compile step may use.
#[derive(Debug, Clone, Copy)]
pub struct CompileLimits {
    /// The longest that it may take.
    pub time: Duration,
    /// Bytes.
    pub memory: u64,
    /// Bytes that it may write, with what its app's cache holds.
    pub disk: u64,
}

/// The whole machine's processors, in thousandths.
const MILLI_CPU: u32 = 64_000;

/// Processes and threads.
const PIDS: u32 = 4096;

/// Where programs are, if the base does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the app's cache is seen; what is kept there survives builds.
const CACHE: &str = "/cache";

/// Paths that are mounted over, and so are no change of the step's.
const MOUNTED: [&str; 10] =
    [".gantry", "cache", "dev", "etc/group", "etc/hosts", "etc/passwd", "etc/resolv.conf", "proc", "sys", "tmp"];

/// Lines of output that a refusal shows.
const TAIL: usize = 20;

/// A step to run.
pub(crate) struct Step<'a> {
    /// Names its container among all.
    pub(crate) name: String,
    /// Unpacked, from the top down.
    pub(crate) layers: Vec<std::path::PathBuf>,
    /// The app's configuration is not here: an image is the same for every configuration.
    pub(crate) env: Vec<(String, String)>,
    /// `/bin/sh` is to read it.
    pub(crate) by_shell: bool,
    /// No file of its layer is newer than this.
    pub(crate) newest: u64,
    /// The first number of its own users, where the machine has such.
    pub(crate) users: Option<u32>,
    /// Its way to package registries.
    pub(crate) network: Option<Network>,
    /// The app's cache.
    pub(crate) cache: &'a Path,
    /// Where it works.
    pub(crate) folders: &'a Folders,
    /// The file to show as `/etc/resolv.conf`.
    pub(crate) resolv: &'a Path,
    /// The cgroup that holds build containers.
    pub(crate) cgroup: String,
    /// What it may use.
    pub(crate) limits: CompileLimits,
}

/// A step's environment: the base's own, and what Gantry says of a build.
pub(crate) fn env(base: &[String], commit: &str, time: u64) -> Vec<(String, String)> {
    let defaults = [("PATH", PATH), ("LANG", "C.UTF-8")];
    let own = [("HOME", "/app"), ("CACHE_DIR", CACHE), ("REVISION", commit)];
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut env: BTreeMap<String, String> = defaults.map(pair).into();
    let of_base = base.iter().filter_map(|entry| entry.split_once('=')).filter(|(name, _)| !name.is_empty());
    env.extend(of_base.map(pair));
    env.extend(own.map(pair));
    // By it tools that write times into what they make write the same ones each time (reproducible-builds.org).
    env.insert("SOURCE_DATE_EPOCH".to_owned(), time.to_string());
    env.into_iter().collect()
}

/// Runs the step; the layer of what it changed, if anything. Whatever becomes of it, nothing of it stays.
pub(crate) async fn run(step: Step<'_>, output: &Output) -> Result<Option<Layer>, BuildError> {
    // Its cache may be another app's by now.
    if output.is_cancelled() {
        return Err(BuildError::new("compile", "it was called off"));
    }
    let folder = step.folders.scratch.join(&step.name);
    let spec = spec(&step, &folder);
    let mut begun = begin(&step, &folder, &spec).await;
    if let Err(error) = &begun
        && !output.is_cancelled()
    {
        // What fails for a moment, such as a launcher that is killed, fails no build.
        output.note(&format!("{}; once more", error.message));
        discard(&spec, &folder).await?;
        begun = begin(&step, &folder, &spec).await;
    }
    let layer = match begun {
        Ok(container) => finish(&step, &container, &spec, output).await,
        Err(error) => Err(error),
    };
    if let Err(error) = discard(&spec, &folder).await {
        // Looked for again when the server starts.
        output.note(&error.message);
    }
    layer
}

fn failed(error: impl std::fmt::Display) -> BuildError {
    BuildError::new("compile", format!("it could not be run: {error}"))
}

async fn begin(step: &Step<'_>, folder: &Path, spec: &Spec) -> Result<Container, BuildError> {
    prepare(step, folder).map_err(failed)?;
    let mut spec = spec.clone();
    spec.binds.extend(accounts(&step.layers, folder).map_err(failed)?);
    gantry_linux::step!("compile.prepared");
    let container = launch(&spec).await.map_err(failed)?;
    gantry_linux::step!("compile.launched");
    Ok(container)
}

/// Waits for its end, and reads what it changed.
async fn finish(
    step: &Step<'_>,
    container: &Container,
    spec: &Spec,
    output: &Output,
) -> Result<Option<Layer>, BuildError> {
    let outcome = watch(container, spec, step.limits, step.cache, output).await;
    let usage = container.usage();
    gantry_linux::step!("compile.ended");
    container.destroy().await.map_err(failed)?;
    outcome?;
    judge(spec, usage.oom_kills > 0, output)?;
    let (upper, scratch, users) = (spec.root.upper.clone(), step.folders.scratch.clone(), step.users);
    let newest = step.newest;
    let read = move || diff(&upper, &MOUNTED, users, newest, &scratch);
    let layer = tokio::task::spawn_blocking(read).await.map_err(failed)?;
    gantry_linux::step!("compile.read");
    layer.map_err(|error| BuildError::new("compile", format!("its changes cannot be read: {error}")))
}

/// Ends what runs of it, and removes what it has.
async fn discard(spec: &Spec, folder: &Path) -> Result<(), BuildError> {
    let stays =
        |why: &dyn std::fmt::Display| BuildError::new("compile", format!("its container cannot be removed: {why}"));
    match Container::adopt(&spec.state, &spec.cgroup) {
        Some(container) => container.destroy().await,
        None => end_rest(&spec.cgroup).await,
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

/// Lines for the step's user, where the base has none: programs ask who they are.
fn accounts(layers: &[std::path::PathBuf], folder: &Path) -> std::io::Result<Vec<Bind>> {
    let Some(with) = Accounts::read(layers).with(APP_USER, "app", "/app") else { return Ok(Vec::new()) };
    let [passwd, group] = with.write(folder)?;
    Ok(vec![
        Bind { source: passwd, target: "/etc/passwd".into(), writable: false },
        Bind { source: group, target: "/etc/group".into(), writable: false },
    ])
}

fn spec(step: &Step<'_>, folder: &Path) -> Spec {
    let shell = step.by_shell.then_some("/bin/sh");
    Spec {
        state: folder.join("state"),
        cgroup: format!("{}/{}", step.cgroup, step.name),
        root: Root {
            layers: step.layers.clone(),
            upper: folder.join("upper"),
            work: folder.join("work"),
            mountpoint: folder.join("root"),
        },
        hostname: "build".to_owned(),
        args: shell.into_iter().chain(["/app/container/compile"]).map(str::to_owned).collect(),
        env: step.env.clone(),
        cwd: "/app".to_owned(),
        user: User { uid: APP_USER, gid: APP_USER },
        groups: Vec::new(),
        users: step.users,
        limits: Limits { memory: step.limits.memory, milli_cpu: MILLI_CPU, pids: PIDS, disk: Some(step.limits.disk) },
        network: step.network.clone(),
        binds: vec![
            Bind { source: folder.join("hosts"), target: "/etc/hosts".into(), writable: false },
            Bind { source: step.resolv.to_owned(), target: "/etc/resolv.conf".into(), writable: false },
            Bind { source: step.cache.to_owned(), target: CACHE.into(), writable: true },
        ],
        log: Log { segments: [folder.join("log.0"), folder.join("log.1")], limit: 16 << 20 },
        exit: folder.join("exit"),
        init: step.folders.init.clone(),
    }
}

/// Shows the output as it comes, until the step ends or its time is over.
async fn watch(
    container: &Container,
    spec: &Spec,
    limits: CompileLimits,
    cache: &Path,
    output: &Output,
) -> Result<(), BuildError> {
    let mut log = Tail::new(spec.log.segments.clone());
    let mut disk = disk::Watch::default();
    let deadline = tokio::time::Instant::now() + limits.time;
    let stopped = |message: String| BuildError { phase: "compile", message, tail: output.shown(TAIL) };
    loop {
        let ended = tokio::time::timeout(Duration::from_millis(100), container.ended()).await.is_ok();
        for line in log.fresh() {
            // Gantry's own lines are no last words of the program's.
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
        if disk.is_due(disk::free(cache), Instant::now()) && written(spec, cache, limits.disk).await > limits.disk {
            return Err(stopped(format!(
                "container/compile wrote more than {}, with its cache, and was stopped; --compile-disk of the server sets it",
                gantry_model::Bytes(limits.disk)
            )));
        }
    }
}

/// What a step has written, with its app's cache: counted until it is too much.
async fn written(spec: &Spec, cache: &Path, most: u64) -> u64 {
    let (folders, cache) = ([spec.root.upper.clone(), cache.to_owned()], cache.to_owned());
    let group = Cgroup::named(&spec.cgroup);
    let count = move || {
        let named = folders.iter().map(|folder| tree::usage(folder, most).unwrap_or_default());
        named.fold(disk::nameless(&group.processes(), Some(&cache), most), u64::saturating_add)
    };
    tokio::task::spawn_blocking(count).await.unwrap_or_default()
}

fn judge(spec: &Spec, out_of_memory: bool, output: &Output) -> Result<(), BuildError> {
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
            "container/compile, or a program that it runs, cannot be executed{}: it is not executable, or for another machine",
            output.tail(1).first().map(|line| format!(" (last output: {})", line.trim())).unwrap_or_default()
        ),
        Some(ExitRecord { code: Some(code), .. }) => match telling_line(&output.tail(TAIL)) {
            Some(line) => format!("container/compile exited with {code} (last output: {})", within_a_line(&line)),
            None => format!("container/compile exited with {code}"),
        },
        Some(ExitRecord { signal: Some(signal), .. }) => format!("container/compile was ended by signal {signal}"),
        _ => "container/compile ended without a record".to_owned(),
    };
    Err(BuildError { phase: "compile", message, tail: output.shown(TAIL) })
}
