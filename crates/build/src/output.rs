//! Output of a build: a log file that clients follow, and the lines for a build error.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

/// Maximum number of lines that a build keeps for a build error.
const TAIL_MAX: usize = 200;

/// Maximum number of error lines that a build error shows before the last lines.
const ERRORS_MAX: usize = 3;

/// Size limit of a build's log file.
const OUTPUT_MAX: u64 = 16 << 20;

/// Output of a build.
pub struct Output {
    destination: Destination,
    /// Bytes of output so far.
    written: watch::Sender<u64>,
    lines: Mutex<Lines>,
    now: Mutex<CurrentStep>,
    cancelled: watch::Sender<bool>,
}

/// Destination of the output.
enum Destination {
    /// A log file; `None` if the file cannot be opened.
    File(Mutex<Option<File>>),
    /// Another process, which has the log.
    Channel(mpsc::UnboundedSender<OutputEvent>),
}

/// A line of output on its way to another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputEvent {
    /// A step begins.
    Step(String),
    /// A note on the current step.
    Note(String),
    /// A line that a program of the app printed.
    Program(String),
}

/// Current step of a build.
struct CurrentStep {
    step: String,
    since: Instant,
    /// Last line of a program in this step, and its time.
    last_output: Option<(String, Instant)>,
}

/// Current step of a build, for `gantry why`.
#[derive(Debug, Clone)]
pub struct BuildProgress {
    /// Description of the step; empty before the first step.
    pub step: String,
    /// Time since the step began.
    pub running: Duration,
    /// Last line of the app's programs in this step, and the line's age.
    pub last_output: Option<(String, Duration)>,
}

/// Lines that the app's programs printed.
#[derive(Debug, Default)]
struct Lines {
    count: usize,
    last: VecDeque<String>,
    /// The first lines that name an error, with their line numbers.
    errors: Vec<(usize, String)>,
}

impl Lines {
    fn push(&mut self, line: String) {
        if self.errors.len() < ERRORS_MAX && names_an_error(&line) {
            self.errors.push((self.count, line.clone()));
        }
        if self.last.len() == TAIL_MAX {
            self.last.pop_front();
        }
        self.last.push_back(line);
        self.count += 1;
    }

    fn shown(&self, lines: usize) -> Vec<String> {
        let last = self.last.iter().skip(self.last.len().saturating_sub(lines)).cloned();
        let begins = self.count - self.last.len().min(lines);
        let mut shown: Vec<String> =
            self.errors.iter().filter(|(at, _)| *at < begins).map(|(_, line)| line.clone()).collect();
        if !shown.is_empty() {
            shown.push("…".to_owned());
        }
        shown.extend(last);
        shown
    }
}

impl Output {
    /// Opens the log file at `path` and truncates the file. A log that cannot be written does not fail the build.
    #[must_use]
    pub fn to(path: &Path) -> Arc<Self> {
        let file = File::create(path)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cannot create the log of a build"));
        Self::at(Destination::File(Mutex::new(file.ok())))
    }

    /// An output whose lines another process receives. The channel holds at most as many bytes as a log file.
    #[must_use]
    pub fn forwarded() -> (Arc<Self>, mpsc::UnboundedReceiver<OutputEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self::at(Destination::Channel(sender)), receiver)
    }

    fn at(destination: Destination) -> Arc<Self> {
        let now = Mutex::new(CurrentStep { step: String::new(), since: Instant::now(), last_output: None });
        let (cancelled, _) = watch::channel(false);
        Arc::new(Self { destination, written: watch::Sender::new(0), lines: Mutex::default(), now, cancelled })
    }

    /// Takes over a line from another process.
    pub fn take(&self, event: OutputEvent) {
        match event {
            OutputEvent::Step(text) => self.step(&text),
            OutputEvent::Note(text) => self.note(&text),
            OutputEvent::Program(line) => self.program(&line),
        }
    }

    /// Begins a step.
    pub fn step(&self, text: &str) {
        self.write(OutputEvent::Step(text.to_owned()));
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) =
            CurrentStep { step: text.to_owned(), since: Instant::now(), last_output: None };
    }

    /// Writes a note on the current step.
    pub fn note(&self, text: &str) {
        self.write(OutputEvent::Note(text.to_owned()));
    }

    /// Writes a line that a program of the app printed.
    pub fn program(&self, line: &str) {
        let clean = plain(line);
        self.write(OutputEvent::Program(clean.clone()));
        if !clean.trim().is_empty() {
            let shown = gantry_model::output::within_a_line(&clean);
            self.now.lock().unwrap_or_else(PoisonError::into_inner).last_output = Some((shown, Instant::now()));
        }
        self.lines().push(clean);
    }

    fn write(&self, event: OutputEvent) {
        let line = match &event {
            OutputEvent::Step(text) => format!("-----> {text}"),
            OutputEvent::Note(text) | OutputEvent::Program(text) => format!("       {text}"),
        };
        if *self.written.borrow() >= OUTPUT_MAX {
            return;
        }
        let written = match &self.destination {
            Destination::Channel(sender) => sender.send(event).is_ok(),
            Destination::File(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.as_mut().is_some_and(|file| writeln!(file, "{line}").is_ok())
            }
        };
        if written {
            self.written.send_modify(|bytes| *bytes += line.len() as u64 + 1);
        }
    }

    /// Subscribes to further output.
    #[must_use]
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Current step of the build.
    #[must_use]
    pub fn progress(&self) -> BuildProgress {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let last_output = now.last_output.as_ref().map(|(line, at)| (line.clone(), at.elapsed()));
        BuildProgress { step: now.step.clone(), running: now.since.elapsed(), last_output }
    }

    /// Last lines of the app's programs.
    #[must_use]
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let kept = self.lines();
        kept.last.iter().skip(kept.last.len().saturating_sub(lines)).cloned().collect()
    }

    /// Lines of the app's programs for a build error: the first lines that name an error, then the last lines.
    #[must_use]
    pub fn shown(&self, lines: usize) -> Vec<String> {
        self.lines().shown(lines)
    }

    /// Cancels the build.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Returns whether the build was cancelled.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Returns once the build is cancelled.
    pub async fn cancelled(&self) {
        // This value owns the sender, so the channel stays open.
        let _ = self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }

    /// Waits for a slot, and writes the note if no slot is free now. Returns none if the build is cancelled first.
    pub async fn wait_for<T>(&self, note: &str, slot: impl Future<Output = T>) -> Option<T> {
        let mut slot = pin!(slot);
        tokio::select! {
            biased;
            slot = &mut slot => return Some(slot),
            () = std::future::ready(()) => self.note(note),
        }
        tokio::select! {
            slot = slot => Some(slot),
            () = self.cancelled() => None,
        }
    }
}

