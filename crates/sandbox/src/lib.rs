//! One container: create, start, exec, signal, reap, account.
//!
//! ```text
//! caller (threads) ── spec on stdin ─► launcher: a re-exec of the program, one thread
//!                                        │ control group, fork into a new pid namespace
//!                                        ├─► child: namespaces, root, network, rights dropped, exec ─► gantry-init
//!                                        └─ writes container.json, lets the child go, answers, ends
//! ```
//! - [`Spec`]: everything a container is made of.
//! - [`launch`], [`Container`]: the caller's side. A container is found again by [`Container::adopt`], by whichever
//!   process asks; it needs none to live.
//! - [`launcher_main`]: the launcher's side, called by the program's `main` before it makes a thread.
//! - [`exec`]: another process in a running container.
//! - `posture`: rights, system calls and paths that are taken away.
//!
//! Its mounts exist in the container's own mount namespace alone, its network devices in its own network namespace: when
//! its last process ends the kernel takes them away, whoever else was killed meanwhile. Only its control group and its
//! folders have to be removed.
//!
//! Rejected: `libcontainer` (youki as a library). By its source, version 0.7 refuses idmapped mounts, its exec joins no
//! user namespace and applies no seccomp filter, and a symlink `/dev` in an image is followed on the host.

mod calls;
mod cgroupfs;
mod container;
mod exec;
mod inside;
mod launch;
mod posture;
mod spec;

pub use container::{Container, ExitRecord, SandboxError, end_all, end_rest, install_init, launch, probe_users};
pub use exec::{ExecOutcome, ExecSession, ExecSpec, exec};
pub use launch::{EXEC_COMMAND, LAUNCH_COMMAND, launcher_main};
pub use spec::{Bind, Limits, Log, Network, Root, Spec, User};
