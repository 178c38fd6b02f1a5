//! The time of each file of a source tree, as the compile step, the image and its HTTP clients see it.
//!
//! Rule: an entry keeps its time while its content and mode stay what they were in the build before. An entry that is new or has
//! changed gets the commit's date, but never a time before the end of the build before, nor one after now.
//!
//! - What a compile step left in its cache was written before the end of its build. A changed file is therefore newer than
//!   everything that was made from its predecessor, whatever the dates of the commits are: an older commit, a force push, a rebase.
//! - An unchanged file is older than what was made from it, so `make` and cargo do not make it again.
//! - The same commit built again gets the same times, so its layers have the same digests. So has the first build of a commit
//!   by another app or cloud: nothing of the machine is in it but the commit's own date.
//! - Whoever served the predecessor of a changed file and compares times (`If-Modified-Since`) sees a newer one.
//!
//! The time of the build itself follows the same rule, for the pair of commit and base. No file of the compile step's layer is
//! newer than that, and the step finds it as `SOURCE_DATE_EPOCH`.
//!
//! Rejected: the date of the last commit that changed a file (a file that was committed before the last build ended is older
//! than what that build made; `git push --force` goes back in time); the time at which the server first saw a blob
//! at a path (going back to an old blob, it is older than what was made from the newer one); the time of the build (no two builds
//! of a commit are the same).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::Path;

/// A path or a content, as the first half of its SHA-256.
pub(crate) type Print = u128;

/// 1980-01-02: a zip file has no earlier time, in any time zone.
pub(crate) const EARLIEST: u64 = 315_619_200;

/// The largest record that is read: two entries of 100 bytes for each file that a tree may have.
const RECORD_MAX: u64 = 100 << 20;

const FORMAT: &str = "gantry file times 1";

/// The times of one app's last build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// By path: what was there, and since when.
    entries: HashMap<Print, (Print, u64)>,
    /// No build of the app wrote anything later than this, as far as is known.
    latest: u64,
    /// A compile step was started, and its end is not known.
    open: bool,
}

impl Times {
    /// Of a cache of which nothing is known: anything in it may be as new as now.
    pub(crate) fn unknown() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// The times of the next build: of `entries`, at a commit of the time `committed`. `open` says that a compile step follows.
    pub(crate) fn next(&self, entries: &HashMap<Print, Print>, committed: u64, now: u64, open: bool) -> Self {
        let after = self.latest.saturating_add(1).max(if self.open { now.saturating_add(1) } else { 0 });
        let fresh = committed.max(EARLIEST).min(now).max(after);
        let time = |path: &Print, print: &Print| match self.entries.get(path) {
            Some((before, time)) if before == print => *time,
            _ => fresh,
        };
        let entries = entries.iter().map(|(path, print)| (*path, (*print, time(path, print)))).collect();
        Self { entries, latest: self.latest.max(fresh).max(now), open }
    }

    /// The compile step has ended.
    pub(crate) fn close(&mut self, now: u64) {
        self.latest = self.latest.max(now);
        self.open = false;
    }

    /// The time of a path.
    pub(crate) fn of(&self, path: Print) -> u64 {
        self.entries.get(&path).map_or(EARLIEST, |(_, time)| *time)
    }

    /// The newest of all.
    pub(crate) fn newest(&self) -> u64 {
        self.entries.values().map(|(_, time)| *time).max().unwrap_or(EARLIEST)
    }

