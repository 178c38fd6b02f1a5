//! The launch of a container, in a worker: creates the container and releases it.
//!
//! ```text
//! worker     fork ─► control group ─► join, wait for the namespaces ─► link ─► container.json ─► go ─► answer
//! container       └─► namespaces, layers, mounts ───────────────────────────────── wait for go ─► addresses, rights, init
//! ```
//! The two work at the same time. On v1 the kernel lets a process wait for milliseconds until it joins a group; the
//! container makes its mounts meanwhile. On v2 the container is forked into its group.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_error::ErrorChain;
use gantry_ledger::Replacement;
use gantry_linux::cgroup::Cgroup;
use gantry_linux::link::Links;
use gantry_linux::process::{ForkSide, ProcessHandle, SingleThreaded, boot_id, start_time, user_namespace};
use gantry_linux::{LinuxError, WithAction};
use serde::{Deserialize, Serialize};

use crate::init_program::InitProgram;
use crate::inside::{Handshake, Inheritance, become_container};
use crate::spec::ContainerSpec;

/// Identity of a container's pid 1, unambiguous even if the kernel reuses the process id. The worker writes the
/// identity before the container runs anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerIdentity {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) boot: String,
}

/// The result of a launch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum LaunchOutcome {
    Launched(ContainerIdentity),
    Failed(String),
}

impl From<Result<ContainerIdentity, LinuxError>> for LaunchOutcome {
    fn from(launched: Result<ContainerIdentity, LinuxError>) -> Self {
        match launched {
            Ok(identity) => Self::Launched(identity),
            Err(error) => Self::Failed(ErrorChain(&error).to_string()),
        }
    }
}

/// Creates the container and releases it. After a failure, only the container's folders are left.
pub(crate) fn launch(
    alone: &SingleThreaded,
    spec: &ContainerSpec,
    init: Option<InitProgram>,
) -> Result<ContainerIdentity, LinuxError> {
    gantry_failpoint::failpoint!("launch.begun");
    let _lock = lock_state(&spec.state)?;
    gantry_failpoint::failpoint!("launch.locked");
    let group = Cgroup::named(&spec.cgroup);
    let launched = start(alone, spec, &group, init);
    if launched.is_err() {
        // The closed pipes end the container's processes within a moment. If the group is still busy now, the caller's
        // clean-up finds and removes the group later.
        let _ = group.remove();
    }
    launched
}

fn create_group(spec: &ContainerSpec, group: &Cgroup) -> Result<(), LinuxError> {
    group.create(&spec.limits.of_group())?;
    gantry_failpoint::failpoint!("launch.grouped");
    Ok(())
}

/// Locks the state folder, so that launches run one at a time, and refuses if a container is running there. A worker may
/// outlive the agent that asked for it. The child inherits the lock and holds it until the child becomes init.
pub(crate) fn lock_state(state: &Path) -> Result<File, LinuxError> {
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

fn start(
    alone: &SingleThreaded,
    spec: &ContainerSpec,
    group: &Cgroup,
    init: Option<InitProgram>,
) -> Result<ContainerIdentity, LinuxError> {
    let users = spec.users.map(|first| user_namespace(alone, first)).transpose()?;
    let folder = match group.is_unified() {
        true => create_group(spec, group).and_then(|()| group.open_unified())?,
        false => None,
    };
    let child = ContainerChild::fork(alone, spec, ChildOf::Own, folder, Inheritance { users, init, network: false })?;
    child.release(spec, |child| {
        if !group.is_unified() {
            create_group(spec, group)?;
            group.add(child.pid)?;
        }
        gantry_failpoint::failpoint!("launch.joined");
        child.wait_for_namespaces()?;
        if let Some(wanted) = &spec.network {
            Links::open()?.connect(&wanted.link, &wanted.bridge, child.pid, wanted.address)?;
        }
        gantry_failpoint::failpoint!("launch.connected");
        Ok(())
    })
}

/// A fork that turns into a container, with the parent's ends of three pipes.
pub(crate) struct ContainerChild {
    pub(crate) pid: i32,
    pub(crate) ready: PipeReader,
    pub(crate) go: PipeWriter,
    pub(crate) error: PipeReader,
}

/// The parent of a container's first process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildOf {
    /// This process.
    Own,
    /// The parent of this process.
    Parent,
}

