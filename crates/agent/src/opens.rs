//! The files of an image that a command does not open: the trace behind `gantry image report --run`.
//!
//! The one-off container idles. The agent lists the files of its root, begins the trace, and runs the command. Each file
//! that a process of the container opens leaves the list: what a container does cannot make the list longer. The trace
//! sees opens of files, and neither links nor calls such as `stat`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use gantry_api::types::{FileCount, FolderReport, OpensReport};
use gantry_linux::opens::OpenTrace;
use gantry_linux::walk;
use gantry_sandbox::Container;
use rustix::fs::{Mode, OFlags};
use tokio::task::JoinHandle;

/// Maximum number of files of an image that the agent traces.
const FILES_MAX: usize = 500_000;

/// Maximum number of bytes of the paths of all files.
const PATHS_MAX: usize = 64 << 20;

/// Timeout of the last events, after the container has ended.
const FINISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Folders that a report names.
const FOLDERS_MAX: usize = 20;

/// Parts of a folder's path in a report.
const DEPTH: usize = 3;

/// Reason why there is no trace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpensError {
    #[error("the container has ended")]
    Ended,
    #[error("cannot list the files of the image")]
    List(#[source] io::Error),
    #[error(
        "the last opened files were not read within {} s; run the report again while the machine has less load",
        FINISH_TIMEOUT.as_secs()
    )]
    TooSlow,
    #[error(transparent)]
    Trace(#[from] gantry_linux::LinuxError),
    #[error("cannot read which files were opened")]
    Read(#[source] io::Error),
    #[error("a task of the agent ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// Reason why an image has too many files for the trace.
#[derive(Debug, thiserror::Error)]
enum ListLimit {
    #[error(
        "the image has more than {} files; remove files that the program does not need, and report again",
        FILES_MAX
    )]
    Files,
    #[error(
        "the paths of the image's files have more than {} MiB; shorten the paths or remove files, and report again",
        PATHS_MAX >> 20
    )]
    Paths,
}

/// Sizes of the files that no process has opened, by path.
#[derive(Default)]
struct Unopened {
    files: HashMap<Box<[u8]>, u64>,
    paths: usize,
    opened: FileCount,
}

/// The trace of a container.
pub(crate) struct ContainerTrace {
    /// Ends the trace when it is dropped.
    stop: OwnedFd,
    follower: JoinHandle<io::Result<OpensReport>>,
}

impl ContainerTrace {
    /// Begins the trace of a container that idles.
    pub(crate) async fn begin(container: &Container) -> Result<Self, OpensError> {
        let pid = container.pid().ok_or(OpensError::Ended)?;
        let begun = tokio::task::spawn_blocking(move || begin(pid)).await??;
        // The pid is that of the container as long as its pid 1 runs.
        if !container.is_running() {
            return Err(OpensError::Ended);
        }
        let (trace, mut unopened) = begun;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| OpensError::Read(error.into()))?;
        let follower = tokio::task::spawn_blocking(move || {
            let is_whole = trace.follow(&stopped, |path| unopened.open(path))?;
            Ok(unopened.report(is_whole))
        });
        Ok(Self { stop, follower })
    }

    /// Ends the trace. The container has ended before, so the events of its processes are all there.
    pub(crate) async fn finish(self) -> Result<OpensReport, OpensError> {
        let Self { stop, follower } = self;
        drop(stop);
        let followed = tokio::time::timeout(FINISH_TIMEOUT, follower).await;
        followed.map_err(|_| OpensError::TooSlow)??.map_err(OpensError::Read)
    }
}

/// Lists the files of the container, and begins the trace.
fn begin(pid: i32) -> Result<(OpenTrace, Unopened), OpensError> {
    // The link is the kernel's own: it leads to the root itself, and not along a path.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty());
    let root = root.map_err(|error| OpensError::List(error.into()))?;
    let mut unopened = Unopened::default();
    let mut list = |node: &walk::Node<'_>| match node.kind().is_file() {
        true => unopened.add(node.path.as_os_str().as_bytes(), u64::try_from(node.stat.st_size).unwrap_or_default()),
        false => Ok(()),
    };
    walk::walk(&root, &mut list).map_err(OpensError::List)?;
    Ok((OpenTrace::begin(&root)?, unopened))
}

impl Unopened {
    /// Adds a file by its path below the root.
    fn add(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        let path = [b"/", path].concat();
        self.paths += path.len();
        if self.files.len() >= FILES_MAX {
            return Err(io::Error::other(ListLimit::Files));
        }
        if self.paths > PATHS_MAX {
            return Err(io::Error::other(ListLimit::Paths));
        }
        self.files.insert(path.into(), size);
        Ok(())
    }

    /// Notes that a file was opened.
    fn open(&mut self, path: &[u8]) {
        if let Some(size) = self.files.remove(path) {
            self.opened.add(size);
        }
    }

    fn report(self, is_whole: bool) -> OpensReport {
        let (mut unopened, mut folders) = (FileCount::default(), BTreeMap::<String, FileCount>::new());
        for (path, size) in self.files {
            unopened.add(size);
            folders.entry(folder_of(&path)).or_default().add(size);
        }
        let mut folders: Vec<FolderReport> =
            folders.into_iter().map(|(path, unopened)| FolderReport { path, unopened }).collect();
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.unopened.size));
        folders.truncate(FOLDERS_MAX);
        OpensReport { opened: self.opened, unopened, folders, is_whole }
    }
}

/// The folder of a file in a report: the first parts of its folder's path.
fn folder_of(path: &[u8]) -> String {
    let parts: Vec<_> = path.split(|byte| *byte == b'/').skip(1).collect();
    let folders = parts.len().saturating_sub(1).min(DEPTH);
    format!("/{}", String::from_utf8_lossy(&parts[..folders].join(&b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_sums_up_what_was_not_opened_by_folder() {
        let mut unopened = Unopened::default();
        for (path, size) in
            [("bin/a", 100), ("usr/share/doc/x/y", 5), ("usr/share/doc/z", 7), ("usr/lib/one", 9), ("top", 1)]
        {
            unopened.add(path.as_bytes(), size).expect("added");
        }
        for path in ["/bin/a", "/bin/a", "/etc/hosts", "/made/later"] {
            unopened.open(path.as_bytes());
        }
        let report = unopened.report(true);
        assert_eq!(report.opened, FileCount { files: 1, size: 100 });
        assert_eq!(report.unopened, FileCount { files: 4, size: 22 });
        let told: Vec<_> = report.folders.iter().map(|one| (one.path.as_str(), one.unopened.size)).collect();
        assert_eq!(told, [("/usr/share/doc", 12), ("/usr/lib", 9), ("/", 1)]);
        assert!(report.is_whole);
    }

    #[test]
    fn a_list_of_files_has_a_limit_of_paths_and_one_of_files() {
        let mut unopened = Unopened { paths: PATHS_MAX - 2, ..Unopened::default() };
        unopened.add(b"a", 1).expect("fits");
        let error = unopened.add(b"b", 1).expect_err("refused");
        assert!(error.to_string().contains("more than 64 MiB"), "{error}");
        let files = (0..FILES_MAX).map(|number| (number.to_ne_bytes().into(), 1)).collect();
        let mut unopened = Unopened { files, ..Unopened::default() };
        let error = unopened.add(b"b", 1).expect_err("refused");
        assert!(error.to_string().contains("more than 500000 files"), "{error}");
    }
}
