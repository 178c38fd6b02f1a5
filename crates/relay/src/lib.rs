//! Services that a host shares among its containers. Today the crate reads the logs that `gantry-init` writes.
//!
//! An instance's log consists of two segments, which `gantry-init` fills in turn. [`LogTail`] reads both segments in
//! the order of their records, and each call continues where the last call ended. A segment may be emptied and started
//! again at any time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_model::Moment;

/// Maximum number of bytes that one read takes from a segment.
const READ_MAX: u64 = 32 << 20;

/// Size from which a segment counts as full: `gantry-init` switches segments at 8 MiB, and a record has at most 16 KiB.
const SEGMENT_FULL: u64 = (8 << 20) - (17 << 10);

/// One line of an instance's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When the line ended.
    pub at: Moment,
    /// True if the line came from standard error, or from Gantry.
    pub error: bool,
    /// True if Gantry wrote the line, rather than the application.
    pub own: bool,
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Paths of the two segments of an instance's log, inside the log's folder.
#[must_use]
pub fn segments(folder: &Path) -> [PathBuf; 2] {
    [folder.join("0.log"), folder.join("1.log")]
}

/// Age of the oldest kept record; `None` while the log has lost no record.
#[must_use]
pub fn oldest_record_age(folder: &Path) -> Option<Duration> {
    let written = |path: &PathBuf| {
        let is = path.metadata().ok().filter(|is| is.len() > 0)?;
        Some((is.modified().ok()?, path.clone()))
    };
    // Both segments hold records, so one segment was full before.
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

/// Bytes by which Gantry's own lines may exceed a segment's limit: only `gantry-init` may start the next segment.
const OWN_MAX: u64 = 64 << 10;

/// Appends a line of Gantry's own to the newer segment. `gantry-init` appends too, so neither writer overwrites the
/// other. A line for a full segment is dropped.
///
/// # Errors
/// Fails if the log does not exist or cannot be written.
pub fn append(folder: &Path, limit: u64, at: Moment, text: &str) -> io::Result<()> {
    let newer = segments(folder).into_iter().max_by_key(|path| path.metadata().and_then(|is| is.modified()).ok());
    let path = newer.ok_or(io::ErrorKind::NotFound)?;
    let mut file = File::options().append(true).open(path)?;
    if file.metadata()?.len() > limit + OWN_MAX {
        return Ok(());
    }
    file.write_all(format!("{} g F gantry: {text}\n", at.0).as_bytes())
}

/// Number of bytes that [`last_line`] reads from the end of a segment.
const LAST_READ: u64 = 32 << 10;

/// Returns the last whole line that the application printed, if the end of the log contains one.
#[must_use]
pub fn last_line(folder: &Path) -> Option<LogLine> {
    let last = |path: PathBuf| {
        let mut file = File::open(path).ok()?;
        let begin = file.metadata().ok()?.len().saturating_sub(LAST_READ);
        file.seek(SeekFrom::Start(begin)).ok()?;
        let mut bytes = Vec::new();
        file.take(LAST_READ).read_to_end(&mut bytes).ok()?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n')?;
        let mut records = bytes[..end].split(|byte| *byte == b'\n').filter_map(parse_record);
        records.rfind(|record| record.stream != LogStream::Own && !record.text.trim().is_empty())
    };
    let record = segments(folder).into_iter().filter_map(last).max_by_key(|record| record.at)?;
    Some(LogLine { at: record.at, error: record.stream == LogStream::Err, own: false, text: record.text })
}

/// Reads a log from its beginning and then follows new records.
#[derive(Debug)]
pub struct LogTail {
    segments: [LogSegment; 2],
    /// Unfinished lines, by stream.
    partial: [String; 3],
}

#[derive(Debug)]
struct LogSegment {
    path: PathBuf,
    read: u64,
}

impl LogTail {
    /// Creates a tail that starts at the beginning of `segments`.
    #[must_use]
    pub fn new(segments: [PathBuf; 2]) -> Self {
        let segments = segments.map(|path| LogSegment { path, read: 0 });
        Self { segments, partial: [const { String::new() }; 3] }
    }

    /// Returns the lines written since the last call, oldest first.
    pub fn new_lines(&mut self) -> Vec<LogLine> {
        // Within a segment the order of writing counts and not the stamps, because the wall clock may have gone back.
        // If exactly one segment is full, that segment is the older one.
        let is_full = |segment: &LogSegment| segment.path.metadata().is_ok_and(|is| is.len() >= SEGMENT_FULL);
        let in_turn = is_full(&self.segments[0]) != is_full(&self.segments[1]);
        let first = usize::from(in_turn && is_full(&self.segments[1]));
        let mut records: Vec<(Moment, LogRecord)> = Vec::new();
        for place in [first, 1 - first] {
            let mut latest = Moment(0);
            records.extend(self.segments[place].new_records().into_iter().map(|record| {
                latest = latest.max(record.at);
                (latest, record)
            }));
        }
        if !in_turn {
            records.sort_by_key(|(at, _)| *at);
        }
        records.into_iter().filter_map(|(_, record)| self.join(record)).collect()
    }

    fn join(&mut self, record: LogRecord) -> Option<LogLine> {
        let stream = record.stream;
        let partial = &mut self.partial[stream as usize];
        partial.push_str(&record.text);
        // Shows an endless line in pieces, so that the buffer stays bounded.
        let whole = record.whole || partial.len() > 64 << 10;
        let (error, own) = (stream != LogStream::Out, stream == LogStream::Own);
        whole.then(|| LogLine { at: record.at, error, own, text: std::mem::take(partial) })
    }
}

/// Source of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LogStream {
    Out,
    Err,
    Own,
}

