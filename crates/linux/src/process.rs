//! Processes: making one in new namespaces, holding on to one without its parent's rights.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, prlimit, setrlimit,
};
use rustix::thread::UnshareFlags;

use crate::{LinuxError, Tried};

/// How many files this process may have open: as many as it may at all, from here on. Services have a connection each for many
/// clients, and are often started with the 1,024 that `select` can count.
#[must_use]
pub fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Bounds a process, and each that it starts from here on, in memory (`bytes` of address space) and in processor time (`seconds`).
///
/// # Errors
/// When it has ended, or the kernel refuses.
pub fn bound(pid: u32, bytes: u64, seconds: u64) -> Result<(), LinuxError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(rustix::io::Errno::SRCH).tried(|| "bound a process".to_owned())?;
    for (resource, most) in [(Resource::As, bytes), (Resource::Cpu, seconds)] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(Some(pid), resource, limit).tried(|| format!("bound process {}", pid.as_raw_nonzero()))?;
    }
    Ok(())
}

/// What [`SingleThreaded::fork`] returned to.
pub enum Forked {
    /// The child.
    Child,
    /// The parent, with the child's pid.
    Parent(i32),
}

/// Proof that the process has one thread, taken while `/proc` is still the host's. Whoever holds it makes none.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Counts.
    ///
    /// # Errors
    /// When there are more than one.
    pub fn prove() -> Result<Self, LinuxError> {
        let threads = std::fs::read_dir("/proc/self/task").tried(|| "count this process's threads".to_owned())?.count();
        if threads == 1 {
            return Ok(Self(()));
        }
        let source = std::io::Error::other(format!("it has {threads} threads and must have one"));
        Err(LinuxError { action: "fork".to_owned(), source })
    }

    /// Forks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn fork(self) -> Result<Forked, LinuxError> {
        // SAFETY: the process has one thread, as was proved, so no lock is held by a thread that the child lacks, and
        // everything that std and the allocator keep is as valid in the child as in the parent.
        let pid = unsafe { libc::fork() };
        match pid {
            0 => Ok(Forked::Child),
            1.. => Ok(Forked::Parent(pid)),
            _ => Err(std::io::Error::last_os_error()).tried(|| "fork".to_owned()),
        }
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

/// How many users a namespace has: those that an image may name.
pub const USERS: u32 = 65_536;

/// Makes a user namespace whose users 0 to 65,535 are the host's from `first` on, for whoever enters it or maps a mount by
/// it. It lives as long as its descriptor does.
///
/// # Errors
/// When the kernel refuses, as it does where user namespaces are switched off.
pub fn user_namespace(first: u32) -> Result<OwnedFd, LinuxError> {
    use std::io::{Read, Write};
    let action = || "make a user namespace".to_owned();
    let (mut ready, mut ready_end) = std::io::pipe().tried(action)?;
    let (mut hold_end, hold) = std::io::pipe().tried(action)?;
    match SingleThreaded::prove()?.fork()? {
        Forked::Child => {
            drop((ready, hold));
            let made = unshare(UnshareFlags::NEWUSER).is_ok() && ready_end.write_all(b"r").is_ok();
            // Holds the namespace until the parent has it.
            let _ = made && hold_end.read(&mut [0]).is_ok();
            std::process::exit(0)
        }
        Forked::Parent(pid) => {
            drop((ready_end, hold_end));
            let map = || -> std::io::Result<OwnedFd> {
                ready.read_exact(&mut [0])?;
                for file in ["uid_map", "gid_map"] {
                    std::fs::write(format!("/proc/{pid}/{file}"), format!("0 {first} {USERS}"))?;
                }
                Ok(std::fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
            };
            let mapped = { map }().tried(action);
            drop(hold);
            let _ = rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::empty());
            mapped
        }
    }
}

/// Enters a user namespace and becomes its root: every right in it, none outside.
///
/// # Errors
/// When the process has threads, or the kernel refuses.
pub fn enter_users(users: impl AsFd) -> Result<(), LinuxError> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (rustix::fs::Uid::from_raw(0), rustix::fs::Gid::from_raw(0));
    let action = || "enter the user namespace".to_owned();
    move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User)).tried(action)?;
    rustix::thread::set_thread_groups(&[]).tried(action)?;
    set_thread_res_gid(gid, gid, gid).tried(action)?;
    set_thread_res_uid(uid, uid, uid).tried(action)
}

/// Closes everything but the three standard descriptors, whatever this process was started with: a folder of the machine's that is
/// still open is a way out of a container for whoever is started there (CVE-2024-21626). To be called first thing in `main`.
///
/// # Errors
/// When the kernel is older than 5.9.
pub fn close_inherited() -> Result<(), LinuxError> {
    // SAFETY: nothing was opened in this process yet, so nobody's descriptor goes away while it is in use.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).tried(|| "close what was left open".to_owned()),
    }
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

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When there are too many open files.
    pub async fn ended(&self) -> std::io::Result<()> {
        let descriptor = self.descriptor.try_clone()?;
        // SAFETY: the descriptor is owned by what is registered, so it stays open for as long as it is watched.
        let watched = unsafe { tokio::io::unix::AsyncFd::register(descriptor) }?;
        watched.readable().await.map(drop)
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
