//! The caller's side of the launcher: starts the launcher, and has workers forked for tasks.
//!
//! A launcher that has ended is replaced at the next request. A request that met the end of the launcher is repeated: its
//! worker had no task yet.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as Pair;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use gantry_linux::mounts;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::launcher::LAUNCHER_COMMAND;
use crate::passing;
use crate::sandbox_error::SandboxError;
use crate::worker::WorkerTask;

/// Timeout of the launcher's fork.
const FORK_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of launchers that may end before a worker is there.
const ATTEMPTS: usize = 3;

/// Pause while the launcher has too many requests to take another.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Timeout of the end of a launcher that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// Time that a killed worker gets to leave the kernel.
const WORKER_END_TIMEOUT: Duration = Duration::from_millis(50);

/// Size limit of an answer in bytes.
const ANSWER_MAX: u32 = 1 << 20;

/// The launcher of this process, once there is one.
static LAUNCHER: Mutex<Option<Launcher>> = Mutex::new(None);

/// A running launcher. Ends when the socket is closed, and so together with this process.
struct Launcher {
    socket: OwnedFd,
    process: Child,
}

impl Launcher {
    /// Starts the launcher.
    ///
    /// If the kernel supports read-only copies of a file (Linux 5.12), the launcher runs from such a copy. Root in a
    /// container without its own users is root on the disk. Such a root could overwrite the program of a worker that
    /// enters the container (CVE-2019-5736).
    fn start(init: Option<&Path>) -> io::Result<Self> {
        static OWN: OnceLock<Option<OwnedFd>> = OnceLock::new();
        let own = OWN.get_or_init(|| mounts::read_only_copy_of(Path::new("/proc/self/exe")).ok());
        let program = own.as_ref().map(|own| format!("/proc/self/fd/{}", own.as_raw_fd()));
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let process = Command::new(program.as_deref().unwrap_or("/proc/self/exe"))
            .arg(LAUNCHER_COMMAND)
            .args(init)
            .env_clear()
            .envs(std::env::var_os(gantry_failpoint::VARIABLE).map(|folder| (gantry_failpoint::VARIABLE, folder)))
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket, process })
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let deadline = std::time::Instant::now() + KILL_TIMEOUT;
        while !self.has_ended() && std::time::Instant::now() < deadline {
            std::thread::sleep(BUSY_PAUSE);
        }
    }
}

/// Sends a request for a worker to the launcher; returns the launcher's pid. Starts a launcher if there is none.
fn request(socket: &Pair, init: Option<&Path>) -> io::Result<u32> {
    let mut launcher = LAUNCHER.lock().unwrap_or_else(PoisonError::into_inner);
    if launcher.as_mut().is_some_and(Launcher::has_ended) {
        *launcher = None;
    }
    let current = match &mut *launcher {
        Some(current) => current,
        none => none.insert(Launcher::start(init)?),
    };
    let sent = passing::send(&current.socket, &[socket.as_fd()], SendFlags::DONTWAIT);
    let pid = current.process.id();
    if sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
        *launcher = None;
    }
    sent.map(|()| pid)
}

/// Ends the launcher with this pid, if no other has replaced it. The launcher ends after the lock is released.
fn end_launcher(pid: u32) {
    let mut launcher = LAUNCHER.lock().unwrap_or_else(PoisonError::into_inner);
    let stuck = launcher.take_if(|launcher| launcher.process.id() == pid);
    drop(launcher);
    drop(stuck);
}

/// A worker without a task, or with the task that its owner gave it. Dropping the worker ends it at once.
#[derive(Debug)]
pub(crate) struct Worker {
    socket: UnixStream,
    process: WorkerKill,
}

/// The duty to end a worker. Dropping this value kills the worker's process and waits for its end, so that the worker
/// changes nothing any more. After the worker's answer nothing is left to end.
#[derive(Debug)]
pub(crate) struct WorkerKill(Option<OwnedFd>);

impl Drop for WorkerKill {
    fn drop(&mut self) {
        let Some(process) = self.0.take() else { return };
        let _ = pidfd_send_signal(&process, Signal::KILL);
        let timeout = Timespec::try_from(WORKER_END_TIMEOUT).ok();
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], timeout.as_ref());
    }
}

impl Worker {
    /// Has a worker forked. `init` is the path of init, for a launcher that has yet to be started.
    ///
    /// # Errors
    /// When no launcher can be started, or none forks a worker in time.
    pub(crate) async fn fork(init: Option<&Path>) -> Result<Self, SandboxError> {
        let mut failure = io::Error::other("it ended before it forked a worker");
        for _ in 0..ATTEMPTS {
            let mut asked = None;
            match tokio::time::timeout(FORK_TIMEOUT, Self::attempt(init, &mut asked)).await {
                Ok(Ok(worker)) => return Ok(worker),
                Ok(Err(error)) => failure = error,
                Err(_) => {
                    // The launcher stands still. Its workers and their containers go on without it.
                    asked.into_iter().for_each(end_launcher);
                    return Err(SandboxError::NoResponse(FORK_TIMEOUT.as_secs()));
                }
            }
        }
        Err(SandboxError::launcher("start")(failure))
    }

    /// Asks for a worker once. `asked` becomes the pid of the launcher that has the request.
    async fn attempt(init: Option<&Path>, asked: &mut Option<u32>) -> io::Result<Self> {
        let (ours, theirs) = Pair::pair()?;
        while asked.is_none() {
            match request(&theirs, init) {
                Ok(launcher) => *asked = Some(launcher),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
        drop(theirs);
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        let process = descriptors(&socket).await?.pop();
        let process = process.ok_or_else(|| io::Error::other("the launcher forked no worker"))?;
        Ok(Self { socket, process: WorkerKill(Some(process)) })
    }

    /// Gives the worker its task.
    pub(crate) async fn begin(&mut self, task: &WorkerTask) -> io::Result<()> {
        self.send(task).await
    }

    /// Waits for the worker's last answer; none if the worker ended without one.
    pub(crate) async fn answer<T: DeserializeOwned>(&mut self) -> Option<T> {
        let answer = self.receive().await?;
        self.detach();
        Some(answer)
    }

    /// Reports whether the worker, which has sent all its answers so far, has ended or has closed its socket.
    pub(crate) fn has_ended(&self) -> bool {
        let socket = PollFd::new(&self.socket, PollFlags::IN);
        let mut waiting: Vec<_> =
            self.process.0.iter().map(|process| PollFd::new(process, PollFlags::IN)).chain([socket]).collect();
        poll(&mut waiting, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Leaves the worker to itself: the last answer is there, and the worker ends.
    pub(crate) fn detach(&mut self) {
        self.process.0 = None;
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        self.socket.write_u32(u32::try_from(text.len()).unwrap_or(u32::MAX)).await?;
        self.socket.write_all(&text).await
    }

    /// Waits for a message; none if the worker ended without one.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Option<T> {
        let length = self.socket.read_u32().await.ok().filter(|length| *length <= ANSWER_MAX)?;
        let mut text = vec![0; usize::try_from(length).ok()?];
        self.socket.read_exact(&mut text).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Splits the worker, for an owner that reads its socket.
    pub(crate) fn into_parts(self) -> (UnixStream, WorkerKill) {
        (self.socket, self.process)
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }
}

/// Receives the descriptors of the next message.
pub(crate) async fn descriptors(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || passing::receive(socket, RecvFlags::DONTWAIT)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Ok(result?.unwrap_or_default()),
        }
    }
}
