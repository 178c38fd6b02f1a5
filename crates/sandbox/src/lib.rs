//! One container: create, start, exec, signal, reap, account.
//!
//! ```text
//! caller (threads) ── spec on stdin ─► launcher: a re-exec of the program, one thread
//!                                        │ control group, fork into a new pid namespace
//!                                        ├─► child: namespaces, root, network, rights dropped, exec ─► gantry-init
//!                                        └─ writes container.json, lets the child go, answers, ends
//! ```
//! - [`ContainerSpec`]: the full description of a container.
//! - [`launch`], [`Container`]: the caller's side. A container needs no caller to keep running; any process finds the
//!   container again with [`Container::adopt`].
//! - [`launcher_main`]: the launcher's side. The program's `main` calls this function before `main` starts a thread.
//! - [`exec`]: starts another process in a running container.
//! - `posture`: the capabilities, system calls and paths that a container loses.
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
mod inside;
mod launch;
mod posture;
mod spec;

pub use container::{Container, ExitRecord, SandboxError, install_init, kill_all, kill_rest, launch, probe_users};
pub use exec::{ExecOutcome, ExecSession, ExecSpec, exec};
pub use launch::{EXEC_COMMAND, LAUNCH_COMMAND, launcher_main};
pub use spec::{BindMount, ContainerLimits, ContainerNetwork, ContainerSpec, LogFiles, ProcessUser, RootFilesystem};
