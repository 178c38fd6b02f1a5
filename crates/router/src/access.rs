//! The access log: one line of JSON a request, bounded, and never in a request's way.
//!
//! Fields: `at` (Unix milliseconds), `host`, `app`, `instance`, `method`, `path` (without the query, which may hold
//! secrets), `status`, `bytes` (of the answer's body), `ms` (to its last byte), `peer`, `id`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::mpsc;

use crate::RouterError;

/// The log's size; as much again is kept of the one before.
const SIZE_MAX: u64 = 64 << 20;

/// Lines on their way; beyond that lines are dropped, not requests delayed.
const QUEUE: usize = 10_000;

/// Where lines go.
#[derive(Clone)]
pub(crate) struct AccessLog(mpsc::Sender<String>);

/// A request's line, written when it is dropped: whatever became of the request.
#[derive(Serialize)]
pub(crate) struct Entry {
    #[serde(skip)]
    log: AccessLog,
    #[serde(skip)]
    begun: Instant,
    /// Set when the line is written, as is `ms`.
    at: u64,
    pub(crate) host: String,
    pub(crate) app: String,
    pub(crate) instance: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    ms: u64,
    pub(crate) peer: String,
    pub(crate) id: String,
}

impl AccessLog {
    pub(crate) fn open(path: &Path) -> Result<Self, RouterError> {
        let fail = |source| RouterError::File { action: "open", path: path.to_owned(), source };
        let file = File::options().create(true).append(true).open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let (sender, lines) = mpsc::channel(QUEUE);
        let writer = Writer { path: path.to_owned(), file: BufWriter::new(file), size };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(lines)).map_err(fail)?;
        Ok(Self(sender))
    }

    pub(crate) fn begin(&self) -> Entry {
        Entry {
            log: self.clone(),
            begun: Instant::now(),
            at: 0,
            host: String::new(),
            app: String::new(),
            instance: String::new(),
            method: String::new(),
            path: String::new(),
            status: 0,
            bytes: 0,
            ms: 0,
            peer: String::new(),
            id: String::new(),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.at = u64::try_from(at).unwrap_or_default();
        self.ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or_default();
        if let Ok(line) = serde_json::to_string(self) {
            let _ = self.log.0.try_send(line);
        }
    }
}

struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    size: u64,
}

impl Writer {
    fn run(mut self, mut lines: mpsc::Receiver<String>) {
        while let Some(line) = lines.blocking_recv() {
            self.line(&line);
            while let Ok(line) = lines.try_recv() {
                self.line(&line);
            }
            let _ = self.file.flush();
            // Lines are gathered: one system call for many requests.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn line(&mut self, line: &str) {
        if self.size > SIZE_MAX {
            let _ = self.file.flush();
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.1"));
            if let Ok(file) = File::options().create(true).append(true).open(&self.path) {
                self.file = BufWriter::new(file);
                self.size = 0;
            }
        }
        if writeln!(self.file, "{line}").is_ok() {
            self.size += line.len() as u64 + 1;
        }
    }
}
