//! What a host shares among its containers. Today: reading the logs that `gantry-init` writes.
//!
//! An instance's log is two segments, written in turn (see `gantry-init`). [`Tail`] reads both in the order of their
//! records, and goes on where it was; it copes with a segment that is emptied and begun again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_model::Moment;

/// The most that is read of a segment at once.
const READ_MAX: u64 = 32 << 20;

/// One line of an instance's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it ended.
    pub at: Moment,
    /// It came from standard error.
    pub error: bool,
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// The two segments of an instance's log, in its folder.
#[must_use]
pub fn segments(folder: &Path) -> [PathBuf; 2] {
    [folder.join("0.log"), folder.join("1.log")]
}

/// How far back the records go that are kept; none before the first has gone.
#[must_use]
pub fn reach(folder: &Path) -> Option<Duration> {
    let written = |path: &PathBuf| {
        let is = path.metadata().ok().filter(|is| is.len() > 0)?;
        Some((is.modified().ok()?, path.clone()))
    };
    // Both have something: one was full.
    let [first, second] = segments(folder).map(|path| written(&path));
    let older = match (first?, second?) {
        (first, second) if first.0 <= second.0 => first,
        (_, second) => second,
    };
    let mut start = [0; 20];
    let read = File::open(older.1).and_then(|mut file| file.read(&mut start)).ok()?;
    let digits = start[..read].split(|byte| *byte == b' ').next()?;
    let oldest = std::str::from_utf8(digits).ok()?.parse().ok().map(Duration::from_millis)?;
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(oldest)
}

/// Adds a line of Gantry's own to the newer segment, as an error. For when whoever wrote to it has ended, or is about to: init
/// writes at the end too, so that neither writes over the other.
///
/// # Errors
/// When there is no log, or it cannot be written to.
pub fn append(folder: &Path, at: Moment, text: &str) -> io::Result<()> {
    let newer = segments(folder).into_iter().max_by_key(|path| path.metadata().and_then(|is| is.modified()).ok());
    let path = newer.ok_or(io::ErrorKind::NotFound)?;
    File::options().append(true).open(path)?.write_all(format!("{} e F {text}\n", at.0).as_bytes())
}

/// Reads a log from its beginning, and then what comes.
#[derive(Debug)]
pub struct Tail {
    segments: [Segment; 2],
    /// Parts of lines that have not ended, by stream.
    partial: [String; 2],
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    read: u64,
}

impl Tail {
    /// A tail of `segments`, from their beginning.
    #[must_use]
    pub fn new(segments: [PathBuf; 2]) -> Self {
        let segments = segments.map(|path| Segment { path, read: 0 });
        Self { segments, partial: [String::new(), String::new()] }
    }

    /// The lines that came since the last call, oldest first.
    pub fn fresh(&mut self) -> Vec<Line> {
        let mut records: Vec<Record> = self.segments.iter_mut().flat_map(Segment::fresh).collect();
        // Each segment is in order; a stable sort merges them.
        records.sort_by_key(|record| record.at);
        records.into_iter().filter_map(|record| self.join(record)).collect()
    }

    fn join(&mut self, record: Record) -> Option<Line> {
        let partial = &mut self.partial[usize::from(record.error)];
        partial.push_str(&record.text);
        // A line without end is shown in pieces: it must not grow for ever.
        let whole = record.whole || partial.len() > 64 << 10;
        whole.then(|| Line { at: record.at, error: record.error, text: std::mem::take(partial) })
    }
}

struct Record {
    at: Moment,
    error: bool,
    whole: bool,
    text: String,
}

impl Segment {
    fn fresh(&mut self) -> Vec<Record> {
        let mut bytes = Vec::new();
        let mut read = || -> std::io::Result<()> {
            let mut file = File::open(&self.path)?;
            if file.metadata()?.len() < self.read {
                self.read = 0;
            }
            file.seek(SeekFrom::Start(self.read))?;
            file.take(READ_MAX).read_to_end(&mut bytes)?;
            Ok(())
        };
        if read().is_err() {
            return Vec::new();
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        bytes[..whole].split(|byte| *byte == b'\n').filter_map(record).collect()
    }
}

/// `<unix milliseconds> <o|e> <F|P> <text>`; what is none (a torn write) is passed over.
fn record(line: &[u8]) -> Option<Record> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let error = parts.next()? == b"e";
    let whole = parts.next()? == b"F";
    Some(Record { at: Moment(at), error, whole, text: String::from_utf8_lossy(parts.next()?).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn both_segments_are_read_in_order_and_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, second] = segments(folder.path());
        std::fs::write(&first, "3 o F three\n4 e P fo\n").expect("written");
        std::fs::write(&second, "1 o F one\n2 o F two\nnonsense\n9 o F to").expect("written");
        let mut tail = Tail::new([first.clone(), second]);
        let texts = |lines: Vec<Line>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts(tail.fresh()), ["one", "two", "three"]);
        let mut file = File::options().append(true).open(&first).expect("opened");
        file.write_all(b"5 e F ur\n6 o F \xff\n").expect("written");
        // The file system's clock may not have gone on since the other one was written.
        file.set_modified(SystemTime::now() + std::time::Duration::from_secs(1)).expect("set");
        append(folder.path(), Moment(8), "gantry: more").expect("added");
        let lines = tail.fresh();
        assert!(lines[0].error && lines[2].error);
        assert_eq!(texts(lines), ["four", "\u{fffd}", "gantry: more"]);
        std::fs::write(&first, "7 o F new\n").expect("begun again");
        assert_eq!(texts(tail.fresh()), ["new"]);
        assert!(Tail::new(segments(Path::new("/nonexistent"))).fresh().is_empty());
    }

    #[test]
    fn how_far_back_a_log_goes_is_told_once_something_has_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, second] = segments(folder.path());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        std::fs::write(&first, format!("{} o F one\n", now - 5000)).expect("written");
        std::fs::write(&second, "").expect("written");
        assert_eq!(reach(folder.path()), None);
        std::fs::write(&second, format!("{now} o F two\n")).expect("written");
        let told = reach(folder.path()).expect("both are used").as_millis();
        assert!((5000..8000).contains(&told), "{told}");
        std::fs::write(&first, "nonsense").expect("written");
        let _ = std::fs::File::options().append(true).open(&second).expect("opened").write_all(b"x");
        assert_eq!(reach(folder.path()), None);
    }

    proptest! {
        #[test]
        fn any_record_is_read_or_passed_over(line in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            "[0-9]{0,22} ?[oex]? ?[FPx]? ?[a-z ]{0,9}".prop_map(String::into_bytes),
        ]) {
            let _ = record(&line);
        }
    }
}
