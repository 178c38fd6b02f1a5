//! The caller's side of a container.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use gantry_linux::cgroup::{Cgroup, Usage};
use gantry_linux::mounts;
use gantry_linux::process::{Process, boot_id};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::launch::{Answer, HELD, IDENTITY, Identity, LAUNCH_COMMAND, PROBE_COMMAND};
use crate::spec::Spec;

/// The longest a launch may take.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);

/// From SIGKILL to the end of every process of a container, before it is reported as one that cannot be killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

static INIT: &[u8] = include_bytes!(env!("GANTRY_INIT"));

/// Why a container could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The launcher could not be started or did not answer.
    #[error("the container launcher failed: {0}")]
    Launcher(String),
    /// The container could not be made; the text says which step failed, and why.
    #[error("{0}")]
    Launch(String),
    /// A file or folder of Gantry's own could not be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Linux(#[from] gantry_linux::LinuxError),
    /// A process does not end, though it was killed: it waits inside the kernel.
    #[error("process {0} does not end after SIGKILL; it waits inside the kernel (see /proc/{0}/stack)")]
    Unkillable(i32),
}

/// How an application ended, as init recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ExitRecord {
    /// Its exit status.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Unix milliseconds.
    pub at: u64,
    /// It left processes running, which ended with init.
    #[serde(default)]
    pub left: bool,
}

impl ExitRecord {
    /// Reads the last record of a file; none if the container ended before init could write one.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str(text.lines().last()?).ok()
    }
}

/// A container that runs, or did.
#[derive(Debug)]
pub struct Container {
    process: Option<Process>,
    state: PathBuf,
    group: Cgroup,
}

/// Puts the static init into `folder`, as a file that is named by its content and never changed.
///
/// # Errors
/// When it cannot be written.
pub fn install_init(folder: &Path) -> Result<PathBuf, SandboxError> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::PermissionsExt;
    let mut hasher = DefaultHasher::new();
    INIT.hash(&mut hasher);
    let path = folder.join(format!("init-{:016x}", hasher.finish()));
    let fail = |source| SandboxError::File { action: "write", path: path.clone(), source };
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == INIT.len() as u64) {
        return Ok(path);
    }
    let fresh = folder.join(format!("init-new-{}", std::process::id()));
    std::fs::create_dir_all(folder).map_err(fail)?;
    std::fs::write(&fresh, INIT).map_err(fail)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).map_err(fail)?;
    std::fs::rename(&fresh, &path).map_err(fail)?;
    Ok(path)
}

