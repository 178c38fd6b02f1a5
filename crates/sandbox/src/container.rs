//! The caller's side of a container.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_ledger::Replacement;
use gantry_linux::cgroup::{Cgroup, GroupUsage};
use gantry_linux::process::{ProcessHandle, boot_id};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::launch::{ContainerIdentity, IDENTITY, LaunchOutcome, UNRELEASED};
use crate::launcher_client::Worker;
use crate::sandbox_error::SandboxError;
use crate::spec::ContainerSpec;
use crate::worker::{ProbeOutcome, WorkerTask};

/// Timeout of a launch.
pub(crate) const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout from SIGKILL to the end of every process of a container. After this time the container is reported as
/// unkillable.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

static INIT: &[u8] = include_bytes!(env!("GANTRY_INIT"));

/// The end of an application, as init recorded the exit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ExitRecord {
    /// The exit status, if the application exited.
    pub code: Option<i32>,
    /// The signal that ended the application, if a signal did.
    pub signal: Option<i32>,
    /// Time of the exit in Unix milliseconds.
    pub at: u64,
    /// True if the application left processes running. Those processes ended together with init.
    #[serde(default)]
    pub left: bool,
}

impl ExitRecord {
    /// Reads the last record of a file. Returns none if the container ended before init could write a record.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str(text.lines().last()?).ok()
    }
}

/// A container that runs or has ended.
#[derive(Debug)]
pub struct Container {
    process: Option<ProcessHandle>,
    state: PathBuf,
    group: Cgroup,
}

/// Writes the static init into `folder`. The file's name contains a hash of the content, and the file never changes.
///
/// # Errors
/// When the file cannot be written.
pub fn install_init(folder: &Path) -> Result<PathBuf, SandboxError> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    INIT.hash(&mut hasher);
    let path = folder.join(format!("init-{:016x}", hasher.finish()));
    let fail = |source| SandboxError::File { action: "write", path: path.clone(), source };
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == INIT.len() as u64) {
        return Ok(path);
    }
    std::fs::create_dir_all(folder).map_err(fail)?;
    gantry_ledger::remove_unfinished(&path);
    Replacement::of(&path).mode(0o755).shared().write(INIT).map_err(fail)?;
    Ok(path)
}

/// Checks that containers whose layers are in `folder` can have users of their own ([`ContainerSpec::users`]). `init` is the
/// path of init: the launcher, which starts with the first task, opens init once for all containers.
///
/// # Errors
/// [`SandboxError::Unmapped`] with the reason, or when the probe could not run.
pub async fn probe_users(folder: &Path, init: &Path) -> Result<(), SandboxError> {
    match perform(Some(init), WorkerTask::Probe(folder.to_owned())).await? {
        ProbeOutcome::Mapped => Ok(()),
        ProbeOutcome::Unmapped(message) => Err(SandboxError::Unmapped(message)),
    }
}

/// Has a worker carry out a task, and returns its answer. Dropping the future ends the worker.
async fn perform<T: serde::de::DeserializeOwned>(init: Option<&Path>, task: WorkerTask) -> Result<T, SandboxError> {
    let mut worker = Worker::fork(init).await?;
    let answered = async {
        worker.begin(&task).await.map_err(SandboxError::launcher("describe the task to"))?;
        worker.answer().await.ok_or(SandboxError::NoResult)
    };
    let answer = tokio::time::timeout(LAUNCH_TIMEOUT, answered).await;
    answer.unwrap_or(Err(SandboxError::NoResponse(LAUNCH_TIMEOUT.as_secs())))
}

/// Creates and starts the container, through a worker of the launcher.
///
/// # Errors
/// [`SandboxError::Launch`] names the failed operation. Only folders are left of the container then.
pub async fn launch(spec: &ContainerSpec) -> Result<Container, SandboxError> {
    match perform(Some(&spec.init), WorkerTask::Launch(Box::new(spec.clone()))).await? {
        LaunchOutcome::Launched(identity) => Ok(Container::launched(spec, &identity)),
        LaunchOutcome::Failed(message) => Err(SandboxError::Launch(message)),
    }
}

impl Container {
    /// The container that a launch has just released.
    pub(crate) fn launched(spec: &ContainerSpec, identity: &ContainerIdentity) -> Self {
        Self {
            process: ProcessHandle::open(identity.pid, identity.start_time),
            state: spec.state.clone(),
            group: Cgroup::named(&spec.cgroup),
        }
    }