impl ContainerChild {
    /// Forks the child into a new pid namespace, and into the group with this folder of the unified hierarchy. In all other
    /// hierarchies, the child is in the groups of this process.
    #[expect(clippy::disallowed_methods, reason = "a forked child returns to nobody")]
    pub(crate) fn fork(
        alone: &SingleThreaded,
        spec: &ContainerSpec,
        parent: ChildOf,
        group: Option<OwnedFd>,
        inheritance: Inheritance,
    ) -> Result<Self, LinuxError> {
        let piped = || "create a pipe".to_owned();
        let (ready, ready_end) = io::pipe().with_action(piped)?;
        let (go_end, go) = io::pipe().with_action(piped)?;
        let (error, mut error_end) = io::pipe().with_action(piped)?;
        let folder = group.as_ref().map(AsFd::as_fd);
        let side = match parent {
            ChildOf::Own => alone.fork_container(folder),
            ChildOf::Parent => alone.fork_sibling(folder),
        };
        match side? {
            ForkSide::Child => {
                // The child must close the parent's ends, or the child would wait for itself.
                drop((ready, go, error, group));
                if let Some(error) = become_container(spec, inheritance, Handshake { ready: ready_end, go: go_end }) {
                    let _ = error_end.write_all(ErrorChain(&error).to_string().as_bytes());
                }
                std::process::exit(125)
            }
            ForkSide::Parent(pid) => Ok(Self { pid, ready, go, error }),
        }
    }

    /// Waits until the child has its namespaces, and knows that its parent was there: a child that finds the pipe `go` closed
    /// at its begin ends.
    pub(crate) fn wait_for_namespaces(&mut self) -> Result<(), LinuxError> {
        self.ready.read_exact(&mut [0]).with_action(|| "wait for the container's namespaces".to_owned())?;
        gantry_failpoint::failpoint!("launch.forked");
        Ok(())
    }

    /// Has `prepare` do what the child cannot do itself, and releases the child, which becomes the container. After a
    /// failure the child has ended.
    pub(crate) fn release(
        mut self,
        spec: &ContainerSpec,
        prepare: impl FnOnce(&mut Self) -> Result<(), LinuxError>,
    ) -> Result<ContainerIdentity, LinuxError> {
        let prepared = prepare(&mut self).and_then(|()| self.identify(spec));
        let Self { pid, go, mut error, .. } = self;
        // Without the byte in the pipe `go`, the child ends when the pipe closes.
        let released = prepared.and_then(|identity| release_child(go).map(|()| identity));
        let mut message = String::new();
        error.read_to_string(&mut message).with_action(|| "read the container's error".to_owned())?;
        gantry_failpoint::failpoint!("launch.released");
        let result = match released {
            // A child that was not released ends without a word, so these words are the cause.
            _ if !message.is_empty() => {
                Err(io::Error::other(message)).with_action(|| "create the container".to_owned())
            }
            Ok(identity) => return Ok(identity),
            Err(error) => Err(error),
        };
        let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
        let _ = std::fs::remove_file(spec.state.join(IDENTITY));
        result
    }

    /// Writes the child's identity. The child counts as not yet released until only the release is left to do.
    fn identify(&self, spec: &ContainerSpec) -> Result<ContainerIdentity, LinuxError> {
        let identity = identify(self.pid)?;
        let held = spec.state.join(UNRELEASED);
        File::create(&held).with_action(|| format!("write {}", held.display()))?;
        write_identity(&spec.state, &identity)?;
        gantry_failpoint::failpoint!("launch.identified");
        std::fs::remove_file(&held).with_action(|| format!("remove {}", held.display()))?;
        Ok(identity)
    }
}

fn release_child(mut go: PipeWriter) -> Result<(), LinuxError> {
    go.write_all(b"g").with_action(|| "release the container".to_owned())
}

/// Name of the file in a container's state folder that holds its [`ContainerIdentity`].
pub(crate) const IDENTITY: &str = "container.json";

/// Name of the file in the state folder that marks a container as not yet released: the container has an identity, but
/// never ran.
pub(crate) const UNRELEASED: &str = "held";

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
