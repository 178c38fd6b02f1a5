//! The space on a disk, and when it is worth while to count who takes it.

use std::path::Path;
use std::time::{Duration, Instant};

/// Less free space than at the last count is a reason to count.
const LESS: u64 = 64 << 20;

/// Counted at least so often.
const COUNT: Duration = Duration::from_secs(60);

/// The bytes that are free for anyone on the file system of `path`; 0 when it cannot be asked.
#[must_use]
pub fn free(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
}

/// Tells when to count what is written: at first, when the disk has less than before, and now and then. Looking takes one
/// system call.
#[derive(Debug, Default)]
pub struct Watch {
    /// When it was counted, and the most that was free since.
    counted: Option<(Instant, u64)>,
}

impl Watch {
    /// Whether to count now, with so much free; taken as counted then.
    pub fn is_due(&mut self, free: u64, now: Instant) -> bool {
        let due = self.counted.is_none_or(|(at, then)| now.duration_since(at) >= COUNT || free + LESS <= then);
        self.counted = match self.counted {
            // What became free since is not to hide what is written next.
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
    fn it_is_counted_when_the_disk_fills_and_now_and_then() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        assert!(watch.is_due(10 * LESS, now) && !watch.is_due(10 * LESS - 1, now));
        assert!(watch.is_due(9 * LESS, now) && !watch.is_due(9 * LESS, now));
        // Somebody removes something, and somebody else writes as much.
        assert!(!watch.is_due(12 * LESS, now) && watch.is_due(11 * LESS, now));
        assert!(!watch.is_due(11 * LESS, now + COUNT / 2) && watch.is_due(11 * LESS, now + COUNT));
        assert!(free(Path::new("/")) > 0 && free(Path::new("/nonexistent")) == 0);
    }
}
