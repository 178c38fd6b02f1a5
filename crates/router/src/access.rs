//! Access log: one line of JSON for each request. The log is bounded and never delays a request. `docs/operating.md`
//! describes the fields.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gantry_model::RequestFailure;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};

use crate::RouterError;
use crate::proxy::{Peer, owned};
use crate::routing::{Route, Target};

/// Maximum size of the log in bytes; the previous log may take as much again.
const SIZE_MAX: u64 = 64 << 20;

/// Maximum number of buffered bytes. Beyond this limit the log drops and counts lines, because a request must not wait.
const PENDING_MAX: usize = 4 << 20;

/// Memory that an empty buffer keeps.
const BUFFER_KEPT: usize = 1 << 20;

/// Time for which the writer gathers lines: one system call then serves many requests.
const GATHER: Duration = Duration::from_millis(50);

/// Age of a request from which a disconnect of the client counts as a failure. An earlier disconnect says nothing about
/// the application.
const GIVEN_UP: Duration = Duration::from_secs(3);

/// Longest logged path in bytes.
const PATH_MAX: usize = 1000;

/// Handle of the access log.
#[derive(Clone)]
pub(crate) struct AccessLog(Arc<Queue>);

struct Queue {
    pending: Arc<Pending>,
    /// Wakes the writer; true means that this write is the last.
    wake: SyncSender<bool>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Pending {
    lines: Mutex<Vec<u8>>,
    dropped: AtomicU64,
}

/// Log entry of a request. Dropping the entry writes its line, so every request is logged, whatever its outcome.
pub(crate) struct Entry {
    log: AccessLog,
    begun: Instant,
    method: Method,
    path: Option<PathAndQuery>,
    peer: Arc<Peer>,
    pub(crate) id: HeaderValue,
    /// Address of the client, as a trusted proxy named it.
    pub(crate) client: Option<HeaderValue>,
    /// Requested host name, if no app has this name.
    pub(crate) host: String,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    /// Reason why the router answered instead of an instance.
    pub(crate) error: Option<String>,
    /// Kind of failure, counted for the app and shown by `gantry why`.
    pub(crate) failure: Option<RequestFailure>,
}

impl AccessLog {
    pub(crate) fn open(path: &Path) -> Result<Self, RouterError> {
        let fail = |source| RouterError::File { action: "open", path: path.to_owned(), source };
        let file = match open(path) {
            // A router routes without a log, too.
            Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                tracing::warn!(path = %path.display(), "the disk is read-only: requests are not logged until it can be written to");
                None
            }
            file => Some(file.map_err(fail)?),
        };
        let size = file.as_ref().map(File::metadata).transpose().map_err(fail)?.map_or(0, |is| is.len());
        let (wake, awake) = sync_channel(1);
        let pending = Arc::<Pending>::default();
        let writer = Writer { path: path.to_owned(), file, size, pending: Arc::clone(&pending) };
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let writer = Mutex::new(Some(thread.spawn(move || writer.run(&awake)).map_err(fail)?));
        Ok(Self(Arc::new(Queue { pending, wake, writer })))
    }

