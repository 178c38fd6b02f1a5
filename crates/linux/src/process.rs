//! Processes: starting a process in new namespaces, and identifying a process without being its parent.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, prlimit, setrlimit,
};
use rustix::thread::UnshareFlags;

use crate::{LinuxError, WithAction};

/// Raises this process's limit of open files to its maximum and returns the limit. Services have a connection for each
/// of many clients, and often start with a limit of 1,024, the most that `select` can handle.
#[must_use]
pub fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Limits a process, and each process that it starts from now on, in memory (`bytes` of address space) and in processor
/// time (`seconds`).
///
/// # Errors
/// When the process has ended, or the kernel refuses.
pub fn bound(pid: u32, bytes: u64, seconds: u64) -> Result<(), LinuxError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(rustix::io::Errno::SRCH).with_action(|| "limit a process".to_owned())?;
    for (resource, most) in [(Resource::As, bytes), (Resource::Cpu, seconds)] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(Some(pid), resource, limit).with_action(|| format!("limit process {}", pid.as_raw_nonzero()))?;
    }
    Ok(())
}

/// Side of a fork that [`SingleThreaded::fork`] returned to.
pub enum ForkSide {
    /// The child.
    Child,
    /// The parent, with the child's pid.
    Parent(i32),
}

/// Proof that the process has one thread, taken while `/proc` is still the host's. The owner of the proof must not
/// start threads.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads of this process.
    ///
    /// # Errors
    /// When the process has more than one thread.
    pub fn prove() -> Result<Self, LinuxError> {
        let threads =
            std::fs::read_dir("/proc/self/task").with_action(|| "count this process's threads".to_owned())?.count();
        if threads == 1 {
            return Ok(Self(()));
        }
        let source = std::io::Error::other(format!("the process has {threads} threads and must have one"));
        Err(LinuxError { action: "fork".to_owned(), source })
    }

    /// Forks the process.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn fork(self) -> Result<ForkSide, LinuxError> {
        // SAFETY: the process has one thread, as `prove` checked, so no thread that the child lacks holds a lock. All
        // state of std and the allocator is as valid in the child as in the parent.
        let pid = unsafe { libc::fork() };
        match pid {
            0 => Ok(ForkSide::Child),
            1.. => Ok(ForkSide::Parent(pid)),
            _ => Err(std::io::Error::last_os_error()).with_action(|| "fork".to_owned()),
        }
    }
}

/// Moves the calling process, or for `NEWPID` its children, into new namespaces.
///
/// # Errors
/// When the kernel refuses, as without CAP_SYS_ADMIN.
pub fn unshare(flags: UnshareFlags) -> Result<(), LinuxError> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptors are shared by everything in a process");
    // SAFETY: only FILES is dangerous, and it is excluded above.
    unsafe { rustix::thread::unshare_unsafe(flags) }.with_action(|| format!("create namespaces ({flags:?})"))
}

/// Number of users in a namespace: the users that an image may name.
pub const USERS: u32 = 65_536;

/// Creates a user namespace whose users 0 to 65,535 are the host's from `first` on. A process can enter the namespace,
/// or map a mount's owners by it. The namespace exists as long as its descriptor.
///
/// # Errors
/// When the kernel refuses, as where user namespaces are switched off.
#[expect(clippy::disallowed_methods, reason = "a forked child returns to nobody")]
pub fn user_namespace(first: u32) -> Result<OwnedFd, LinuxError> {
    use std::io::{Read, Write};
    let action = || "create a user namespace".to_owned();
    let (mut ready, mut ready_end) = std::io::pipe().with_action(action)?;
    let (mut hold_end, hold) = std::io::pipe().with_action(action)?;
    match SingleThreaded::prove()?.fork()? {
        ForkSide::Child => {
            drop((ready, hold));
            let made = unshare(UnshareFlags::NEWUSER).is_ok() && ready_end.write_all(b"r").is_ok();
            // Keep the namespace until the parent has opened it.
            let _ = made && hold_end.read(&mut [0]).is_ok();
            std::process::exit(0)
        }
        ForkSide::Parent(pid) => {
            drop((ready_end, hold_end));
            let map = || -> std::io::Result<OwnedFd> {
                ready.read_exact(&mut [0])?;
                for file in ["uid_map", "gid_map"] {
                    std::fs::write(format!("/proc/{pid}/{file}"), format!("0 {first} {USERS}"))?;
                }
                Ok(std::fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
            };
            let mapped = { map }().with_action(action);
            drop(hold);
            let _ = rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::empty());
            mapped
        }
    }
}

/// Enters a user namespace and becomes its root, with all rights in the namespace and none outside.
///
/// # Errors
/// When the process has threads, or the kernel refuses.
pub fn enter_users(users: impl AsFd) -> Result<(), LinuxError> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (rustix::fs::Uid::from_raw(0), rustix::fs::Gid::from_raw(0));
    let action = || "enter the user namespace".to_owned();
    move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User)).with_action(action)?;
    rustix::thread::set_thread_groups(&[]).with_action(action)?;
    set_thread_res_gid(gid, gid, gid).with_action(action)?;
    set_thread_res_uid(uid, uid, uid).with_action(action)
}

/// Closes every descriptor that this process inherited, except the three standard ones. A folder of the machine that is
/// still open is a way out of a container for a process that is started there (CVE-2024-21626). `main` must call this
/// function first.
///
/// # Errors
/// When the kernel is older than 5.9.
pub fn close_inherited() -> Result<(), LinuxError> {
    // SAFETY: this process has not opened anything yet, so no descriptor is closed while code uses it.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).with_action(|| "close inherited descriptors".to_owned()),
    }
}

/// A process that was identified once and cannot be mistaken for a later process with the same pid.
#[derive(Debug)]
pub struct ProcessHandle {
    /// Pid of the process.
    pub pid: Pid,
    descriptor: OwnedFd,
}

impl ProcessHandle {
    /// Opens the process `pid` if it started at the time `started` ([`start_time`]). Returns none if that process is
    /// gone, even if another process now has its pid.
    #[must_use]
    pub fn open(pid: i32, started: u64) -> Option<Self> {
        let pid = Pid::from_raw(pid)?;
        let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Read the start time after opening the descriptor: from here on no other process can get the pid.
        (start_time(pid.as_raw_nonzero().get())? == started).then_some(Self { pid, descriptor })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the kernel refuses. A process that is gone is not an error, because a signal mostly serves to end its
    /// process.
    pub fn signal(&self, signal: Signal) -> Result<(), LinuxError> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error).with_action(|| format!("signal process {}", self.pid)),
        }
    }

    /// Returns a descriptor that becomes readable when the process ends.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// When there are too many open files.
    pub async fn ended(&self) -> std::io::Result<()> {
        let descriptor = self.descriptor.try_clone()?;
        // SAFETY: the registered object owns the descriptor, so the descriptor stays open for as long as it is
        // registered.
        let watched = unsafe { tokio::io::unix::AsyncFd::register(descriptor) }?;
        watched.readable().await.map(drop)
    }

    /// Reports whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.descriptor, PollFlags::IN)];
        matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
    }
}

/// Returns the start time of a process in clock ticks since boot. Pid and start time identify a process until the next
/// boot.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may contain any character; field 22 is the twentieth after the name
    // (proc(5)).
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Returns the id of this boot.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
