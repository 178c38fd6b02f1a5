//! Access log: writer of one line for each request. The log is bounded and never delays a request.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::RouterError;

/// Maximum size of the log in bytes; the previous log may take as much again.
const SIZE_MAX: u64 = 64 << 20;

/// Maximum number of buffered bytes. Beyond this limit the log drops and counts lines, because a request must not wait.
const PENDING_MAX: usize = 4 << 20;

/// Memory that an empty buffer keeps.
const BUFFER_KEPT: usize = 1 << 20;

/// Time for which the writer gathers lines: one system call then serves many requests.
const GATHER: Duration = Duration::from_millis(50);

/// Handle of the access log.
#[derive(Clone)]
pub(crate) struct AccessLog(Arc<LogQueue>);

struct LogQueue {
    pending: Arc<PendingLines>,
    /// Wakes the writer; true means that this write is the last.
    wake: SyncSender<bool>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct PendingLines {
    lines: Mutex<Vec<u8>>,
    dropped: AtomicU64,
}

impl AccessLog {
    pub(crate) fn open(path: &Path) -> Result<Self, RouterError> {
        let fail = |source| RouterError::File { action: "open", path: path.to_owned(), source };
        let file = match open(path) {
            // A router routes without a log, too.
            Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                tracing::warn!(path = %path.display(), "cannot write the access log on a read-only disk; requests are not logged until the disk is writable");
                None
            }
            file => Some(file.map_err(fail)?),
        };
        let size = file.as_ref().map(File::metadata).transpose().map_err(fail)?.map_or(0, |is| is.len());
        let (wake, awake) = sync_channel(1);
        let pending = Arc::<PendingLines>::default();
        let writer = LogWriter { path: path.to_owned(), file, size, pending: Arc::clone(&pending) };
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let writer = Mutex::new(Some(thread.spawn(move || writer.run(&awake)).map_err(fail)?));
        Ok(Self(Arc::new(LogQueue { pending, wake, writer })))
    }

    /// Writes the buffered lines and stops the writer.
    pub(crate) fn finish(&self) {
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = self.0.wake.send(true);
            let _ = writer.join();
        }
    }

    /// Adds a line, unless too many bytes are pending.
    pub(crate) fn push(&self, line: &[u8]) {
        let LogQueue { pending, wake, .. } = &*self.0;
        let mut lines = pending.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() + line.len() > PENDING_MAX {
            pending.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let first = lines.is_empty();
        lines.extend_from_slice(line);
        drop(lines);
        if first {
            // The channel is full, so the writer is already awake.
            let _ = wake.try_send(false);
        }
    }
}

struct LogWriter {
    path: PathBuf,
    /// None while the file cannot be opened.
    file: Option<File>,
    size: u64,
    pending: Arc<PendingLines>,
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

impl LogWriter {
    /// Writes lines until the last wake-up.
    fn run(mut self, awake: &Receiver<bool>) {
        let mut lines = Vec::new();
        while let Ok(last) = awake.recv() {
            if !last {
                std::thread::sleep(GATHER);
            }
            // The writer swaps two buffers, so neither grows again each time. A buffer shrinks again after a burst.
            lines.clear();
            lines.shrink_to(BUFFER_KEPT);
            std::mem::swap(&mut lines, &mut *self.pending.lines.lock().unwrap_or_else(PoisonError::into_inner));
            self.write(&lines);
            match self.pending.dropped.swap(0, Ordering::Relaxed) {
                0 => {}
                count => self.write(format!("{{\"dropped\":{count}}}\n").as_bytes()),
            }
            if last {
                return;
            }
        }
    }

    fn write(&mut self, lines: &[u8]) {
        if self.size > SIZE_MAX {
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.1"));
            if let Ok(file) = open(&self.path) {
                self.file = Some(file);
                self.size = 0;
            }
        }
        if self.file.is_none() {
            self.file = open(&self.path).ok();
        }
        // A full or read-only disk costs log lines, but no request.
        if self.file.as_mut().is_some_and(|file| file.write_all(lines).is_ok()) {
            self.size += lines.len() as u64;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::Instant;

    /// Opens a log in its own directory.
    pub(in crate::exchange) fn log(folder: &tempfile::TempDir) -> (PathBuf, AccessLog) {
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&path).expect("a log");
        (path, log)
    }

    /// Calls `probe` until the call returns a value. Panics after 20 seconds.
    pub(in crate::exchange) fn wait<T>(mut probe: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = probe() {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "waited too long");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn rotates_a_full_log_and_counts_dropped_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        File::create(&path).and_then(|file| file.set_len(SIZE_MAX + 1)).expect("a full log");
        std::fs::write(path.with_extension("log.1"), "the one before").expect("written");
        let (path, log) = log(&folder);
        let line = [&[b'x'; 1000][..], b"\n"].concat();
        let pushed = 3 * PENDING_MAX / line.len();
        (0..pushed).for_each(|_| log.push(&line));
        let (kept, dropped) = wait(|| {
            let text = std::fs::read_to_string(&path).ok()?;
            let dropped = text
                .lines()
                .filter_map(|line| line.strip_prefix("{\"dropped\":")?.strip_suffix('}')?.parse::<usize>().ok());
            let dropped: usize = dropped.sum();
            let kept = text.lines().filter(|line| line.starts_with('x')).count();
            (kept + dropped == pushed).then_some((kept, dropped))
        });
        assert!(dropped > 0 && kept > 0, "{kept} kept, {dropped} dropped");
        assert_eq!(std::fs::metadata(path.with_extension("log.1")).expect("there").len(), SIZE_MAX + 1);
    }
}
