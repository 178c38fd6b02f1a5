//! The launcher: a short-lived process with one thread. It reads a [`Spec`] from standard input, creates the container,
//! writes an [`Answer`] to standard output, and exits.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use gantry_linux::cgroup::{self, Cgroup};
use gantry_linux::process::{
    Forked, Process, SingleThreaded, boot_id, close_inherited, start_time, unshare, user_namespace,
};
use gantry_linux::{LinuxError, Tried, mounts, network};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::inside::{Handshake, become_container};
use crate::spec::Spec;

/// First argument that makes the program a launcher of containers.
pub const LAUNCH_COMMAND: &str = "sandbox-launch";

/// First argument that makes the program a launcher of processes in a running container.
pub const EXEC_COMMAND: &str = "sandbox-exec";

/// Identity of a container's pid 1, unambiguous even if the kernel reuses the process id. The launcher writes the
/// identity before the container runs anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) boot: String,
}

/// The launcher's result.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Launched(Identity),
    Failed(String),
}

/// Runs the launcher, if the program was started as a launcher. `main` must call this function first, before `main`
/// starts a thread.
#[must_use]
pub fn launcher_main() -> Option<ExitCode> {
    let mode = std::env::args_os().nth(1)?;
    let launcher: fn() -> ExitCode = match mode.to_str()? {
        LAUNCH_COMMAND => main,
        PROBE_COMMAND => probe_main,
        EXEC_COMMAND => crate::exec::launcher_main,
        _ => return None,
    };
    if let Err(error) = close_inherited() {
        eprintln!("{error}");
        return Some(ExitCode::FAILURE);
    }
    Some(launcher())
}

/// First argument that makes the program check for idmapped mounts in a folder.
pub(crate) const PROBE_COMMAND: &str = "sandbox-probe";

