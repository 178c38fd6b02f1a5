//! Runs another process in a running container, with the same capabilities as the application, and optionally with a
//! terminal.
//!
//! Caller and worker share a unix socket. The caller sends the spec. The worker sends the descriptors of the process's
//! terminal or pipes, and finally the outcome.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_linux::cgroup::Cgroup;
use gantry_linux::process::{ForkSide, ProcessHandle, SingleThreaded, enter_users, revoke_end_after};
use gantry_linux::{LinuxError, WithAction};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::SendFlags;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, pidfd_send_signal,
    set_dumpable_behavior, waitpid,
};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use crate::container::Container;
use crate::launcher_client::{Worker, WorkerKill, descriptors};
use crate::sandbox_error::SandboxError;
use crate::spec::{ProcessUser, variable_names};
use crate::worker::WorkerTask;
use crate::{passing, posture};

/// Timeout for starting a process.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Size limit of an outcome in bytes.
const OUTCOME_MAX: usize = 64 << 10;

/// A process to run in a container.
#[derive(Clone, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The container's control group.
    pub cgroup: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// The complete environment.
    pub env: Vec<(String, String)>,
    /// Working folder, as a path inside.
    pub cwd: String,
    /// User and group of the process.
    pub user: ProcessUser,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// True if the process gets a terminal, of the container's own devpts.
    pub terminal: bool,
}

/// Names the environment without its values, which may be secret.
impl std::fmt::Debug for ExecSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cgroup, args, env, cwd, user, groups, terminal } = self;
        f.debug_struct("ExecSpec")
            .field("cgroup", cgroup)
            .field("args", args)
            .field("env", &variable_names(env))
            .field("cwd", cwd)
            .field("user", user)
            .field("groups", groups)
            .field("terminal", terminal)
            .finish()
    }
}

/// The task of a worker that runs a process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    spec: ExecSpec,
    pid: i32,
    start_time: u64,
}

/// The outcome of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ExecOutcome {
    /// The process ended with this exit status; after a signal, with 128 plus the signal's number.
    Exited(i32),
    /// The process could not be run.
    Failed(String),
}

/// A running process that [`exec`] started in a container.
#[derive(Debug)]
pub struct ExecSession {
    /// The caller's descriptors. With a terminal: its master end, to read and write. Without: input, output and
    /// error output, in this order.
    pub descriptors: Vec<OwnedFd>,
    outcome: OutcomeReader,
    _worker: WorkerKill,
}

impl ExecSession {
    /// Waits for the end of the process. Cancel-safe: a later call continues where a dropped call stopped.
    pub async fn outcome(&mut self) -> ExecOutcome {
        self.outcome.read().await
    }
}

/// Reader of the outcome that the worker sends. Keeps the received part: callers drop the wait, for instance in a
/// `select!`, and wait again.
#[derive(Debug)]
struct OutcomeReader {
    socket: tokio::net::UnixStream,
    received: Vec<u8>,
}

impl OutcomeReader {
    async fn read(&mut self) -> ExecOutcome {
        loop {
            match self.socket.read_buf(&mut self.received).await {
                Ok(1..) if self.received.len() < OUTCOME_MAX => {}
                Ok(_) => break,
                Err(error) => return ExecOutcome::Failed(error.to_string()),
            }
        }
        serde_json::from_slice(&self.received)
            .unwrap_or_else(|_| ExecOutcome::Failed("the launcher ended without a result".to_owned()))
    }
}

/// Runs a process in `container`.
///
/// # Errors
/// When the container does not run, or the launcher cannot be started.
pub async fn exec(container: &Container, spec: ExecSpec) -> Result<ExecSession, SandboxError> {
    let pid = container.pid().ok_or(SandboxError::NotRunning)?;
    let start_time = gantry_linux::process::start_time(pid).unwrap_or_default();
    let pipe_count = if spec.terminal { 1 } else { 3 };
    let mut worker = Worker::fork(None).await?;
    let task = WorkerTask::Exec(Box::new(ExecRequest { spec, pid, start_time }));
    worker.begin(&task).await.map_err(SandboxError::launcher("send the request to"))?;
    let received = tokio::time::timeout(START_TIMEOUT, descriptors(worker.socket()))
        .await
        .map_err(|_| SandboxError::NoResponse(START_TIMEOUT.as_secs()))?
        .map_err(SandboxError::launcher("receive descriptors from"))?;
    if received.len() != pipe_count {
        let source = io::Error::other("the launcher could not enter the container");
        return Err(SandboxError::launcher("receive descriptors from")(source));
    }
    let (socket, process) = worker.into_parts();
    Ok(ExecSession { descriptors: received, outcome: OutcomeReader { socket, received: Vec::new() }, _worker: process })
}

/// Runs the worker's side of [`exec`].
pub(crate) fn work(alone: &SingleThreaded, request: ExecRequest, mut socket: UnixStream) -> io::Result<()> {
    let outcome = match serve(alone, request, &mut socket) {
        Ok(code) => ExecOutcome::Exited(code),
        Err(error) => ExecOutcome::Failed(ErrorChain(&error).to_string()),
    };
    socket.write_all(&serde_json::to_vec(&outcome)?)
}

