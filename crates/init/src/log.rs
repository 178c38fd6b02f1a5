//! The log of an instance: two segments, filled in turn. When a segment is full, the log empties the other segment and
//! continues there. The log is therefore bounded, and always keeps its newest half.
//!
//! A record is a line: `<unix milliseconds> <o|e|g> <F|P> <text>`. `o` is standard output, `e` is standard error, `g`
//! is Gantry itself. `F` ends a line of the application. `P` is a part of a line that is longer than [`LINE_MAX`], or
//! that has not ended yet.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest text in one record.
pub(crate) const LINE_MAX: usize = 16 << 10;

/// Upper bound of a record's length before its text.
const HEAD_MAX: u64 = 64;

/// Source of a record: standard output, standard error, or Gantry.
#[derive(Clone, Copy)]
pub(crate) enum LogSource {
    Out,
    Err,
    Own,
}

pub(crate) struct SegmentedLog {
    segments: [File; 2],
    current: usize,
    written: u64,
    limit: u64,
}

impl SegmentedLog {
    /// Opens the log and continues in the segment that was written last.
    pub(crate) fn open(segments: [OwnedFd; 2], limit: u64) -> io::Result<Self> {
        let segments = segments.map(File::from);
        let modified = |file: &File| file.metadata().and_then(|metadata| metadata.modified());
        let sizes = [segments[0].metadata()?.len(), segments[1].metadata()?.len()];
        // Continues in the segment that is not full. Only if that does not decide do modification times count, because
        // the wall clock may have gone back.
        let is_full = sizes.map(|size| size + LINE_MAX as u64 + HEAD_MAX > limit);
        let newer = match is_full {
            [true, false] => usize::from(sizes[1] > 0),
            [false, true] => 0,
            _ => usize::from(modified(&segments[1])? > modified(&segments[0])? && sizes[1] > 0),
        };
        let written = sizes[newer];
        Ok(Self { segments, current: newer, written, limit })
    }

    /// Writes a record. If the log cannot be written (a full disk), the record is lost, but the application runs on.
    pub(crate) fn record(&mut self, stream: LogSource, whole: bool, text: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let stream = match stream {
            LogSource::Out => 'o',
            LogSource::Err => 'e',
            LogSource::Own => 'g',
        };
        let mut line = format!("{now} {stream} {} ", if whole { 'F' } else { 'P' }).into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        if self.written > 0 && self.written + line.len() as u64 > self.limit {
            self.switch_segment();
        }
        if self.segments[self.current].write_all(&line).is_ok() {
            self.written += line.len() as u64;
        }
    }

    fn switch_segment(&mut self) {
        let other = 1 - self.current;
        if self.segments[other].set_len(0).is_ok() {
            self.current = other;
            self.written = 0;
        }
    }
}

/// Splits the bytes of a pipe into lines.
pub(crate) struct LineSplitter {
    stream: LogSource,
    pending: Vec<u8>,
}

impl LineSplitter {
    pub(crate) fn new(stream: LogSource) -> Self {
        Self { stream, pending: Vec::new() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8], log: &mut SegmentedLog) {
        self.pending.extend_from_slice(bytes);
        let mut begin = 0;
        loop {
            let rest = &self.pending[begin..];
            let window = &rest[..rest.len().min(LINE_MAX)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    log.record(self.stream, true, &window[..end]);
                    begin += end + 1;
                }
                None if window.len() == LINE_MAX => {
                    log.record(self.stream, false, window);
                    begin += LINE_MAX;
                }
                None => break,
            }
        }
        self.pending.drain(..begin);
    }

    /// Writes the remainder that never received a line end.
    pub(crate) fn finish(&mut self, log: &mut SegmentedLog) {
        if !self.pending.is_empty() {
            let rest = std::mem::take(&mut self.pending);
            log.record(self.stream, true, &rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    fn log(limit: u64) -> (SegmentedLog, [File; 2]) {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |name| File::options().read(true).append(true).create(true).open(folder.path().join(name));
        let files = ["a", "b"].map(|name| open(name).expect("a file"));
        let copies = [0, 1].map(|n: usize| OwnedFd::from(files[n].try_clone().expect("a copy")));
        (SegmentedLog::open(copies, limit).expect("a log"), files)
    }

    fn texts(file: &mut File) -> Vec<String> {
        let mut all = String::new();
        file.rewind().expect("rewound");
        file.read_to_string(&mut all).expect("read");
        all.lines().map(|line| line.split_once(' ').expect("a record").1.to_owned()).collect()
    }

    #[test]
    fn writes_a_record_per_line() {
        let (mut log, mut files) = log(1 << 20);
        let mut lines = LineSplitter::new(LogSource::Err);
        lines.push(b"one\ntw", &mut log);
        lines.push(b"o\n\nthree", &mut log);
        lines.finish(&mut log);
        assert_eq!(texts(&mut files[0]), ["e F one", "e F two", "e F ", "e F three"]);
    }

    #[test]
    fn splits_a_line_without_end() {
        let (mut log, mut files) = log(1 << 20);
        LineSplitter::new(LogSource::Out).push(&vec![b'x'; LINE_MAX * 2 + 1], &mut log);
        assert_eq!(texts(&mut files[0]).iter().filter(|text| text.starts_with("o P x")).count(), 2);
    }

    #[test]
    fn bounds_the_log_and_keeps_its_newest_half() {
        let (mut log, mut files) = log(1000);
        for n in 0..1000 {
            log.record(LogSource::Out, true, n.to_string().as_bytes());
        }
        let sizes: Vec<u64> = files.iter().map(|file| file.metadata().expect("a size").len()).collect();
        assert!(sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
        let newest = files.iter_mut().flat_map(texts).any(|text| text == "o F 999");
        assert!(newest);
    }
}