    /// Reads the record of an app; none where there is no whole one.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(RECORD_MAX).read_to_string(&mut text).ok()?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix("end\n")?.lines();
        let mut head = lines.next()?.strip_prefix(FORMAT)?.split_whitespace();
        let latest = head.next()?.parse().ok()?;
        let open = head.next()? == "open";
        let entries = lines.map(|line| {
            let mut words = line.split(' ');
            let mut print = || Print::from_str_radix(words.next()?, 16).ok();
            let (path, content) = (print()?, print()?);
            Some((path, (content, words.next()?.parse().ok()?)))
        });
        Some(Self { entries: entries.collect::<Option<_>>()?, latest, open })
    }

    fn text(&self) -> String {
        let state = if self.open { "open" } else { "closed" };
        let mut text = format!("{FORMAT} {} {state}\n", self.latest);
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_unstable();
        for (path, (content, time)) in entries {
            let _ = writeln!(text, "{path:032x} {content:032x} {time}");
        }
        text.push_str("end\n");
        text
    }

    /// Keeps the record, by way of the folder `scratch`: after a loss of power there is this one or the one before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, path: &Path, scratch: &Path) -> io::Result<()> {
        let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
        let mut file = tempfile::NamedTempFile::new_in(scratch)?;
        file.write_all(self.text().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        std::fs::File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(entries: &[(Print, Print)]) -> HashMap<Print, Print> {
        entries.iter().copied().collect()
    }

    const A: u64 = 1_000_000_000;

    #[test]
    fn a_first_build_has_the_commit_s_date_wherever_it_is() {
        let one = Times::default().next(&tree(&[(1, 10), (2, 20)]), A, A + 500, true);
        let other = Times::default().next(&tree(&[(1, 10), (2, 20)]), A, A + 9000, true);
        assert_eq!([one.of(1), one.of(2), one.newest()], [A; 3]);
        assert_eq!(one.entries, other.entries);
        // A date of the future would make everything older than its source, and zip has none before 1980.
        assert_eq!(Times::default().next(&tree(&[(1, 10)]), A + 9, A, true).of(1), A);
        assert_eq!(Times::default().next(&tree(&[(1, 10)]), 0, A, true).of(1), EARLIEST);
    }

    #[test]
    fn a_changed_file_is_newer_than_what_the_build_before_made_and_an_unchanged_one_keeps_its_time() {
        let mut before = Times::default().next(&tree(&[(1, 10), (2, 20)]), A, A + 100, true);
        before.close(A + 160);
        // Committed before the build before had ended.
        let after = before.next(&tree(&[(1, 11), (2, 20)]), A + 50, A + 300, true);
        assert_eq!((after.of(1), after.of(2)), (A + 161, A));
        // Back to the older content: newer again.
        let mut after = after;
        after.close(A + 320);
        let back = after.next(&tree(&[(1, 10), (2, 20)]), A, A + 400, true);
        assert_eq!((back.of(1), back.of(2)), (A + 321, A));
        // The same again: the same times.
        assert_eq!(back.next(&tree(&[(1, 10), (2, 20)]), A, A + 500, true).entries, back.entries);
        // Gone and back: what was made from it may have been made without it meanwhile.
        let without = back.next(&tree(&[(2, 20)]), A + 600, A + 600, false);
        assert!(without.next(&tree(&[(1, 10), (2, 20)]), A, A + 700, false).of(1) > without.latest);
    }

    #[test]
    fn a_build_whose_end_is_not_known_may_have_written_until_now() {
        let before = Times::default().next(&tree(&[(1, 10)]), A, A + 100, true);
        assert_eq!(before.next(&tree(&[(1, 11)]), A + 110, A + 200, true).of(1), A + 201);
        assert_eq!(Times::unknown().next(&tree(&[(1, 11)]), A, A + 200, true).of(1), A + 201);
        // Within the second of the end of the build before, and with a clock that went back.
        let mut before = before;
        before.close(A + 200);
        assert_eq!(before.next(&tree(&[(1, 11)]), A + 200, A + 200, true).of(1), A + 201);
        assert_eq!(before.next(&tree(&[(1, 11)]), A, A - 5000, true).of(1), A + 201);
    }

    #[test]
    fn a_record_that_is_not_whole_is_none() {
        let times = Times::default().next(&tree(&[(1, 10), (u128::MAX, 20)]), A, A, true);
        let text = times.text();
        assert_eq!(Times::parse(&text), Some(times.clone()));
        for cut in [0, 10, text.len() / 2, text.len() - 1] {
            assert_eq!(Times::parse(&text[..cut]), None);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shop");
        assert_eq!(Times::read(&path), None);
        times.write(&path, folder.path()).expect("written");
        assert_eq!(Times::read(&path), Some(times));
    }

    proptest! {
        /// Any history of trees, dates, clocks and compile steps that were cut off: no changed file is older than what was
        /// there when the build before it ended, and no unchanged one changes.
        #[test]
        fn no_changed_file_is_older_than_the_build_before(
            builds in prop::collection::vec((0u128..3, 0u128..3, A - 1000..A + 1000, 0u64..50, any::<bool>()), 1..20),
        ) {
            let (mut times, mut now, mut seen) = (Times::default(), A, HashMap::new());
            for (one, other, committed, passes, ends) in builds {
                let written = now;
                now += passes;
                let wanted = tree(&[(1, one), (2, other)]);
                let next = times.next(&wanted, committed, now, true);
                for (path, print) in &wanted {
                    match seen.get(path) {
                        Some(before) if before == print => prop_assert_eq!(next.of(*path), times.of(*path)),
                        Some(_) => prop_assert!(next.of(*path) > written),
                        None => {}
                    }
                }
                // A compile step waits for the newest time, and writes afterwards.
                now = now.max(next.newest());
                times = next;
                if ends {
                    times.close(now);
                }
                seen = wanted;
            }
        }

        #[test]
        fn any_record_is_read_or_none(text in "(gantry file times 1 )?[0-9a-f opencl\n]{0,80}(end\n)?") {
            let _ = Times::parse(&text);
        }
    }
}
