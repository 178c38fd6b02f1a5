//! Reports of the kernel on the files that processes open (fanotify).
//!
//! A trace covers the opens of one overlay file system's files, by any mount and in any mount namespace. The
//! tracing process stays outside of the container. The kernel gives a descriptor for each opened file; the trace reads
//! the file's path from the kernel, and follows no path of the container's.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstatfs;
use rustix::io::Errno;

use crate::{LinuxError, WithAction};

/// Magic number of an overlay file system.
const OVERLAY: u64 = 0x794c_7630;

/// Size of an event without further information.
const EVENT: usize = 24;

/// Bytes of events that one read takes. The kernel opens a descriptor for each event.
const BUFFER: usize = 64 * EVENT;

/// Addition of the kernel to the path of a file that was deleted.
const DELETED: &[u8] = b" (deleted)";

/// A trace of the files opened on an overlay file system. It ends when the value is dropped.
pub struct OpenTrace(OwnedFd);

impl OpenTrace {
    /// Begins the trace of the file system with the folder `root`.
    ///
    /// # Errors
    /// When the file system is no overlay, or any error of a system call: `ENOSYS` or `EINVAL` on a kernel without
    /// fanotify for whole file systems (before Linux 4.20), `EPERM` without the capability `CAP_SYS_ADMIN`.
    pub fn begin(root: impl AsFd) -> Result<Self, LinuxError> {
        let root = root.as_fd();
        begin(root)
            .with_action(|| "trace the opened files of a container, for which the kernel needs fanotify".to_owned())
    }

