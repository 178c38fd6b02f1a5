//! The launcher: a short-lived process with one thread. It reads a [`ContainerSpec`] from standard input, creates the container,
//! writes an [`LaunchOutcome`] to standard output, and exits.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use gantry_error::ErrorChain;
use gantry_ledger::Replacement;
use gantry_linux::cgroup::{self, Cgroup};
use gantry_linux::process::{
    ForkSide, ProcessHandle, SingleThreaded, boot_id, close_inherited, start_time, unshare, user_namespace,
};
use gantry_linux::{LinuxError, WithAction, mounts, network};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::inside::{Handshake, become_container};
use crate::spec::ContainerSpec;

/// First argument that makes the program a launcher of containers.
pub const LAUNCH_COMMAND: &str = "sandbox-launch";

/// First argument that makes the program a launcher of processes in a running container.
pub const EXEC_COMMAND: &str = "sandbox-exec";

/// Identity of a container's pid 1, unambiguous even if the kernel reuses the process id. The launcher writes the
/// identity before the container runs anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerIdentity {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) boot: String,
}

/// The launcher's result.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LaunchOutcome {
    Launched(ContainerIdentity),
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
        eprintln!("{}", ErrorChain(&error));
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
            eprintln!("{}", ErrorChain(&error));
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let answer = match read_spec().and_then(|spec| launch(&spec)) {
        Ok(identity) => LaunchOutcome::Launched(identity),
        Err(error) => LaunchOutcome::Failed(ErrorChain(&error).to_string()),
    };
    let failed = matches!(answer, LaunchOutcome::Failed(_));
    let written = serde_json::to_writer(io::stdout(), &answer).is_ok() && io::stdout().flush().is_ok();
    if failed || !written { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn read_spec() -> Result<ContainerSpec, LinuxError> {
    serde_json::from_reader(io::stdin())
        .map_err(io::Error::other)
        .with_action(|| "read the container's specification".to_owned())
}

/// Creates the container and releases it. After a failure, only the container's folders are left.
fn launch(spec: &ContainerSpec) -> Result<ContainerIdentity, LinuxError> {
    gantry_failpoint::failpoint!("launch.begun");
    let _lock = lock_state(&spec.state)?;
    gantry_failpoint::failpoint!("launch.locked");
    let group = Cgroup::named(&spec.cgroup);
    let limits =
        cgroup::GroupLimits { memory: spec.limits.memory, milli_cpu: spec.limits.milli_cpu, pids: spec.limits.pids };
    let launched = group.create(&limits).and_then(|()| {
        gantry_failpoint::failpoint!("launch.grouped");
        start(spec, &group)
    });
    if launched.is_err() {
        // The closed pipes end the container's processes within a moment. If the group is still busy now, the caller's
        // clean-up finds and removes the group later.
        let _ = group.remove();
    }
    launched
}

/// Locks the state folder, so that launches run one at a time, and refuses if a container is running there. A launcher may
/// outlive the agent that started it. The child inherits the lock and holds it until the child becomes init.
fn lock_state(state: &Path) -> Result<File, LinuxError> {
    let action = || format!("launch in {}", state.display());
    let file = File::create(state.join("launch.lock")).with_action(action)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other("another launch is in progress there"))
        .with_action(action)?;
    let known = std::fs::read(state.join(IDENTITY))
        .ok()
        .and_then(|text| serde_json::from_slice::<ContainerIdentity>(&text).ok());
    let runs = known
        .is_some_and(|known| known.boot == boot_id() && ProcessHandle::open(known.pid, known.start_time).is_some());
    if runs { Err(io::Error::other("a container is running there")).with_action(action) } else { Ok(file) }
}

