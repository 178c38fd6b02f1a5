//! A worker: a fork of the launcher that carries out one task and ends.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_linux::process::{SingleThreaded, end_after, user_namespace};
use gantry_linux::{LinuxError, mounts};
use rustix::net::SendFlags;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exec::{self, ExecRequest};
use crate::init_program::InitProgram;
use crate::launch::{self, LaunchOutcome};
use crate::spec::{ContainerSpec, SlotSpec};
use crate::{passing, seed};

/// Time after which a worker ends whose caller neither takes the answer nor goes away. The caller gives up before.
pub(crate) const DEADLINE: Duration = Duration::from_secs(45);

/// Name of workers in lists of processes.
const NAME: &std::ffi::CStr = c"gantry-worker";

/// Size limit of a task in bytes.
const TASK_MAX: u32 = 64 << 20;

/// The task of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WorkerTask {
    /// Creates a container. The answer is a [`LaunchOutcome`].
    Launch(Box<ContainerSpec>),
    /// Prepares a slot, and creates its container once the caller describes the container. The answers are a
    /// [`SlotOutcome`](crate::seed::SlotOutcome) and a [`LaunchOutcome`].
    Slot(Box<SlotSpec>),
    /// Runs a process in a container (see [`exec`]).
    Exec(Box<ExecRequest>),
    /// Checks whether the file system of a folder supports idmapped mounts. The answer is a [`ProbeOutcome`].
    Probe(PathBuf),
}

/// The result of [`WorkerTask::Probe`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ProbeOutcome {
    Mapped,
    Unmapped(String),
}

/// Carries out the task that the caller sends, and ends this process.
#[expect(clippy::disallowed_methods, reason = "a forked child returns to nobody")]
pub(crate) fn main(alone: &SingleThreaded, caller: UnixStream, init: Option<InitProgram>) -> ! {
    end_after(DEADLINE);
    let _ = rustix::thread::set_name(NAME);
    std::process::exit(i32::from(work(alone, caller, init).is_err()))
}

fn work(alone: &SingleThreaded, mut caller: UnixStream, init: Option<InitProgram>) -> io::Result<()> {
    // By this descriptor the caller ends a worker whose result is not needed any more.
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    passing::send(&caller, &[own.as_fd()], SendFlags::empty())?;
    drop(own);
    match read_message(&mut caller)? {
        WorkerTask::Launch(spec) => {
            write_message(&mut caller, &LaunchOutcome::from(launch::launch(alone, &spec, init)))
        }
        WorkerTask::Slot(spec) => seed::serve(alone, &spec, init, caller),
        WorkerTask::Exec(request) => {
            drop(init);
            exec::work(alone, *request, caller)
        }
        WorkerTask::Probe(folder) => {
            let outcome = match probe(alone, &folder) {
                Ok(()) => ProbeOutcome::Mapped,
                Err(error) => ProbeOutcome::Unmapped(ErrorChain(&error).to_string()),
            };
            write_message(&mut caller, &outcome)
        }
    }
}

/// Maps the owners of a folder. The check works with any range of ids.
fn probe(alone: &SingleThreaded, folder: &Path) -> Result<(), LinuxError> {
    user_namespace(alone, 1 << 30).and_then(|users| mounts::mapped_copy_of(folder, users)).map(drop)
}

/// Reads a value after its length.
pub(crate) fn read_message<T: DeserializeOwned>(caller: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    caller.read_exact(&mut length)?;
    let mut text = vec![0; usize::try_from(u32::from_be_bytes(length).min(TASK_MAX)).unwrap_or_default()];
    caller.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Writes a value after its length.
pub(crate) fn write_message(caller: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut message = vec![0; 4];
    serde_json::to_writer(&mut message, value)?;
    let length = u32::try_from(message.len() - 4).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_be_bytes());
    caller.write_all(&message)
}