/// Returns whether a line has the word `error`, apart from names such as `error.rb` and counts such as `0 errors`. The
/// result only selects lines for people.
fn names_an_error(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let is_joined = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    line.match_indices("error").any(|(at, word)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let after = after.strip_prefix('s').unwrap_or(after);
        let goes_on = match after.strip_prefix('.') {
            Some(end) => end.starts_with(char::is_alphanumeric),
            None => after.starts_with(is_joined),
        };
        let is_none = ["0 ", "no "].iter().any(|none| before.ends_with(none));
        !(before.ends_with(is_joined) || goes_on || is_none)
    })
}

/// Converts a line to the text that a terminal shows in the end.
///
/// Escape sequences disappear. A carriage return, or an equivalent sequence, restarts the line. A backspace removes a
/// character.
fn plain(line: &str) -> String {
    let (mut shown, mut anew) = (String::new(), false);
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\r' => anew = true,
            '\u{1b}' => anew |= escape(&mut rest),
            '\u{9b}' => anew |= control_sequence(&mut rest),
            '\u{8}' => drop(shown.pop()),
            c if c.is_control() && c != '\t' => {}
            c => {
                if std::mem::take(&mut anew) {
                    shown.clear();
                }
                shown.push(c);
            }
        }
    }
    shown
}

/// Skips an escape sequence (ECMA-48) after its first character. Returns whether the sequence restarts the line.
fn escape(rest: &mut std::str::Chars<'_>) -> bool {
    match rest.clone().next() {
        Some('[') => {
            rest.next();
            control_sequence(rest)
        }
        // Strings end at BEL or at a string terminator.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = rest.next() {
                if c == '\u{7}' || c == '\u{9c}' {
                    break;
                }
                if c == '\u{1b}' {
                    rest.next();
                    break;
                }
            }
            false
        }
        _ => {
            // Intermediate characters, such as in `ESC ( B`, and the final character.
            while let Some(c) = rest.clone().next() {
                if c.is_control() || !c.is_ascii() {
                    break;
                }
                rest.next();
                if !(' '..='/').contains(&c) {
                    break;
                }
            }
            false
        }
    }
}

