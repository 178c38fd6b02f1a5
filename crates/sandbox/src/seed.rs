//! A seed: a worker that makes the slow parts of one container before the container is known.
//!
//! ```text
//! caller ── slot ─► seed ─ fork ─► holder: network, link, addresses, control groups ── prepared ─► seed ─► caller
//!        ── spec ─► seed ── spec ─► holder ─ fork ─► container: mounts ──────────────────────────┐
//!                     │◄── its pid ──┘ ends                                                      │
//!                     └─► groups get the container's name and limits ─► container.json ─► go ────┴─► rights, init
//! ```
//! - The holder stands in the network namespace and, on v1, in the control groups of its slot. The container is born there:
//!   nothing has to be joined, which can wait for the kernel for 10 ms.
//! - The holder ends before the container is released. Nothing but the container is in its groups.
//! - The container is a child of the seed. The seed releases the container as any worker does.
//! - A slot serves one container. No container finds the traces of another one, because network and groups are new.
//! - A slot has no group on v2, and none in the unified hierarchy beside those of v1: there, the container is forked into
//!   its group.
//! - Seed and holder end with their caller. The kernel then removes the network and the link; the caller, or the next one,
//!   removes the groups ([`end_slots`](crate::end_slots)). A launch that has begun goes on, as in any worker.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use gantry_error::ErrorChain;
use gantry_linux::cgroup::{Cgroup, PreparedGroup};
use gantry_linux::link::{self, Links};
use gantry_linux::process::{ForkSide, SingleThreaded, end_after, revoke_end_after, unshare, user_namespace};
use gantry_linux::{LinuxError, WithAction};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, Signal, WaitOptions, getpid, waitpid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::init_program::InitProgram;
use crate::inside::{Inheritance, open_ports};
use crate::launch::{ChildOf, ContainerChild, ContainerIdentity, LaunchOutcome, lock_state};
use crate::passing;
use crate::spec::{ContainerNetwork, ContainerSpec, SlotSpec};
use crate::worker::{DEADLINE, read_message, write_message};

/// Name of seeds in lists of processes.
const NAME: &std::ffi::CStr = c"gantry-seed";

/// Name of holders in lists of processes.
const HOLDER_NAME: &std::ffi::CStr = c"gantry-holder";

/// The result of the preparation of a slot.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SlotOutcome {
    Prepared,
    Failed(String),
}

/// A message of a holder.
#[derive(Debug, Serialize, Deserialize)]
enum HolderReport {
    Prepared,
    /// The container's process. The parent's ends of its pipes came with the message before.
    Forked(i32),
    Failed(String),
}

/// Prepares a slot, and creates the container that the caller describes.
pub(crate) fn serve(
    alone: &SingleThreaded,
    slot: &SlotSpec,
    init: Option<InitProgram>,
    mut caller: UnixStream,
) -> io::Result<()> {
    let _ = rustix::thread::set_name(NAME);
    let mut holder = match Holder::start(alone, slot, init) {
        Ok(holder) => holder,
        Err(error) => return write_message(&mut caller, &SlotOutcome::Failed(ErrorChain(&error).to_string())),
    };
    write_message(&mut caller, &SlotOutcome::Prepared)?;
    revoke_end_after();
    let spec: ContainerSpec = read_message(&mut caller)?;
    end_after(DEADLINE);
    write_message(&mut caller, &LaunchOutcome::from(holder.launch(slot, &spec)))
}

/// The seed's side of a holder.
struct Holder {
    pid: i32,
    socket: UnixStream,
}

impl Holder {
    /// Forks the holder, and waits until the slot is prepared.
    #[expect(clippy::disallowed_methods, reason = "a forked child returns to nobody")]
    fn start(alone: &SingleThreaded, slot: &SlotSpec, init: Option<InitProgram>) -> Result<Self, LinuxError> {
        let action = || "prepare a slot".to_owned();
        let (socket, own) = UnixStream::pair().with_action(action)?;
        match alone.fork()? {
            ForkSide::Child => {
                // The holder must close the seed's end, or the holder would wait for itself.
                drop(socket);
                let _ = rustix::thread::set_name(HOLDER_NAME);
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                std::process::exit(i32::from(run_holder(alone, slot, init, own).is_err()))
            }
            ForkSide::Parent(pid) => {
                drop((own, init));
                let mut holder = Self { pid, socket };
                match read_message(&mut holder.socket).with_action(action)? {
                    HolderReport::Prepared => Ok(holder),
                    HolderReport::Failed(error) => Err(io::Error::other(error)).with_action(action),
                    HolderReport::Forked(_) => Err(io::ErrorKind::InvalidData).with_action(action),
                }
            }
        }
    }