#[expect(clippy::disallowed_methods, reason = "a forked child returns to nobody")]
fn serve(alone: &SingleThreaded, request: ExecRequest, socket: &mut UnixStream) -> Result<i32, LinuxError> {
    let ExecRequest { spec, pid, start_time } = request;
    let target = ProcessHandle::open(pid, start_time)
        .ok_or_else(|| io::Error::other("the container has ended"))
        .with_action(|| "enter the container".to_owned())?;
    check_complete(pid)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).with_action(|| "make the worker undumpable".to_owned())?;
    Cgroup::named(&spec.cgroup).add(std::process::id().cast_signed())?;
    let spaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    let users = users_of(pid)?;
    move_into_thread_name_spaces(target.as_fd(), spaces).with_action(|| "enter the container".to_owned())?;
    // The user namespace comes last: the container's other namespaces belong to the host's user namespace.
    if let Some(users) = users {
        enter_users(users)?;
    }
    let (inner, outer) = make_streams(&spec).with_action(|| "create the process's streams".to_owned())?;
    let borrowed: Vec<BorrowedFd<'_>> = outer.iter().map(AsFd::as_fd).collect();
    passing::send(&*socket, &borrowed, SendFlags::empty())
        .with_action(|| "pass the process's streams to the caller".to_owned())?;
    drop(outer);
    // From here on the worker lives as long as the process and the caller.
    revoke_end_after();
    match alone.fork()? {
        ForkSide::Child => {
            let error = become_process(&spec, inner);
            eprintln!("gantry: {}", ErrorChain(&error));
            std::process::exit(if error.source.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
        }
        ForkSide::Parent(pid) => {
            drop(inner);
            wait_for_exit(pid, socket)
        }
    }
}

/// Opens the container's user namespace, if the container has its own.
fn users_of(pid: i32) -> Result<Option<OwnedFd>, LinuxError> {
    let action = || "find the container's user namespace".to_owned();
    let path = format!("/proc/{pid}/ns/user");
    let (own, its) = (std::fs::read_link("/proc/self/ns/user"), std::fs::read_link(&path));
    if own.with_action(action)? == its.with_action(action)? {
        return Ok(None);
    }
    Ok(Some(std::fs::File::open(path).with_action(action)?.into()))
}

/// Checks that the container is complete. Its pid 1 installs its seccomp filter last, just before it runs init. Without
/// the filter, its root may still be the host's.
fn check_complete(pid: i32) -> Result<(), LinuxError> {
    let action = || "enter the container".to_owned();
    let filters = |process: &str| -> io::Result<Option<u32>> {
        Ok(seccomp_filters(&std::fs::read_to_string(format!("/proc/{process}/status"))?))
    };
    let (its, own) = (filters(&pid.to_string()).with_action(action)?, filters("self").with_action(action)?);
    if is_filtered(its, own) {
        return Ok(());
    }
    Err(io::Error::other("the container is still being created; try again")).with_action(action)
}

/// The number of seccomp filters in a `/proc/PID/status`.
fn seccomp_filters(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"))?.trim().parse().ok()
}

/// Reports whether a container has filters beside those that it inherited. Containers of earlier versions have two.
fn is_filtered(its: Option<u32>, own: Option<u32>) -> bool {
    matches!((its, own), (Some(its), Some(own)) if its > own)
}

/// Creates the process's three streams, and the ends for the caller.
fn make_streams(spec: &ExecSpec) -> io::Result<([OwnedFd; 3], Vec<OwnedFd>)> {
    if spec.terminal {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let outer = openpt(flags)?;
        grantpt(&outer)?;
        unlockpt(&outer)?;
        let inner = ioctl_tiocgptpeer(&outer, flags)?;
        let owner = (rustix::fs::Uid::from_raw(spec.user.uid), rustix::fs::Gid::from_raw(5));
        rustix::fs::fchown(&inner, Some(owner.0), Some(owner.1))?;
        return Ok(([inner.try_clone()?, inner.try_clone()?, inner], vec![outer]));
    }
    let (input, input_end) = io::pipe()?;
    let (output_end, output) = io::pipe()?;
    let (error_end, error) = io::pipe()?;
    // Any user inside may open /dev/stdout and the like by name.
    for end in [input.as_fd(), output.as_fd(), error.as_fd()] {
        rustix::fs::fchmod(end, rustix::fs::Mode::from_raw_mode(0o666))?;
    }
    Ok(([input.into(), output.into(), error.into()], vec![input_end.into(), output_end.into(), error_end.into()]))
}

