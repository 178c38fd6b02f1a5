//! Processes: starting a process in new namespaces, and identifying a process without being its parent.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

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
/// start threads. A child of such a process has one thread, too.
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
    pub fn fork(&self) -> Result<ForkSide, LinuxError> {
        // SAFETY: the process has one thread, as `prove` checked, so no thread that the child lacks holds a lock. All
        // state of std and the allocator is as valid in the child as in the parent.
        forked(unsafe { libc::fork() }.into())
    }

    /// Forks the process into a new pid namespace and, on cgroup v2, straight into a control group: no process has to be
    /// moved, which would wait for an RCU grace period. `group` is the group's folder.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn fork_container(&self, group: Option<BorrowedFd<'_>>) -> Result<ForkSide, LinuxError> {
        if group.is_none() {
            unshare(UnshareFlags::NEWPID)?;
            return self.fork();
        }
        Self::clone_process(0, libc::SIGCHLD, group)
    }

    /// Does the same as [`SingleThreaded::fork_container`], but the new process is a child of this process's parent.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn fork_sibling(&self, group: Option<BorrowedFd<'_>>) -> Result<ForkSide, LinuxError> {
        // The kernel copies the exit signal of this process.
        Self::clone_process(libc::CLONE_PARENT, 0, group)
    }

    fn clone_process(flags: i32, exit_signal: i32, group: Option<BorrowedFd<'_>>) -> Result<ForkSide, LinuxError> {
        let into = if group.is_some() { CLONE_INTO_CGROUP } else { 0 };
        let arguments = libc::clone_args {
            flags: u64::from((libc::CLONE_NEWPID | flags).cast_unsigned()) | into,
            exit_signal: exit_signal.cast_unsigned().into(),
            cgroup: group.map_or(0, |group| group.as_raw_fd().cast_unsigned().into()),
            pidfd: 0,
            child_tid: 0,
            parent_tid: 0,
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: 0,
            set_tid_size: 0,
        };
        // SAFETY: as in `fork`. Without a stack and without shared memory, the call returns twice, as `fork` does. The
        // structure lives through the call, which receives its size.
        forked(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) })
    }
}

/// Flag of `clone3` that starts the child in a control group (Linux 5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn forked(result: libc::c_long) -> Result<ForkSide, LinuxError> {
    match i32::try_from(result) {
        Ok(0) => Ok(ForkSide::Child),
        Ok(pid @ 1..) => Ok(ForkSide::Parent(pid)),
        _ => Err(std::io::Error::last_os_error()).with_action(|| "fork".to_owned()),
    }
}

/// Ends this process by SIGALRM after a time, unless [`revoke_end_after`] is called before. A child does not inherit
/// the deadline.
pub fn end_after(time: Duration) {
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
    // SAFETY: the call changes nothing but the process's timer.
    unsafe { libc::alarm(seconds) };
}

/// Revokes [`end_after`].
pub fn revoke_end_after() {
    // SAFETY: the call changes nothing but the process's timer.
    unsafe { libc::alarm(0) };
}

/// Runs the program that is open as `program` in place of this process. Returns only after a failure. Needs no path to
/// the program, so the program need not exist in the root folder of this process.
pub fn run_from(program: impl AsFd, arguments: &[CString], environment: &[CString]) -> LinuxError {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists end with a null pointer. Their texts end with NUL and live through the call, as does the
    // descriptor.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    LinuxError { action: "run a program".to_owned(), source: std::io::Error::last_os_error() }
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
pub fn user_namespace(alone: &SingleThreaded, first: u32) -> Result<OwnedFd, LinuxError> {
    use std::io::{Read, Write};
    let action = || "create a user namespace".to_owned();
    let (mut ready, mut ready_end) = std::io::pipe().with_action(action)?;
    let (mut hold_end, hold) = std::io::pipe().with_action(action)?;
    match alone.fork()? {
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
/// function first, or a forked child that uses nothing of its parent's any more.
///
/// # Errors
/// When the kernel is older than 5.9.
pub fn close_inherited() -> Result<(), LinuxError> {
    // SAFETY: this process has not opened anything yet, or leaves what it inherited alone and never returns to the code
    // that owns it. So no descriptor is closed while code uses it.
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
    #[cfg(feature = "async")]
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
    static ID: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    ID.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests have several threads. The children of this test therefore make system calls only.
    fn alone() -> SingleThreaded {
        SingleThreaded(())
    }

    #[test]
    fn a_forked_child_starts_in_the_control_group() {
        // The unified hierarchy; beside the others on a machine with v1.
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let Some(root) = roots.iter().find(|root| std::path::Path::new(root).join("cgroup.procs").exists()) else {
            return;
        };
        let folder = std::path::Path::new(root).join(format!("gantry-clone-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a group");
        let group = std::fs::File::open(&folder).expect("opened");
        let (mut hold_end, hold) = std::io::pipe().expect("a pipe");
        let pid = match alone().fork_container(Some(group.as_fd())).expect("forked") {
            ForkSide::Child => {
                drop(hold);
                let _ = std::io::Read::read(&mut hold_end, &mut [0]);
                std::process::abort()
            }
            ForkSide::Parent(pid) => pid,
        };
        drop(hold_end);
        let members = std::fs::read_to_string(folder.join("cgroup.procs")).expect("read");
        let _ = rustix::process::kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
        let _ = rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::empty());
        drop(hold);
        std::fs::remove_dir(&folder).expect("empty");
        assert_eq!(members.trim(), pid.to_string());
    }

    #[test]
    fn runs_a_program_by_its_descriptor() {
        let program = std::fs::File::open("/bin/true").expect("opened");
        let pid = match alone().fork().expect("forked") {
            ForkSide::Child => {
                let _ = run_from(&program, &[], &[]);
                std::process::abort()
            }
            ForkSide::Parent(pid) => pid,
        };
        let status = rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::empty());
        let (_, status) = status.expect("waited").expect("ended");
        assert_eq!((status.exit_status(), status.terminating_signal()), (Some(0), None));
    }

    #[test]
    fn a_deadline_ends_a_process() {
        let pid = match alone().fork().expect("forked") {
            ForkSide::Child => {
                end_after(Duration::from_secs(1));
                rustix::event::pause();
                std::process::abort()
            }
            ForkSide::Parent(pid) => pid,
        };
        let status = rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::empty());
        let (_, status) = status.expect("waited").expect("ended");
        assert_eq!(status.terminating_signal(), Some(libc::SIGALRM));
    }
}
