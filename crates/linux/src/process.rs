//! Processes: making one in new namespaces, holding on to one without its parent's rights.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::UnshareFlags;

use crate::{LinuxError, Tried};

/// What [`fork`] returned to.
pub enum Forked {
    /// The child.
    Child,
    /// The parent, with the child's pid.
    Parent(i32),
}

/// The calling process has one thread.
fn assert_single_threaded() -> Result<(), LinuxError> {
    let threads = std::fs::read_dir("/proc/self/task").tried(|| "count this process's threads".to_owned())?.count();
    if threads == 1 {
        return Ok(());
    }
    let source = std::io::Error::other(format!("it has {threads} threads and must have one"));
    Err(LinuxError { action: "fork".to_owned(), source })
}

/// Forks.
///
/// # Errors
/// When the process has more than one thread, or the kernel refuses.
pub fn fork() -> Result<Forked, LinuxError> {
    assert_single_threaded()?;
    // SAFETY: the process has one thread, as was just read, so no lock is held by a thread that the child lacks, and
    // everything that std and the allocator keep is as valid in the child as in the parent.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Forked::Child),
        1.. => Ok(Forked::Parent(pid)),
        _ => Err(std::io::Error::last_os_error()).tried(|| "fork".to_owned()),
    }
}

/// Moves the calling process, or for `NEWPID` its children, into new namespaces.
///
/// # Errors
/// When the kernel refuses, as it does without CAP_SYS_ADMIN.
pub fn unshare(flags: UnshareFlags) -> Result<(), LinuxError> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptors are shared by everything in a process");
    // SAFETY: only FILES is dangerous, and it is excluded above.
    unsafe { rustix::thread::unshare_unsafe(flags) }.tried(|| format!("make new namespaces ({flags:?})"))
}

/// A process that was identified once and cannot be mistaken for another since.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// Opens the process `pid` if it is the one that started at `start_time` ([`start_time`]); none if that one is
    /// gone, whoever has its number now.
    #[must_use]
    pub fn open(pid: i32, started: u64) -> Option<Self> {
        let pid = Pid::from_raw(pid)?;
        let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Read after the descriptor is held: from here on the number cannot be given to another.
        (start_time(pid.as_raw_nonzero().get())? == started).then_some(Self { pid, descriptor })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Not when the process is gone already; that is what signals to it are for.
    pub fn signal(&self, signal: Signal) -> Result<(), LinuxError> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error).tried(|| format!("signal process {}", self.pid)),
        }
    }

    /// A descriptor that becomes readable when the process ends.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// A copy of the descriptor.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn try_clone_fd(&self) -> std::io::Result<OwnedFd> {
        self.descriptor.try_clone()
    }

    /// Its end has come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.descriptor, PollFlags::IN)];
        matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
    }
}

/// When a process started, in clock ticks since boot: with its pid this names it for as long as the machine is up.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything; field 22 is the twentieth after them (proc(5)).
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Names this boot of the machine.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
