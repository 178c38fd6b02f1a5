//! Free space on a disk, when to measure its usage again, and the space of deleted but open files.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Drop of the free space since the last measurement that makes a new measurement due, in bytes.
const REMEASURE_DROP: u64 = 64 << 20;

/// Longest time between two measurements.
const COUNT: Duration = Duration::from_secs(60);

/// Limit of open files that are examined in a group of processes.
const OPEN_MAX: usize = 200_000;

/// Measures the space of deleted files that the processes still have open, in bytes. Counts files on the file system of
/// each process's root and on that of the folder `besides`, until the sum exceeds `most`. Misses files that are only
/// mapped into memory, or on their way through a socket.
#[must_use]
pub fn nameless(processes: &[i32], besides: Option<&Path>, most: u64) -> u64 {
    let besides = besides.and_then(|folder| rustix::fs::stat(folder).ok()).map(|stat| stat.st_dev);
    let (mut seen, mut total, mut looks) = (BTreeSet::new(), 0u64, 0);
    for pid in processes {
        // These links are the kernel's own: they lead to the open file itself, and not along a path.
        let Ok(root) = rustix::fs::stat(format!("/proc/{pid}/root")) else { continue };
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            looks += 1;
            if looks > OPEN_MAX || total > most {
                return total;
            }
            let Ok(stat) = rustix::fs::stat(entry.path()) else { continue };
            if stat.st_nlink == 0
                && (stat.st_dev == root.st_dev || Some(stat.st_dev) == besides)
                && seen.insert((stat.st_dev, stat.st_ino))
            {
                total = total.saturating_add(u64::try_from(stat.st_blocks).unwrap_or_default() * 512);
            }
        }
    }
    total
}

/// Returns the bytes available to unprivileged users on the file system of `path`; 0 if the query fails.
#[must_use]
pub fn free(path: &Path) -> u64 {
    space(path).map_or(0, |(free, _)| free)
}

/// Returns the bytes available to unprivileged users on the file system of `path`, and its size.
///
/// # Errors
/// When the query fails.
pub fn space(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}

/// Reports whether the file system of the folder `path` takes no writes. It may be mounted read-only, remounted so
/// after an error that the kernel found, or failing. The function creates an unnamed file to find out, because not
/// every kernel marks a file system that it has stopped.
#[must_use]
pub fn is_read_only(path: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
    use rustix::io::Errno;
    let marked = rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    let made =
        || rustix::fs::open(path, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
    marked || matches!(made(), Err(Errno::ROFS | Errno::IO))
}

/// Decides when to measure disk usage: at first, when the free space has dropped, and at an interval. A check takes one
/// system call.
#[derive(Debug, Default)]
pub struct UsageSchedule {
    /// Time of the last measurement, and the most free space since then.
    counted: Option<(Instant, u64)>,
}

impl UsageSchedule {
    /// Reports whether a measurement is due with this much free space. If so, records the measurement as done.
    pub fn is_due(&mut self, free: u64, now: Instant) -> bool {
        let due =
            self.counted.is_none_or(|(at, then)| now.duration_since(at) >= COUNT || free + REMEASURE_DROP <= then);
        self.counted = match self.counted {
            // Space freed since the measurement must not hide later writes.
            Some((at, then)) if !due => Some((at, then.max(free))),
            _ => Some((now, free)),
        };
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_an_open_deleted_file_once() {
        use std::io::Write;
        let own = [i32::try_from(std::process::id()).expect("a number")];
        // Use a folder on the root's own file system, because temporary files may be on another.
        let path = Path::new("/var/tmp").join(format!("gantry-nameless-{}", own[0]));
        let mut file = std::fs::File::create_new(&path).expect("made");
        file.write_all(&[1; 8 << 20]).and_then(|()| file.sync_all()).expect("written");
        let named = nameless(&own, None, u64::MAX);
        std::fs::remove_file(&path).expect("removed");
        let twice = file.try_clone().expect("open");
        let held = nameless(&own, None, u64::MAX);
        assert!((8 << 20..16 << 20).contains(&(held - named)), "{held} with it, {named} without");
        assert!(nameless(&own, None, 4096) >= 4096 && nameless(&[-1], None, u64::MAX) == 0);
        drop((file, twice));
        assert!(nameless(&own, None, u64::MAX) < held);
    }

    #[test]
    fn measures_when_free_space_drops_and_at_an_interval() {
        let (mut watch, now) = (UsageSchedule::default(), Instant::now());
        assert!(watch.is_due(10 * REMEASURE_DROP, now) && !watch.is_due(10 * REMEASURE_DROP - 1, now));
        assert!(watch.is_due(9 * REMEASURE_DROP, now) && !watch.is_due(9 * REMEASURE_DROP, now));
        // One process removes data, and another writes as much.
        assert!(!watch.is_due(12 * REMEASURE_DROP, now) && watch.is_due(11 * REMEASURE_DROP, now));
        assert!(!watch.is_due(11 * REMEASURE_DROP, now + COUNT / 2) && watch.is_due(11 * REMEASURE_DROP, now + COUNT));
        assert!(!is_read_only(&std::env::temp_dir()));
        assert!(free(Path::new("/")) > 0 && free(Path::new("/nonexistent")) == 0);
    }
}
