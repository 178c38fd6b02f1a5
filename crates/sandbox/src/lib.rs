//! One container: create, start, exec, signal, reap, account.
//!
//! ```text
//! caller (threads) ── a socket for each task ─► launcher: a re-exec of the program, one thread, resident
//!                                                │ fork
//!                  ── spec ───────────────────► worker ── fork into a new pid namespace
//!                                                │           └─► child: namespaces, root, rights dropped ─► gantry-init
//!                  ◄── pid 1 ────────────────────┘ control group, link, container.json, go; ends
//! ```
//! - [`ContainerSpec`]: the full description of a container.
//! - [`launch`], [`Container`]: the caller's side. A container needs no caller to keep running; any process finds the
//!   container again with [`Container::adopt`].
//! - [`launcher_main`]: the launcher's side. The program's `main` calls this function before `main` starts a thread.
//!   `launcher_client` is the caller's side of the launcher, `worker` a worker's.
//! - [`PreparedSlot`]: the parts of one container that are made ahead, by a worker that waits (`seed`).
//! - [`exec`]: starts another process in a running container.
//! - `posture`, `filter`: the capabilities, system calls and paths that a container loses.
//!
//! The container's mounts exist only in its own mount namespace, and its network devices only in its own network
//! namespace. When the container's last process ends, the kernel removes both, even if other processes of Gantry were
//! killed meanwhile. Only the control group and the folders have to be removed.
//!
//! Rejected: `libcontainer` (youki as a library). According to its source, version 0.7 refuses idmapped mounts. Its
//! exec joins no user namespace and applies no seccomp filter. It follows a symlink `/dev` of an image on the host.

mod calls;
mod cgroupfs;
mod container;
mod exec;
mod filter;
mod init_program;
mod inside;
mod launch;
mod launcher;
mod launcher_client;
mod passing;
mod posture;
mod sandbox_error;
mod seed;
mod slot;
mod spec;
mod worker;

pub use container::{Container, ExitRecord, install_init, kill_all, kill_rest, launch, probe_users};
pub use exec::{ExecOutcome, ExecSession, ExecSpec, exec};
pub use launcher::{LAUNCHER_COMMAND, launcher_main};
pub use sandbox_error::SandboxError;
pub use slot::{PreparedSlot, end_own_slots, end_slots, slot_group};
pub use spec::{
    BindMount, ContainerLimits, ContainerNetwork, ContainerSpec, LogFiles, ProcessUser, RootFilesystem, SlotSpec,
};