    /// Creates the container and releases it. After a failure, only groups and the container's folders are left.
    fn launch(&mut self, slot: &SlotSpec, spec: &ContainerSpec) -> Result<ContainerIdentity, LinuxError> {
        let action = || "create the container".to_owned();
        if spec.network != slot.network {
            return Err(io::Error::other("the slot has another network")).with_action(action);
        }
        gantry_failpoint::failpoint!("slot.ordered");
        write_message(&mut self.socket, spec).with_action(action)?;
        let pipes = passing::receive(&self.socket, RecvFlags::empty()).with_action(action)?.unwrap_or_default();
        let pid = match read_message(&mut self.socket).with_action(action)? {
            HolderReport::Forked(pid) => pid,
            HolderReport::Failed(error) => return Err(io::Error::other(error)).with_action(action),
            HolderReport::Prepared => return Err(io::ErrorKind::InvalidData).with_action(action),
        };
        let Ok([ready, go, error]) = <[OwnedFd; 3]>::try_from(pipes) else {
            return Err(io::ErrorKind::InvalidData).with_action(action);
        };
        let child = ContainerChild { pid, ready: ready.into(), go: go.into(), error: error.into() };
        let _ = waitpid(Pid::from_raw(self.pid), WaitOptions::empty());
        gantry_failpoint::failpoint!("slot.left");
        child.release(spec, |child| {
            // The limits come last: the work until here is not the container's.
            PreparedGroup::named(&slot.cgroup).rename(&Cgroup::named(&spec.cgroup), &spec.limits.of_group())?;
            child.wait_for_namespaces()
        })
    }
}

/// The holder's work: prepares the slot, waits for the container's specification, and forks the container.
fn run_holder(
    alone: &SingleThreaded,
    slot: &SlotSpec,
    init: Option<InitProgram>,
    mut seed: UnixStream,
) -> io::Result<()> {
    if let Err(error) = prepare(slot) {
        return write_message(&mut seed, &HolderReport::Failed(ErrorChain(&error).to_string()));
    }
    write_message(&mut seed, &HolderReport::Prepared)?;
    let spec: ContainerSpec = read_message(&mut seed)?;
    match fork_container(alone, &spec, init) {
        Ok(ContainerChild { pid, ready, go, error }) => {
            gantry_failpoint::failpoint!("slot.forked");
            passing::send(&seed, &[ready.as_fd(), go.as_fd(), error.as_fd()], SendFlags::empty())?;
            write_message(&mut seed, &HolderReport::Forked(pid))
        }
        Err(error) => {
            seed.write_all(b"d")?;
            write_message(&mut seed, &HolderReport::Failed(ErrorChain(&error).to_string()))
        }
    }
}

fn prepare(slot: &SlotSpec) -> Result<(), LinuxError> {
    let links = Links::open()?;
    unshare(UnshareFlags::NEWNET)?;
    open_ports()?;
    gantry_failpoint::failpoint!("slot.apart");
    let own = getpid().as_raw_nonzero().get();
    if let Some(wanted) = &slot.network {
        links.connect(&wanted.link, &wanted.bridge, own, wanted.address)?;
    }
    gantry_failpoint::failpoint!("slot.connected");
    link::configure(slot.network.as_ref().map(ContainerNetwork::inside))?;
    gantry_failpoint::failpoint!("slot.configured");
    PreparedGroup::create(&slot.cgroup)?.add(own)?;
    gantry_failpoint::failpoint!("slot.prepared");
    Ok(())
}

/// Forks the container's process, which is the seed's child and holds the lock of its state folder.
fn fork_container(
    alone: &SingleThreaded,
    spec: &ContainerSpec,
    init: Option<InitProgram>,
) -> Result<ContainerChild, LinuxError> {
    let _lock = lock_state(&spec.state)?;
    gantry_failpoint::failpoint!("slot.locked");
    let group = Cgroup::named(&spec.cgroup);
    let users = spec.users.map(|first| user_namespace(alone, first)).transpose()?;
    if group.is_unified() {
        group.create(&spec.limits.of_group())?;
    }
    let folder = group.open_unified()?;
    gantry_failpoint::failpoint!("slot.entered");
    ContainerChild::fork(alone, spec, ChildOf::Parent, folder, Inheritance { users, init, network: true })
}