/// Checks whether the file system of a folder supports idmapped mounts. The folder is the second argument.
fn probe_main() -> ExitCode {
    let folder = std::env::args_os().nth(2).unwrap_or_default();
    // The check works with any range of ids.
    let mapped = user_namespace(1 << 30).and_then(|users| mounts::mapped_copy_of(Path::new(&folder), users));
    match mapped {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let answer = match read_spec().and_then(|spec| launch(&spec)) {
        Ok(identity) => Answer::Launched(identity),
        Err(error) => Answer::Failed(error.to_string()),
    };
    let failed = matches!(answer, Answer::Failed(_));
    let written = serde_json::to_writer(io::stdout(), &answer).is_ok() && io::stdout().flush().is_ok();
    if failed || !written { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn read_spec() -> Result<Spec, LinuxError> {
    serde_json::from_reader(io::stdin()).map_err(io::Error::other).tried(|| "read what to launch".to_owned())
}

/// Creates the container and releases it. After a failure, only the container's folders are left.
fn launch(spec: &Spec) -> Result<Identity, LinuxError> {
    gantry_linux::step!("launch.begun");
    let _lock = lock(&spec.state)?;
    gantry_linux::step!("launch.locked");
    let group = Cgroup::named(&spec.cgroup);
    let limits =
        cgroup::Limits { memory: spec.limits.memory, milli_cpu: spec.limits.milli_cpu, pids: spec.limits.pids };
    let launched = group.create(&limits).and_then(|()| {
        gantry_linux::step!("launch.grouped");
        start(spec, &group)
    });
    if launched.is_err() {
        // The closed pipes end the container's processes within a moment. If the group is still busy now, the caller's
        // clean-up finds and removes the group later.
        let _ = group.remove();
    }
    launched
}

/// Locks the state folder, so that launches run one at a time, and refuses if a container runs there. A launcher may
/// outlive the agent that started it. The child inherits the lock and holds it until the child becomes init.
fn lock(state: &Path) -> Result<File, LinuxError> {
    let action = || format!("launch in {}", state.display());
    let file = File::create(state.join("launch.lock")).tried(action)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other("another launch is under way there"))
        .tried(action)?;
    let known =
        std::fs::read(state.join(IDENTITY)).ok().and_then(|text| serde_json::from_slice::<Identity>(&text).ok());
    let runs =
        known.is_some_and(|known| known.boot == boot_id() && Process::open(known.pid, known.start_time).is_some());
    if runs { Err(io::Error::other("a container runs there")).tried(action) } else { Ok(file) }
}

fn start(spec: &Spec, group: &Cgroup) -> Result<Identity, LinuxError> {
    let piped = || "make a pipe".to_owned();
    let (ready, ready_end) = io::pipe().tried(piped)?;
    let (go_end, go) = io::pipe().tried(piped)?;
    let (error, error_end) = io::pipe().tried(piped)?;
    let users = spec.users.map(user_namespace).transpose()?;
    let alone = SingleThreaded::prove()?;
    unshare(UnshareFlags::NEWPID)?;
    match alone.fork()? {
        Forked::Child => {
            // The child must close the parent's ends, or the child would wait for itself.
            drop((ready, go, error));
            child(spec, users, Handshake { ready: ready_end, go: go_end }, error_end)
        }
        Forked::Parent(pid) => {
            drop((ready_end, go_end, error_end));
            parent(spec, group, pid, Ends { ready, go, error })
        }
    }
}

fn child(spec: &Spec, users: Option<OwnedFd>, handshake: Handshake, mut error_end: PipeWriter) -> ! {
    let error = become_container(spec, users, handshake);
    let _ = error_end.write_all(error.to_string().as_bytes());
    std::process::exit(125)
}

struct Ends {
    ready: PipeReader,
    go: PipeWriter,
    error: PipeReader,
}

fn parent(spec: &Spec, group: &Cgroup, pid: i32, ends: Ends) -> Result<Identity, LinuxError> {
    let Ends { mut ready, go, mut error } = ends;
    let mut go = Some(go);
    let mut prepare = || -> Result<Identity, LinuxError> {
        let mut byte = [0];
        ready.read_exact(&mut byte).tried(|| "hear of the container's namespaces".to_owned())?;
        gantry_linux::step!("launch.forked");
        group.add(pid)?;
        gantry_linux::step!("launch.joined");
        connect(spec, pid)?;
        gantry_linux::step!("launch.connected");
        let identity = identify(pid)?;
        let held = spec.state.join(HELD);
        File::create(&held).tried(|| format!("write {}", held.display()))?;
        write_identity(&spec.state, &identity)?;
        gantry_linux::step!("launch.identified");
        std::fs::remove_file(&held).tried(|| format!("remove {}", held.display()))?;
        if let Some(mut go) = go.take() {
            go.write_all(b"g").tried(|| "let the container go".to_owned())?;
        }
        Ok(identity)
    };
    let prepared = prepare();
    // Without the byte in the pipe, the child ends when the pipe closes.
    drop(go);
    let mut said = String::new();
    error.read_to_string(&mut said).tried(|| "hear from the container".to_owned())?;
    gantry_linux::step!("launch.released");
    let result = match prepared {
        Ok(identity) if said.is_empty() => return Ok(identity),
        Ok(_) => Err(io::Error::other(said)).tried(|| "make the container".to_owned()),
        Err(LinuxError { action, .. }) if !said.is_empty() && action.contains("hear of") => {
            Err(io::Error::other(said)).tried(|| "make the container".to_owned())
        }
        Err(error) => Err(error),
    };
    let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
    let _ = std::fs::remove_file(spec.state.join(IDENTITY));
    result
}

/// Name of the file in a container's state folder that holds its [`Identity`].
pub(crate) const IDENTITY: &str = "container.json";

/// Name of the file in the state folder that marks a container as not yet released: the container has an identity, but
/// never ran.
pub(crate) const HELD: &str = "held";

fn connect(spec: &Spec, pid: i32) -> Result<(), LinuxError> {
    let Some(wanted) = &spec.network else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .tried(|| "connect the container".to_owned())?;
    runtime.block_on(network::connect(&wanted.link, &wanted.bridge, pid, wanted.address))
}

fn identify(pid: i32) -> Result<Identity, LinuxError> {
    let start_time = start_time(pid)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .tried(|| "identify the container".to_owned())?;
    Ok(Identity { pid, start_time, boot: boot_id() })
}

/// Writes the identity durably before the container runs. Whatever process dies afterwards, the container can be found
/// again, and is never started twice.
fn write_identity(folder: &Path, identity: &Identity) -> Result<(), LinuxError> {
    let path = folder.join(IDENTITY);
    let write = || -> io::Result<()> {
        let fresh = folder.join("container.new");
        let mut file = File::create(&fresh)?;
        serde_json::to_writer(&mut file, identity)?;
        rustix::fs::fdatasync(file.as_fd())?;
        gantry_linux::step!("identity.written");
        std::fs::rename(&fresh, &path)
    };
    write().tried(|| format!("write {}", path.display()))
}
