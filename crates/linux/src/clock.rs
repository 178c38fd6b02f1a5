//! The kernel's clocks. `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` are the same for all processes of a machine, and restart
//! with each boot; [`boot_id`] identifies the boot.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Returns the wall clock in milliseconds since 1970. Users set this clock and NTP corrects it: never compute a
/// duration from it.
#[must_use]
pub fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time that the kernel stamps files with (`CLOCK_REALTIME_COARSE`). It is up to one timer tick (10 ms)
/// behind the wall clock, so a file written after [`wall`] was read may seem older than that reading.
#[must_use]
pub fn file_time() -> SystemTime {
    UNIX_EPOCH + read(ClockId::RealtimeCoarse)
}

/// Returns the time that this machine has been awake since it booted (`CLOCK_MONOTONIC`).
#[must_use]
pub fn awake() -> Duration {
    read(ClockId::Monotonic)
}

/// Returns the time since this machine booted, including suspended time (`CLOCK_BOOTTIME`).
#[must_use]
pub fn booted() -> Duration {
    read(ClockId::Boottime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// Returns the id of this boot; empty if the kernel does not provide the id.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance() {
        let (wall_before, before) = (wall(), awake());
        std::thread::sleep(Duration::from_millis(2));
        assert!(awake() > before && booted() >= before && wall() >= wall_before.saturating_sub(60_000));
        assert_eq!((boot_id().len(), boot_id()), (36, boot_id()));
    }

    #[test]
    fn a_new_file_is_never_older_than_the_file_time_before_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..2000 {
            let before = file_time();
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, "x").expect("written");
            let modified = path.metadata().and_then(|is| is.modified()).expect("a time");
            assert!(modified >= before, "{modified:?} {before:?}");
        }
    }
}