/// Whether containers whose layers are in `folder` can have users of their own ([`Spec::users`]); if not, why.
///
/// # Errors
/// What the kernel refused, in words.
pub async fn probe_users(folder: &Path) -> Result<(), String> {
    let mut probe = launcher(PROBE_COMMAND);
    probe.arg(folder).stdin(Stdio::null());
    let output = tokio::time::timeout(LAUNCH_TIMEOUT, probe.output()).await;
    let output = output.map_err(|_| "no answer in 30 s".to_owned())?.map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// This program as a launcher. It is run from a read-only copy of itself where the kernel has them (Linux 5.12): root in a
/// container without users of its own is root on the disk, and may get hold of a launcher that enters it (CVE-2019-5736).
pub(crate) fn launcher(mode: &str) -> Command {
    static OWN: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let own = OWN.get_or_init(|| mounts::read_only_copy_of(Path::new("/proc/self/exe")).ok());
    let program = own.as_ref().map(|own| format!("/proc/self/fd/{}", own.as_raw_fd()));
    let mut launcher = Command::new(program.as_deref().unwrap_or("/proc/self/exe"));
    launcher.arg(mode).env_clear().current_dir("/").kill_on_drop(true);
    launcher
}

/// Makes the container and lets it run, through a launcher.
///
/// # Errors
/// [`SandboxError::Launch`] names the step that failed; nothing but folders is left of the container.
pub async fn launch(spec: &Spec) -> Result<Container, SandboxError> {
    let failed = |error: &dyn std::fmt::Display| SandboxError::Launcher(error.to_string());
    let text = serde_json::to_vec(spec).map_err(|error| failed(&error))?;
    let mut launcher = launcher(LAUNCH_COMMAND)
        .envs(std::env::var_os(gantry_linux::steps::VARIABLE).map(|folder| (gantry_linux::steps::VARIABLE, folder)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    let mut input = launcher.stdin.take().ok_or_else(|| failed(&"no input"))?;
    input.write_all(&text).await.map_err(|error| failed(&error))?;
    drop(input);
    let output = tokio::time::timeout(LAUNCH_TIMEOUT, launcher.wait_with_output())
        .await
        .map_err(|_| failed(&"no answer in 30 s"))?
        .map_err(|error| failed(&error))?;
    match serde_json::from_slice(&output.stdout) {
        Ok(Answer::Launched(identity)) => Ok(Container {
            process: Process::open(identity.pid, identity.start_time),
            state: spec.state.clone(),
            group: Cgroup::named(&spec.cgroup),
        }),
        Ok(Answer::Failed(message)) => Err(SandboxError::Launch(message)),
        Err(_) => Err(failed(&String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Container {
    /// Finds the container whose state is in `folder`; none if none was named there. It may have ended.
    #[must_use]
    pub fn adopt(state: &Path, cgroup: &str) -> Option<Self> {
        let text = std::fs::read(state.join(IDENTITY)).ok()?;
        let identity: Identity = serde_json::from_slice(&text).ok()?;
        let process = if identity.boot == boot_id() { Process::open(identity.pid, identity.start_time) } else { None };
        Some(Self { process, state: state.to_owned(), group: Cgroup::named(cgroup) })
    }

    /// Its launcher came to let it go. What was not has run nothing, and runs nothing.
    #[must_use]
    pub fn was_let_go(&self) -> bool {
        !self.state.join(HELD).exists()
    }

    /// The host's number of its pid 1, while that lives.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().filter(|process| !process.has_ended()).map(|process| process.pid.as_raw_nonzero().get())
    }

    /// It runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Waits until its pid 1 has ended.
    pub async fn ended(&self) {
        let Some(process) = &self.process else {
            return;
        };
        // Without a descriptor to wait on (too many open files) it is looked at now and then instead.
        while process.ended().await.is_err() && !process.has_ended() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks its application for something; init hands it on.
    ///
    /// # Errors
    /// When the kernel refuses. Not when it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        Ok(self.process.as_ref().map_or(Ok(()), |process| process.signal(signal))?)
    }

    /// What it uses.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.group.usage()
    }

    /// Ends its pid 1, and with it everything in it; what is left of it stays to be read.
    ///
    /// # Errors
    /// [`SandboxError::Unkillable`] when it does not end in 10 s.
    pub async fn kill(&self) -> Result<(), SandboxError> {
        self.signal(Signal::KILL)?;
        if tokio::time::timeout(KILL_TIMEOUT, self.ended()).await.is_err() {
            return Err(SandboxError::Unkillable(self.pid().unwrap_or_default()));
        }
        Ok(())
    }

    /// Ends every process in it and removes its control group. The kernel takes mounts and links away with them; the
    /// folders are the caller's. Again and again is as good as once.
    ///
    /// # Errors
    /// [`SandboxError::Unkillable`] when a process does not end in 10 s.
    pub async fn destroy(&self) -> Result<(), SandboxError> {
        self.kill().await?;
        end_group(&self.group).await?;
        match std::fs::remove_file(self.state.join(IDENTITY)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SandboxError::File { action: "remove", path: self.state.join(IDENTITY), source })
            }
            _ => Ok(()),
        }
    }
}

/// Ends every container in the groups below `parent`: of those nothing is known any more. Those that the kernel does
/// not let go are told.
pub async fn end_all(parent: &str) -> Vec<SandboxError> {
    let mut ending = tokio::task::JoinSet::new();
    for child in Cgroup::named(parent).children() {
        let group = Cgroup::named(&format!("{parent}/{child}"));
        ending.spawn(async move { end_group(&group).await });
    }
    ending.join_all().await.into_iter().filter_map(Result::err).collect()
}

/// Ends what is left of a container that was never let go, or of which nothing is known: its group, with everything in it.
///
/// # Errors
/// [`SandboxError::Unkillable`].
pub async fn end_rest(cgroup: &str) -> Result<(), SandboxError> {
    end_group(&Cgroup::named(cgroup)).await
}

/// Kills what is left in a group, such as processes that `exec` brought in, and removes it.
async fn end_group(group: &Cgroup) -> Result<(), SandboxError> {
    let deadline = tokio::time::Instant::now() + KILL_TIMEOUT;
    loop {
        let processes = group.processes();
        for pid in &processes {
            if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        match group.remove() {
            Ok(()) => return Ok(()),
            Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(error) => {
                return Err(processes.first().map_or(SandboxError::Linux(error), |pid| SandboxError::Unkillable(*pid)));
            }
        }
    }
}