fn start(spec: &ContainerSpec, group: &Cgroup) -> Result<ContainerIdentity, LinuxError> {
    let piped = || "create a pipe".to_owned();
    let (ready, ready_end) = io::pipe().with_action(piped)?;
    let (go_end, go) = io::pipe().with_action(piped)?;
    let (error, error_end) = io::pipe().with_action(piped)?;
    let users = spec.users.map(user_namespace).transpose()?;
    let alone = SingleThreaded::prove()?;
    unshare(UnshareFlags::NEWPID)?;
    match alone.fork()? {
        ForkSide::Child => {
            // The child must close the parent's ends, or the child would wait for itself.
            drop((ready, go, error));
            child(spec, users, Handshake { ready: ready_end, go: go_end }, error_end)
        }
        ForkSide::Parent(pid) => {
            drop((ready_end, go_end, error_end));
            parent(spec, group, pid, PipeEnds { ready, go, error })
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a forked child returns to nobody")]
fn child(spec: &ContainerSpec, users: Option<OwnedFd>, handshake: Handshake, mut error_end: PipeWriter) -> ! {
    let error = become_container(spec, users, handshake);
    let _ = error_end.write_all(ErrorChain(&error).to_string().as_bytes());
    std::process::exit(125)
}

struct PipeEnds {
    ready: PipeReader,
    go: PipeWriter,
    error: PipeReader,
}

fn parent(spec: &ContainerSpec, group: &Cgroup, pid: i32, ends: PipeEnds) -> Result<ContainerIdentity, LinuxError> {
    let PipeEnds { mut ready, go, mut error } = ends;
    let mut go = Some(go);
    let mut is_ready = false;
    let mut prepare = || -> Result<ContainerIdentity, LinuxError> {
        let mut byte = [0];
        ready.read_exact(&mut byte).with_action(|| "wait for the container's namespaces".to_owned())?;
        is_ready = true;
        gantry_failpoint::failpoint!("launch.forked");
        group.add(pid)?;
        gantry_failpoint::failpoint!("launch.joined");
        connect(spec, pid)?;
        gantry_failpoint::failpoint!("launch.connected");
        let identity = identify(pid)?;
        let held = spec.state.join(UNRELEASED);
        File::create(&held).with_action(|| format!("write {}", held.display()))?;
        write_identity(&spec.state, &identity)?;
        gantry_failpoint::failpoint!("launch.identified");
        std::fs::remove_file(&held).with_action(|| format!("remove {}", held.display()))?;
        if let Some(mut go) = go.take() {
            go.write_all(b"g").with_action(|| "release the container".to_owned())?;
        }
        Ok(identity)
    };
    let prepared = prepare();
    // Without the byte in the pipe, the child ends when the pipe closes.
    drop(go);
    let mut said = String::new();
    error.read_to_string(&mut said).with_action(|| "read the container's error".to_owned())?;
    gantry_failpoint::failpoint!("launch.released");
    // A child that fails before it is ready, or after its release, writes the cause. In between the child only waits.
    let is_child_error = !said.is_empty() && (prepared.is_ok() || !is_ready);
    let result = match prepared {
        _ if is_child_error => Err(io::Error::other(said)).with_action(|| "create the container".to_owned()),
        Ok(identity) => return Ok(identity),
        Err(error) => Err(error),
    };
    let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
    let _ = std::fs::remove_file(spec.state.join(IDENTITY));
    result
}

/// Name of the file in a container's state folder that holds its [`ContainerIdentity`].
pub(crate) const IDENTITY: &str = "container.json";

/// Name of the file in the state folder that marks a container as not yet released: the container has an identity, but
/// never ran.
pub(crate) const UNRELEASED: &str = "held";

fn connect(spec: &ContainerSpec, pid: i32) -> Result<(), LinuxError> {
    let Some(wanted) = &spec.network else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_action(|| "connect the container".to_owned())?;
    runtime.block_on(network::connect(&wanted.link, &wanted.bridge, pid, wanted.address))
}

fn identify(pid: i32) -> Result<ContainerIdentity, LinuxError> {
    let start_time = start_time(pid)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .with_action(|| "identify the container".to_owned())?;
    Ok(ContainerIdentity { pid, start_time, boot: boot_id() })
}

/// Writes the identity before the container runs. Whatever process dies afterwards, the container can be found again,
/// and is never started twice. The identity means nothing after a reboot, so the file is not synced.
fn write_identity(folder: &Path, identity: &ContainerIdentity) -> Result<(), LinuxError> {
    let path = folder.join(IDENTITY);
    let replacement =
        Replacement::of(&path).volatile().before_rename(|| gantry_failpoint::failpoint!("identity.written"));
    replacement.write_json(identity).with_action(|| format!("write {}", path.display()))
}