    /// Writes the buffered lines and stops the writer.
    pub(crate) fn finish(&self) {
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = self.0.wake.send(true);
            let _ = writer.join();
        }
    }

    pub(crate) fn begin(
        &self,
        begun: Instant,
        method: Method,
        path: Option<PathAndQuery>,
        peer: Arc<Peer>,
        id: HeaderValue,
    ) -> Entry {
        Entry {
            log: self.clone(),
            begun,
            method,
            path,
            peer,
            id,
            client: None,
            host: String::new(),
            route: None,
            target: None,
            status: 0,
            bytes: 0,
            error: None,
            failure: None,
        }
    }

    fn push(&self, line: &[u8]) {
        let Queue { pending, wake, .. } = &*self.0;
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

impl Entry {
    /// Counts the request for its app, unless the client left early and without a response.
    fn count(&self) {
        let Some(gate) = self.route.as_ref().map(|route| &route.gate) else { return };
        let unanswered = self.status == 0 && self.target.is_some() && self.begun.elapsed() > GIVEN_UP;
        let failure = if unanswered { Some(RequestFailure::GivenUp) } else { self.failure };
        if self.status == 0 && failure.is_none() {
            return;
        }
        gate.ended();
        if let Some(kind) = failure {
            let instance = self.target.as_ref().map(|target| &target.endpoint.instance);
            gate.failed(kind, self.status, instance, crate::sync::now());
        }
    }

    /// Copies the fields that refer to the request's read buffer.
    pub(crate) fn own(&mut self) {
        self.path = self.path.as_ref().and_then(owned);
        if let Ok(copy) = HeaderValue::from_bytes(self.id.as_bytes()) {
            self.id = copy;
        }
    }

    /// Appends the line, field by field. A general serializer would also search each byte of each field name for
    /// characters to escape.
    fn write(&self, line: &mut Vec<u8>) {
        // Without the query, which may hold secrets.
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        number(line, "{\"at\":", millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
        text(line, ",\"host\":", self.route.as_ref().map_or(&self.host, |route| &route.host));
        text(line, ",\"app\":", self.route.as_ref().map_or("", |route| route.app.as_str()));
        text(line, ",\"instance\":", self.target.as_ref().map_or("", |target| &target.label));
        text(line, ",\"method\":", self.method.as_str());
        text(line, ",\"path\":", path.get(..path.floor_char_boundary(PATH_MAX)).unwrap_or_default());
        number(line, ",\"status\":", self.status.into());
        number(line, ",\"bytes\":", self.bytes);
        number(line, ",\"ms\":", millis(self.begun.elapsed()));
        text(line, ",\"peer\":", self.client.as_ref().unwrap_or(&self.peer.text).to_str().unwrap_or_default());
        text(line, ",\"id\":", self.id.to_str().unwrap_or_default());
        if let Some(error) = &self.error {
            text(line, ",\"error\":", error);
        }
        line.extend_from_slice(b"}\n");
    }
}

/// Appends a text field; `key` includes all punctuation before the value.
fn text(line: &mut Vec<u8>, key: &str, value: &str) {
    line.extend_from_slice(key.as_bytes());
    let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
    // Without an early exit, the loop can check many bytes at once.
    if value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        line.push(b'"');
        line.extend_from_slice(value.as_bytes());
        line.push(b'"');
    } else {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(line, value);
    }
}

fn number(line: &mut Vec<u8>, key: &str, value: u64) {
    line.extend_from_slice(key.as_bytes());
    let _ = serde_json::to_writer(line, &value);
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or_default()
}

impl Drop for Entry {
    fn drop(&mut self) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        self.count();
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.write(line);
            self.log.push(line);
        });
    }
}

struct Writer {
    path: PathBuf,
    /// None while the file cannot be opened.
    file: Option<File>,
    size: u64,
    pending: Arc<Pending>,
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

impl Writer {
    /// Writes lines until the last wake-up.
    fn run(mut self, awake: &Receiver<bool>) {
        let mut lines = Vec::new();
        while let Ok(last) = awake.recv() {
            if !last {
                std::thread::sleep(GATHER);
            }
            // The writer swaps two buffers, so neither grows anew each time. A buffer shrinks again after a burst.
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
mod tests {
    use serde_json::Value;

    use super::*;

    /// Opens a log in its own directory.
    fn log(folder: &tempfile::TempDir) -> (PathBuf, AccessLog) {
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&path).expect("a log");
        (path, log)
    }

    fn wait<T>(mut probe: impl FnMut() -> Option<T>) -> T {
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
    fn a_line_has_the_fields_that_are_documented() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, log) = log(&folder);
        let asked = PathAndQuery::from_static("/orders?secret=1");
        let id = HeaderValue::from_static("an-id");
        let peer = Arc::new(Peer::new("192.0.2.7".parse().expect("an address"), false));
        let mut entry = log.begin(Instant::now(), Method::POST, Some(asked), peer, id);
        entry.error = Some("it closed the connection".to_owned());
        drop(entry);
        let line: Value = wait(|| serde_json::from_slice(&std::fs::read(&path).ok()?).ok());
        let documented =
            include_str!("../../../docs/operating.md").split("**The access log**").nth(1).expect("a section");
        let rows = documented.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let rows = rows.take_while(|line| line.starts_with('|'));
        let mut names: Vec<&str> =
            rows.flat_map(|row| row.split('|').nth(1).expect("a cell").split('`').skip(1).step_by(2)).collect();
        let mut found: Vec<&String> = line.as_object().expect("an object").keys().collect();
        names.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, names);
        assert_eq!((line["path"].as_str(), line["method"].as_str()), (Some("/orders"), Some("POST")));
        assert_eq!((line["peer"].as_str(), line["id"].as_str()), (Some("192.0.2.7"), Some("an-id")));
    }

    #[test]
    fn a_full_log_is_put_aside_and_what_is_too_much_is_counted() {
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

    #[test]
    fn a_field_is_read_as_it_was_written() {
        let all: String = (0..=0x7f_u8).map(char::from).chain("é€😀".chars()).collect();
        for value in ["", "/orders", "a \"quoted\" \\ one", "\u{7f}", &all] {
            let mut line = Vec::new();
            number(&mut line, "{\"at\":", u64::MAX);
            text(&mut line, ",\"path\":", value);
            line.push(b'}');
            let read: Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!((read["at"].as_u64(), read["path"].as_str()), (Some(u64::MAX), Some(value)));
        }
    }
}