    /// Passes the path of each opened file to `opened`, until the other end of the pipe `stop` is closed, and then for all
    /// opens before that moment. Returns false if the kernel dropped events. Blocks.
    ///
    /// # Errors
    /// Any error of a system call.
    pub fn follow(&self, stop: impl AsFd, mut opened: impl FnMut(&[u8])) -> io::Result<bool> {
        let (mut buffer, mut is_stopped, mut is_whole) = (vec![0; BUFFER], false, true);
        loop {
            // Processes may open files faster than this loop reads events. The queue is then never empty by itself.
            if !is_stopped && is_closed(&stop)? {
                self.remove_mark()?;
                is_stopped = true;
            }
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(0) => return Ok(is_whole),
                Ok(count) => is_whole &= events(&buffer[..count], &mut opened),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if is_stopped => return Ok(is_whole),
                Err(Errno::AGAIN) => {
                    let mut waiting = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(&stop, PollFlags::IN)];
                    match poll(&mut waiting, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the reports of further opens. The events in the queue stay.
    fn remove_mark(&self) -> io::Result<()> {
        let flush = libc::FAN_MARK_FLUSH | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: the kernel reads no path when it removes all marks of a group.
        let removed = unsafe { libc::fanotify_mark(self.0.as_raw_fd(), flush, 0, libc::AT_FDCWD, std::ptr::null()) };
        if removed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Reports whether the other end of a pipe to which nothing is written is closed.
fn is_closed(pipe: impl AsFd) -> io::Result<bool> {
    let mut waiting = [PollFd::new(&pipe, PollFlags::IN)];
    match poll(&mut waiting, Some(&Timespec::default())) {
        Ok(_) | Err(Errno::INTR) => Ok(!waiting[0].revents().is_empty()),
        Err(error) => Err(error.into()),
    }
}

fn begin(root: std::os::fd::BorrowedFd<'_>) -> rustix::io::Result<OpenTrace> {
    if u64::try_from(fstatfs(root)?.f_type).ok() != Some(OVERLAY) {
        return Err(Errno::OPNOTSUPP);
    }
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    // A pipe in the file system must not make the trace wait for its writer.
    let of_events = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_LARGEFILE;
    // SAFETY: the call takes no pointer.
    let group = unsafe { libc::fanotify_init(flags, of_events.cast_unsigned()) };
    if group < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    let group = unsafe { OwnedFd::from_raw_fd(group) };
    let mark = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
    // SAFETY: the path is a constant string that ends with a NUL.
    let marked =
        unsafe { libc::fanotify_mark(group.as_raw_fd(), mark, libc::FAN_OPEN, root.as_raw_fd(), c".".as_ptr()) };
    if marked < 0 { Err(last_error()) } else { Ok(OpenTrace(group)) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Passes on the paths of a buffer of events; returns false if some are missing.
fn events(mut buffer: &[u8], opened: &mut impl FnMut(&[u8])) -> bool {
    let mut is_whole = true;
    while let Some((event, _)) = buffer.split_first_chunk::<EVENT>() {
        // struct fanotify_event_metadata: length, version and size (8 octets), mask, descriptor, process.
        let [l0, l1, l2, l3, _, _, _, _, _, _, _, _, _, _, _, _, d0, d1, d2, d3, ..] = *event;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let descriptor = i32::from_ne_bytes([d0, d1, d2, d3]);
        // An overflow of the kernel's queue, or a file that could not be opened, has no descriptor.
        is_whole &= descriptor >= 0;
        if descriptor >= 0 {
            // SAFETY: the kernel has opened this descriptor for the reader of the event, and nothing else owns it.
            let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
            match rustix::fs::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new()) {
                Ok(path) => opened(path.to_bytes().strip_suffix(DELETED).unwrap_or(path.to_bytes())),
                Err(_) => is_whole = false,
            }
        }
        buffer = buffer.get(length.max(EVENT)..).unwrap_or_default();
    }
    is_whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An overlay that is mounted nowhere, with the files of `lower`.
    fn overlay(folder: &std::path::Path) -> OwnedFd {
        for name in ["lower/usr/lib", "upper", "work"] {
            std::fs::create_dir_all(folder.join(name)).expect("made");
        }
        for name in ["lower/read", "lower/usr/lib/deep", "lower/never"] {
            std::fs::write(folder.join(name), "x").expect("written");
        }
        let path = |name: &str| folder.join(name).display().to_string();
        let (lower, upper, work) = (path("lower"), path("upper"), path("work"));
        let options = [("lowerdir", &*lower), ("upperdir", &*upper), ("workdir", &*work)];
        crate::mounts::detached("overlay", &options, rustix::mount::MountAttrFlags::empty()).expect("mounted")
    }

    fn open_at(root: &OwnedFd, path: &str) {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        drop(rustix::fs::openat(root, path, flags, rustix::fs::Mode::empty()).expect("opened"));
    }

    #[test]
    fn names_every_opened_file_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = overlay(folder.path());
        open_at(&root, "never");
        let trace = OpenTrace::begin(&root).expect("begun");
        let (stop, stopper) = rustix::pipe::pipe().expect("a pipe");
        open_at(&root, "read");
        open_at(&root, "usr/lib/deep");
        open_at(&root, "usr");
        std::fs::read(folder.path().join("lower/never")).expect("read beside the overlay");
        drop(stopper);
        let mut found = Vec::new();
        let is_whole = trace.follow(&stop, |path| found.push(String::from_utf8_lossy(path).into_owned()));
        assert!(is_whole.expect("followed"));
        found.sort();
        assert_eq!(found, ["/read", "/usr/lib/deep"]);
    }

    #[test]
    fn ends_while_files_are_opened_without_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = overlay(folder.path());
        let trace = OpenTrace::begin(&root).expect("begun");
        let (stop, stopper) = rustix::pipe::pipe().expect("a pipe");
        let (mut stopper, mut count) = (Some(stopper), 0);
        open_at(&root, "read");
        open_at(&root, "read");
        // Each event brings the next one, so the queue is never empty.
        let is_whole = trace.follow(&stop, |_| {
            count += 1;
            assert!(count < 10_000, "the trace goes on after its stop");
            if count == 1_000 {
                drop(stopper.take());
            }
            open_at(&root, "read");
        });
        assert!(is_whole.expect("followed"));
        assert!(count >= 1_000, "{count} events");
    }

    #[test]
    fn dropped_events_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = overlay(folder.path());
        let trace = OpenTrace::begin(&root).expect("begun");
        let (stop, stopper) = rustix::pipe::pipe().expect("a pipe");
        let limit = std::fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").expect("a limit");
        let most: usize = limit.trim().parse().expect("a number");
        // The kernel merges equal events, so each open has a file of its own.
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        for number in 0..=most {
            let made = rustix::fs::openat(&root, number.to_string(), flags, rustix::fs::Mode::RUSR);
            drop(made.expect("made"));
        }
        drop(stopper);
        let mut count = 0;
        assert!(!trace.follow(&stop, |_| count += 1).expect("followed"));
        assert!(count <= most, "{count} events");
    }

    #[test]
    fn traces_no_file_system_of_the_machine() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = std::fs::File::open(folder.path()).expect("opened");
        let refused = OpenTrace::begin(&file).err().expect("refused");
        assert!(refused.to_string().contains("fanotify"), "{refused}");
    }
}