struct LogRecord {
    at: Moment,
    stream: LogStream,
    whole: bool,
    text: String,
}

impl LogSegment {
    fn new_records(&mut self) -> Vec<LogRecord> {
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
        bytes[..whole].split(|byte| *byte == b'\n').filter_map(parse_record).collect()
    }
}

/// Parses `<unix milliseconds> <o|e|g> <F|P> <text>`. Returns `None` for any other line, such as a torn write.
fn parse_record(line: &[u8]) -> Option<LogRecord> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"e" => LogStream::Err,
        b"g" => LogStream::Own,
        _ => LogStream::Out,
    };
    let whole = parts.next()? == b"F";
    Some(LogRecord { at: Moment(at), stream, whole, text: String::from_utf8_lossy(parts.next()?).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn reads_both_segments_in_order_and_follows_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, second] = segments(folder.path());
        std::fs::write(&first, "3 o F three\n4 e P fo\n").expect("written");
        std::fs::write(&second, "1 o F one\n2 o F two\nnonsense\n9 o F to").expect("written");
        let mut tail = LogTail::new([first.clone(), second]);
        let texts = |lines: Vec<LogLine>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts(tail.new_lines()), ["one", "two", "three"]);
        let mut file = File::options().append(true).open(&first).expect("opened");
        file.write_all(b"5 e F ur\n6 o F \xff\n").expect("written");
        // The file system's clock may not have advanced since the write to the other segment.
        file.set_modified(SystemTime::now() + std::time::Duration::from_secs(1)).expect("set");
        append(folder.path(), 100, Moment(8), "more").expect("added");
        let lines = tail.new_lines();
        assert!(lines[0].error && lines[2].error && lines[2].own && !lines[0].own);
        let last = last_line(folder.path()).expect("a line");
        assert_eq!((last.at, last.text.as_str()), (Moment(6), "\u{fffd}"), "Gantry's line is not the application's");
        assert_eq!(texts(lines), ["four", "\u{fffd}", "gantry: more"]);
        std::fs::write(&first, "7 o F new\n").expect("begun again");
        assert_eq!(texts(tail.new_lines()), ["new"]);
        assert!(LogTail::new(segments(Path::new("/nonexistent"))).new_lines().is_empty());
    }

    #[test]
    fn drops_gantrys_own_lines_for_a_full_segment() {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, _] = segments(folder.path());
        File::create(&first).expect("made").set_len(OWN_MAX + 11).expect("long");
        append(folder.path(), 10, Moment(1), "more").expect("passed over");
        assert_eq!(first.metadata().expect("there").len(), OWN_MAX + 11);
        append(folder.path(), 11, Moment(1), "more").expect("added");
        assert!(first.metadata().expect("there").len() > OWN_MAX + 11);
        assert_eq!(last_line(Path::new("/nonexistent")), None);
    }

    #[test]
    fn keeps_the_order_of_writing_after_the_clock_went_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, second] = segments(folder.path());
        std::fs::write(&second, "9000 o F one\n5000 o F two\n5001 e F three\n").expect("written");
        let texts = |lines: Vec<LogLine>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts(LogTail::new([first.clone(), second.clone()]).new_lines()), ["one", "two", "three"]);
        // The full segment is the older one, regardless of the stamps.
        let filler = format!("9000 o F {}\n", "x".repeat(1000));
        std::fs::write(&second, filler.repeat(8400)).expect("written");
        std::fs::write(&first, "4000 o F after\n").expect("written");
        let lines = texts(LogTail::new([first, second]).new_lines());
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (8401, Some("after")));
    }

    #[test]
    fn reports_the_oldest_age_once_records_were_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, second] = segments(folder.path());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        std::fs::write(&first, format!("{} o F one\n", now - 5000)).expect("written");
        std::fs::write(&second, "").expect("written");
        assert_eq!(oldest_record_age(folder.path()), None);
        std::fs::write(&second, format!("{now} o F two\n")).expect("written");
        let told = oldest_record_age(folder.path()).expect("both are used").as_millis();
        assert!((5000..8000).contains(&told), "{told}");
        std::fs::write(&first, "nonsense").expect("written");
        let _ = std::fs::File::options().append(true).open(&second).expect("opened").write_all(b"x");
        assert_eq!(oldest_record_age(folder.path()), None);
    }

    proptest! {
        #[test]
        fn parses_or_skips_any_line(line in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            "[0-9]{0,22} ?[oegx]? ?[FPx]? ?[a-z ]{0,9}".prop_map(String::into_bytes),
        ]) {
            let _ = parse_record(&line);
        }
    }
}
