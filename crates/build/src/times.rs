//! Modification time of each file of a source tree, for the compile step, the image and the app's HTTP clients.
//!
//! Rule: an entry keeps its time while its content and mode stay the same as in the previous build. A new or changed
//! entry gets the commit's date, but at most the present time. The time is always after the end of the previous build.
//!
//! - A compile step writes to its cache before its build ends. A changed file is therefore newer than every product of
//!   the file's earlier version. This rule holds for any commit date: an older commit, a force push, a rebase.
//! - An unchanged file is older than its products, so `make` and cargo do not rebuild the products.
//! - A second build of the same commit gets the same times, so its layers have the same digests. The same is true of
//!   the first build of a commit by another app or cloud: the times depend on the commit's date and not on the machine.
//! - An HTTP client that compares times (`If-Modified-Since`) sees a newer time for a changed file.
//!
//! The time of the build itself follows the same rule, for the pair of commit and base image. No file of the compile
//! step's layer is newer than this time, and the step gets the time as `SOURCE_DATE_EPOCH`.
//!
//! Rejected:
//! - The date of the last commit that changed a file. A file from a commit before the end of the last build would be
//!   older than the products of this build, and `git push --force` goes back in time.
//! - The time at which the server first saw a blob at a path. After a return to an old blob, the blob would be older
//!   than the products of the newer blob.
//! - The time of the build. No two builds of a commit would be the same.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::Path;

/// Fingerprint of a path or of a content: the first half of its SHA-256.
pub type Fingerprint = u128;

/// Earliest time: 1980-01-02. A zip file cannot hold an earlier time, in any time zone.
pub(crate) const EARLIEST: u64 = 315_619_200;

/// Size limit of a record: two entries of 100 bytes for each file of the largest tree.
const RECORD_MAX: u64 = 100 << 20;

const FORMAT: &str = "gantry file times 1";

/// File times of an app's last build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Times {
    /// Fingerprint and time of the content, by fingerprint of the path.
    entries: HashMap<Fingerprint, (Fingerprint, u64)>,
    /// High-water mark: as far as is known, no build of the app wrote a later time.
    latest: u64,
    /// True if a compile step was started whose end is unknown.
    open: bool,
}

impl Times {
    /// Times of a cache with an unknown history: any file in the cache may be as new as the present.
    #[must_use]
    pub fn unknown() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// Computes the times of the next build.
    ///
    /// `entries` are the fingerprints of the tree and `committed` is the date of the commit. `open` says that a compile
    /// step follows.
    pub(crate) fn next(
        &self,
        entries: &HashMap<Fingerprint, Fingerprint>,
        committed: u64,
        now: u64,
        open: bool,
    ) -> Self {
        let after = self.latest.saturating_add(1).max(if self.open { now.saturating_add(1) } else { 0 });
        let fresh = committed.max(EARLIEST).min(now).max(after);
        let time = |path: &Fingerprint, print: &Fingerprint| match self.entries.get(path) {
            Some((before, time)) if before == print => *time,
            _ => fresh,
        };
        let entries = entries.iter().map(|(path, print)| (*path, (*print, time(path, print)))).collect();
        Self { entries, latest: self.latest.max(fresh).max(now), open }
    }

    /// Records the end of the compile step.
    pub fn close(&mut self, now: u64) {
        self.latest = self.latest.max(now);
        self.open = false;
    }

    /// Time of a path.
    #[must_use]
    pub fn of(&self, path: Fingerprint) -> u64 {
        self.entries.get(&path).map_or(EARLIEST, |(_, time)| *time)
    }