/// Skips a control sequence. Returns whether the sequence moves the cursor to the line's beginning (`G`) or clears the
/// line (`2K`).
fn control_sequence(rest: &mut std::str::Chars<'_>) -> bool {
    let mut parameters = String::new();
    while let Some(c) = rest.clone().next() {
        match c {
            '\u{20}'..='\u{3f}' => {
                rest.next();
                parameters.push(c);
            }
            '\u{40}'..='\u{7e}' => {
                rest.next();
                return match c {
                    'G' => ["", "0", "1"].contains(&parameters.as_str()),
                    'K' => parameters == "2",
                    _ => false,
                };
            }
            // Not a control sequence: the rest is text.
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_build_that_waits_for_a_slot_says_so_once() {
        let slots = Semaphore::new(1);
        let (output, mut events) = Output::forwarded();
        let first = output.wait_for("waiting", slots.acquire()).await.expect("not cancelled");
        assert!(events.try_recv().is_err(), "the slot was free");
        let mut second = Box::pin(output.wait_for("waiting", slots.acquire()));
        tokio::select! {
            biased;
            _ = &mut second => panic!("the slot is taken"),
            event = events.recv() => assert_eq!(event, Some(OutputEvent::Note("waiting".to_owned()))),
        }
        drop(first);
        assert!(second.await.is_some_and(|slot| slot.is_ok()));
        assert!(events.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_cancelled_build_waits_for_no_slot() {
        let slots = Semaphore::new(0);
        let (output, _events) = Output::forwarded();
        output.cancel();
        assert!(output.wait_for("waiting", slots.acquire()).await.is_none());
    }

    #[test]
    fn a_line_is_shown_as_a_terminal_would_show_it_in_the_end() {
        for (line, expected) in [
            ("progress 10\rprogress 50\rprogress 100\r", "progress 100"),
            ("progress 100\r", "progress 100"),
            ("windows\r", "windows"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[1;38;5;208mbold\u{1b}[m and \u{9b}32mgreen", "bold and green"),
            ("\u{1b}]8;;https://x.example\u{1b}\\link\u{1b}]8;;\u{7}!", "link!"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}(Btext\u{1b}M", "text"),
            ("10%\u{1b}[2K\u{1b}[1G20%\u{1b}[2K\u{1b}[G30%", "30%"),
            ("10%\u{1b}[K", "10%"),
            ("|\u{8}/\u{8}-\u{8}done", "done"),
            ("a\tb\u{7}\u{0}c", "a\tbc"),
            ("cut \u{1b}[31", "cut "),
            ("cut \u{1b}", "cut "),
            ("gr\u{fc}n \u{1b}gr\u{fc}n", "gr\u{fc}n r\u{fc}n"),
            ("", ""),
        ] {
            assert_eq!(plain(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_refusal_shows_the_first_error_and_the_last_lines() {
        let mut lines = Lines::default();
        lines.push("0 errors, no error; compiling error.rs with -Werror".to_owned());
        lines.push("dpkg: error: cannot make a link".to_owned());
        (0..300).for_each(|n| lines.push(format!("line {n}")));
        assert_eq!(lines.shown(2), ["dpkg: error: cannot make a link", "…", "line 298", "line 299"]);
        lines.push("an error.".to_owned());
        assert_eq!(lines.shown(1), ["dpkg: error: cannot make a link", "…", "an error."]);
        let mut few = Lines::default();
        few.push("Error 1".to_owned());
        assert_eq!(few.shown(20), ["Error 1"], "nothing is shown twice");
        for (line, is) in [
            ("E: error creating symbolic link", true),
            ("ERROR", true),
            ("make: *** [Makefile:2: x] Error 1", true),
            ("2 errors generated", true),
            ("TypeError: x", false),
            ("see /var/log/error.log", false),
            ("terror", false),
        ] {
            assert_eq!(names_an_error(line), is, "{line}");
        }
    }

    #[test]
    fn each_line_is_news_for_a_follower() {
        let (output, _events) = Output::forwarded();
        let mut written = output.written();
        for line in [Output::step, Output::note, Output::program] {
            assert!(!written.has_changed().expect("open"));
            line(&output, "text");
            assert!(written.has_changed().expect("open"));
            written.mark_unchanged();
        }
    }

    #[test]
    fn forwarded_output_reads_the_same_in_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let [near, far] = ["near", "far"].map(|name| folder.path().join(name));
        let (sender, mut events) = Output::forwarded();
        let [direct, received] = [&near, &far].map(|path| Output::to(path));
        for output in [&sender, &direct] {
            output.step("Building");
            output.note("a note");
            output.program("10%\r100%");
        }
        while let Ok(event) = events.try_recv() {
            received.take(event);
        }
        let text = |path: &Path| std::fs::read_to_string(path).expect("read");
        assert_eq!(text(&near), "-----> Building\n       a note\n       100%\n");
        assert_eq!(text(&far), text(&near));
        assert_eq!(received.tail(1), ["100%"]);
    }

    #[test]
    fn drops_forwarded_output_above_the_limit_and_keeps_the_tail() {
        let (output, mut events) = Output::forwarded();
        let line = "x".repeat(1 << 20);
        (0..20).for_each(|_| output.program(&line));
        output.program("the end");
        let mut sent = 0;
        while let Ok(event) = events.try_recv() {
            assert!(matches!(&event, OutputEvent::Program(text) if *text == line));
            sent += 1;
        }
        assert_eq!(sent, 16);
        assert_eq!(output.tail(1), ["the end"]);
    }

    proptest! {
        #[test]
        fn removes_terminal_control_sequences(line in "[\\x1b\\[\\]0-9;mGK\\x07\\x08\\x0da-z\\u{9b}\\u{9c} ]{0,60}") {
            prop_assert!(plain(&line).chars().all(|c| !c.is_control()));
        }
    }
}