/// Turns this process into the requested process. Returns only after a failure, with the error stream already in place
/// for a message.
fn become_process(spec: &ExecSpec, [input, output, error]: [OwnedFd; 3]) -> LinuxError {
    let become_it = || -> Result<Command, LinuxError> {
        let _ = rustix::process::setsid();
        if spec.terminal {
            rustix::process::ioctl_tiocsctty(&input).with_action(|| "take the terminal".to_owned())?;
        }
        rustix::stdio::dup2_stdin(&input).with_action(|| "set standard input".to_owned())?;
        rustix::stdio::dup2_stdout(&output).with_action(|| "set standard output".to_owned())?;
        rustix::stdio::dup2_stderr(&error).with_action(|| "set standard error".to_owned())?;
        posture::limit_resources(None)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let (uid, gid) = (rustix::fs::Uid::from_raw(spec.user.uid), rustix::fs::Gid::from_raw(spec.user.gid));
        let groups: Vec<_> = spec.groups.iter().map(|group| rustix::fs::Gid::from_raw(*group)).collect();
        rustix::thread::set_thread_groups(&groups).with_action(|| "set the supplementary groups".to_owned())?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).with_action(|| "set the group id".to_owned())?;
        posture::drop_rights(spec.user.uid)?;
        // Changing from root to another user clears the remaining capabilities.
        rustix::thread::set_thread_res_uid(uid, uid, uid).with_action(|| "set the user id".to_owned())?;
        // If the caller goes away, the worker is killed; this signal then kills the process too.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .with_action(|| "set the parent-death signal".to_owned())?;
        rustix::process::chdir(&spec.cwd).with_action(|| format!("enter {}", spec.cwd))?;
        posture::filter_system_calls()?;
        let program = spec.args.first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
        let mut command = Command::new(program.with_action(|| "run an empty command".to_owned())?);
        command.args(&spec.args[1..]).env_clear().envs(spec.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    };
    match become_it() {
        Ok(mut command) => LinuxError { action: format!("run {}", spec.args[0]), source: command.exec() },
        Err(error) => error,
    }
}

/// Waits for the process and returns its exit status. Kills the process when the caller goes away, for instance by
/// SIGKILL.
fn wait_for_exit(pid: i32, caller: &UnixStream) -> Result<i32, LinuxError> {
    let action = || "wait for the process".to_owned();
    let child = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput)).with_action(action)?;
    let ended = pidfd_open(child, PidfdFlags::empty()).with_action(action)?;
    loop {
        let mut looks = [PollFd::new(&ended, PollFlags::IN), PollFd::new(caller, PollFlags::empty())];
        match poll(&mut looks, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).with_action(action),
        }
        if !looks[0].revents().is_empty() {
            break;
        }
        if looks[1].revents().contains(PollFlags::HUP) {
            pidfd_send_signal(&ended, Signal::KILL).with_action(action)?;
            // Kills the descendants that stayed in the process's group too. The process is not reaped yet, so its
            // number is not reused.
            let _ = kill_process_group(child, Signal::KILL);
            break;
        }
    }
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(error) => return Err(error).with_action(action),
            Ok(Some((_, status))) => {
                let status = std::process::ExitStatus::from_raw(status.as_raw());
                return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn debug_leaves_out_the_values_of_variables() {
        let spec = ExecSpec {
            cgroup: "gantry/shop".into(),
            args: vec!["sh".into()],
            env: vec![("PASSWORD".into(), "container-secret".into())],
            cwd: "/".into(),
            user: ProcessUser { uid: 0, gid: 0 },
            groups: Vec::new(),
            terminal: false,
        };
        let shown = format!("{spec:?}");
        assert!(shown.contains("PASSWORD") && !shown.contains("container-secret"), "{shown}");
    }

    #[test]
    fn a_container_is_complete_once_it_has_filters_of_its_own() {
        let status = |count: &str| format!("Name:\tgantry-init\nSeccomp:\t2\nSeccomp_filters:\t{count}\nThreads:\t1\n");
        assert_eq!(seccomp_filters(&status("2")), Some(2));
        assert_eq!(seccomp_filters("Name:\tgantry-init\n"), None);
        // The agent may run under a filter, which each container inherits.
        for (its, own, complete) in [(0, 0, false), (1, 0, true), (2, 0, true), (1, 1, false), (2, 1, true)] {
            assert_eq!(is_filtered(Some(its), Some(own)), complete, "{its} {own}");
        }
        assert!(!is_filtered(None, None), "a kernel that does not tell");
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_no_part_of_the_outcome() {
        let (mut launcher, socket) = tokio::net::UnixStream::pair().expect("a pair");
        let mut reader = OutcomeReader { socket, received: Vec::new() };
        for part in [&b"{\"Exited\""[..], b":0}"] {
            launcher.write_all(part).await.expect("sent");
            // The socket is still open, so this wait ends without an outcome.
            let waited = tokio::time::timeout(Duration::from_millis(20), reader.read()).await;
            assert!(waited.is_err(), "{waited:?}");
        }
        drop(launcher);
        let outcome = reader.read().await;
        assert!(matches!(outcome, ExecOutcome::Exited(0)), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_killed_launcher_reports_no_exit() {
        let (launcher, socket) = tokio::net::UnixStream::pair().expect("a pair");
        drop(launcher);
        let outcome = OutcomeReader { socket, received: Vec::new() }.read().await;
        assert!(matches!(&outcome, ExecOutcome::Failed(why) if why.contains("without a result")), "{outcome:?}");
    }
}