    /// Newest time of all entries.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.entries.values().map(|(_, time)| *time).max().unwrap_or(EARLIEST)
    }

    /// Reads the record of an app; `None` if no complete record exists.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
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
            let mut print = || Fingerprint::from_str_radix(words.next()?, 16).ok();
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

    /// Writes the record through a temporary file in `scratch`. After a loss of power, either this record or the
    /// previous record exists.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, scratch: &Path) -> io::Result<()> {
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

    fn tree(entries: &[(Fingerprint, Fingerprint)]) -> HashMap<Fingerprint, Fingerprint> {
        entries.iter().copied().collect()
    }

    const A: u64 = 1_000_000_000;

    #[test]
    fn a_first_build_has_the_commit_s_date_wherever_it_is() {
        let one = Times::default().next(&tree(&[(1, 10), (2, 20)]), A, A + 500, true);
        let other = Times::default().next(&tree(&[(1, 10), (2, 20)]), A, A + 9000, true);
        assert_eq!([one.of(1), one.of(2), one.newest()], [A; 3]);
        assert_eq!(one.entries, other.entries);
        // A future date would make every product older than its source, and zip has no dates before 1980.
        assert_eq!(Times::default().next(&tree(&[(1, 10)]), A + 9, A, true).of(1), A);
        assert_eq!(Times::default().next(&tree(&[(1, 10)]), 0, A, true).of(1), EARLIEST);
    }

    #[test]
    fn a_changed_file_is_newer_than_what_the_build_before_made_and_an_unchanged_one_keeps_its_time() {
        let mut before = Times::default().next(&tree(&[(1, 10), (2, 20)]), A, A + 100, true);
        before.close(A + 160);
        // The commit is older than the end of the previous build.
        let after = before.next(&tree(&[(1, 11), (2, 20)]), A + 50, A + 300, true);
        assert_eq!((after.of(1), after.of(2)), (A + 161, A));
        // A return to the older content gets a newer time again.
        let mut after = after;
        after.close(A + 320);
        let back = after.next(&tree(&[(1, 10), (2, 20)]), A, A + 400, true);
        assert_eq!((back.of(1), back.of(2)), (A + 321, A));
        // The same tree gets the same times.
        assert_eq!(back.next(&tree(&[(1, 10), (2, 20)]), A, A + 500, true).entries, back.entries);
        // A file that returns is newer: meanwhile a build may have made its products without the file.
        let without = back.next(&tree(&[(2, 20)]), A + 600, A + 600, false);
        assert!(without.next(&tree(&[(1, 10), (2, 20)]), A, A + 700, false).of(1) > without.latest);
    }

    #[test]
    fn a_build_whose_end_is_not_known_may_have_written_until_now() {
        let before = Times::default().next(&tree(&[(1, 10)]), A, A + 100, true);
        assert_eq!(before.next(&tree(&[(1, 11)]), A + 110, A + 200, true).of(1), A + 201);
        assert_eq!(Times::unknown().next(&tree(&[(1, 11)]), A, A + 200, true).of(1), A + 201);
        // A build in the same second as the end of the previous build, and a build after the clock went back.
        let mut before = before;
        before.close(A + 200);
        assert_eq!(before.next(&tree(&[(1, 11)]), A + 200, A + 200, true).of(1), A + 201);
        assert_eq!(before.next(&tree(&[(1, 11)]), A, A - 5000, true).of(1), A + 201);
    }

    #[test]
    fn ignores_a_truncated_record() {
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
        /// Takes any history of trees, dates, clocks and interrupted compile steps. No changed file is older than the
        /// previous build's files at the end of that build, and no unchanged file changes its time.
        #[test]
        fn no_changed_file_is_older_than_the_build_before(
            builds in prop::collection::vec((0u128..3, 0u128..3, A - 1000..A + 1000, 0u64..50, any::<bool>()), 1..20),
        ) {
            let (mut times, mut now, mut seen) = (Times::default(), A, HashMap::new());
            for (one, other, committed, passes, ends) in builds {
                let written = now;
                now += passes;
                let expected = tree(&[(1, one), (2, other)]);
                let next = times.next(&expected, committed, now, true);
                for (path, print) in &expected {
                    match seen.get(path) {
                        Some(before) if before == print => prop_assert_eq!(next.of(*path), times.of(*path)),
                        Some(_) => prop_assert!(next.of(*path) > written),
                        None => {}
                    }
                }
                // A compile step waits until the clock reaches the newest time, and writes afterwards.
                now = now.max(next.newest());
                times = next;
                if ends {
                    times.close(now);
                }
                seen = expected;
            }
        }

        #[test]
        fn any_record_is_read_or_none(text in "(gantry file times 1 )?[0-9a-f opencl\n]{0,80}(end\n)?") {
            let _ = Times::parse(&text);
        }
    }
}