    /// Finds the container whose state is in the folder `state`. Returns none if the folder records no container. The
    /// container may have ended.
    #[must_use]
    pub fn adopt(state: &Path, cgroup: &str) -> Option<Self> {
        let text = std::fs::read(state.join(IDENTITY)).ok()?;
        let identity: ContainerIdentity = serde_json::from_slice(&text).ok()?;
        let process =
            if identity.boot == boot_id() { ProcessHandle::open(identity.pid, identity.start_time) } else { None };
        Some(Self { process, state: state.to_owned(), group: Cgroup::named(cgroup) })
    }

    /// Returns whether the worker released the container. An unreleased container has never run its application, and
    /// never will.
    #[must_use]
    pub fn was_released(&self) -> bool {
        !self.state.join(UNRELEASED).exists()
    }

    /// The host's process id of the container's pid 1, while pid 1 runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().filter(|process| !process.has_ended()).map(|process| process.pid.as_raw_nonzero().get())
    }

    /// Returns whether the container's pid 1 runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Waits until the container's pid 1 has ended.
    pub async fn ended(&self) {
        let Some(process) = &self.process else {
            return;
        };
        // With too many open files there is no descriptor to wait on; then this loop polls every 100 ms.
        while process.ended().await.is_err() && !process.has_ended() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Sends a signal to the container's init, which forwards the signal to the application.
    ///
    /// # Errors
    /// When the kernel refuses. A container that has ended is no error.
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        Ok(self.process.as_ref().map_or(Ok(()), |process| process.signal(signal))?)
    }

    /// Returns the container's resource usage.
    #[must_use]
    pub fn usage(&self) -> GroupUsage {
        self.group.usage()
    }

    /// Returns the largest memory that the container has used, in bytes.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.group.peak_memory()
    }

    /// Kills the container's pid 1, and thereby every process of its pid namespace. Keeps the control group, so that
    /// its usage can be read.
    ///
    /// # Errors
    /// [`SandboxError::Unkillable`] when pid 1 does not end within 30 s.
    pub async fn kill(&self) -> Result<(), SandboxError> {
        self.signal(Signal::KILL)?;
        if tokio::time::timeout(KILL_TIMEOUT, self.ended()).await.is_err() {
            return Err(SandboxError::unkillable(self.pid().unwrap_or_default()));
        }
        Ok(())
    }

    /// Kills every process in the container and removes its control group. The kernel then removes mounts and network
    /// links; the caller removes the folders. Idempotent.
    ///
    /// # Errors
    /// [`SandboxError::Unkillable`] when a process does not end within 30 s.
    pub async fn destroy(&self) -> Result<(), SandboxError> {
        self.kill().await?;
        kill_group(&self.group).await?;
        match std::fs::remove_file(self.state.join(IDENTITY)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SandboxError::File { action: "remove", path: self.state.join(IDENTITY), source })
            }
            _ => Ok(()),
        }
    }
}

/// Kills every container in the control groups below `parent`, for callers that have no record of those containers.
/// Returns an error for each group that could not be ended.
pub async fn kill_all(parent: &str) -> Vec<SandboxError> {
    let mut ending = tokio::task::JoinSet::new();
    for child in Cgroup::named(parent).children() {
        let group = Cgroup::named(&format!("{parent}/{child}"));
        ending.spawn(async move { kill_group(&group).await });
    }
    ending.join_all().await.into_iter().filter_map(Result::err).collect()
}

/// Kills the processes of a container that was never released, or has no record, and removes its control group.
///
/// # Errors
/// [`SandboxError::Unkillable`] when a process does not end within 30 s.
pub async fn kill_rest(cgroup: &str) -> Result<(), SandboxError> {
    kill_group(&Cgroup::named(cgroup)).await
}

/// Kills the remaining processes of a group, such as those that `exec` started, and removes the group.
async fn kill_group(group: &Cgroup) -> Result<(), SandboxError> {
    let deadline = tokio::time::Instant::now() + KILL_TIMEOUT;
    loop {
        let error = match group.remove() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let processes = group.processes_anywhere();
        for pid in &processes {
            if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(processes.first().map_or(SandboxError::Linux(error), |pid| SandboxError::unkillable(*pid)));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
