//! A clock for durations: the clock advances with the kernel's monotonic clock and shows the wall clock's time.
//!
//! A stamp on disk is a [`Moment`] of the wall clock, because people read the stamp and a reboot must not invalidate
//! it. A duration must not be measured with the wall clock, which an administrator, NTP or a resumed virtual machine moves.
//! [`SteadyClock`] solves both:
//! - [`SteadyClock::now`] never jumps.
//! - [`SteadyClock::jump`] reports by how much the wall clock jumped.
//! - The owner of a [`SteadyClock`] then shifts its stamps by the same amount, and calls [`SteadyClock::follow`].
//!
//! The module is pure: the caller reads the kernel's clocks.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Moment;

/// Smallest difference between wall clock and monotonic clock that counts as a jump, in milliseconds: NTP slews by
/// less.
pub const TOLERANCE: u64 = 1000;

/// A reading of the kernel's clocks at one moment, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The wall clock (`CLOCK_REALTIME`).
    pub wall: Moment,
    /// Time since boot without suspension (`CLOCK_MONOTONIC`).
    pub awake: u64,
    /// Time since boot including suspension (`CLOCK_BOOTTIME`).
    pub booted: u64,
}

/// A jump of the wall clock, detected with the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockJump {
    /// When the jump was detected, by the wall clock after the jump.
    pub at: Moment,
    /// Size of the jump in milliseconds; negative if the clock went back.
    pub by: i64,
    /// The part of the jump during which the machine was suspended, in milliseconds.
    #[serde(default)]
    pub suspended: u64,
}

impl ClockJump {
    /// Forward jump of the clock, in milliseconds; zero if the clock went back.
    #[must_use]
    pub fn forward(&self) -> u64 {
        u64::try_from(self.by).unwrap_or_default()
    }
}

impl fmt::Display for ClockJump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.by < 0 { "back" } else { "forward" };
        if self.suspended >= TOLERANCE {
            write!(f, "the machine was suspended for {}", ExactSpan(self.suspended))?;
            let rest = self.by.saturating_sub_unsigned(self.suspended);
            if rest.unsigned_abs() < TOLERANCE {
                return Ok(());
            }
            let way = if rest < 0 { "back" } else { "forward" };
            return write!(f, ", and its clock went {way} by {}", ExactSpan(rest.unsigned_abs()));
        }
        write!(f, "the clock of the machine went {way} by {}", ExactSpan(self.by.unsigned_abs()))
    }
}

/// A span in milliseconds, displayed for people: `1 h 5 min`, `90 s`.
struct ExactSpan(u64);

impl fmt::Display for ExactSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.saturating_add(500) / 1000;
        let two = |large: u64, name: &str, small: u64, less: &str| match small {
            0 => format!("{large} {name}"),
            _ => format!("{large} {name} {small} {less}"),
        };
        f.write_str(&match seconds {
            0..120 => format!("{seconds} s"),
            120..3600 => two(seconds / 60, "min", seconds % 60, "s"),
            3600..172_800 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
            _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
        })
    }
}

/// Number of jumps that [`ClockJumps`] keeps.
const JUMPS_MAX: usize = 16;

/// Time that `gantry why` mentions a jump, in milliseconds.
const RECENT_MILLIS: u64 = 3_600_000;

/// The jumps that this process detected, oldest first, each with the time of its detection (`CLOCK_MONOTONIC`, in
/// milliseconds).
#[derive(Debug, Clone, Default)]
pub struct ClockJumps(Vec<(u64, ClockJump)>);

impl ClockJumps {
    /// Adds a jump that was detected at `awake`.
    pub fn push(&mut self, awake: u64, jump: ClockJump) {
        if self.0.len() == JUMPS_MAX {
            // The oldest jump is merged into the next. Files may then look too young, but never too old.
            let (_, first) = self.0.remove(0);
            if let Some((_, next)) = self.0.first_mut() {
                next.by = next.by.saturating_add_unsigned(first.forward());
            }
        }
        self.0.push((awake, jump));
    }

    /// The last jump.
    #[must_use]
    pub fn last(&self) -> Option<ClockJump> {
        self.0.last().map(|(_, jump)| *jump)
    }

    /// The last jump, if it is recent enough to mention to users.
    #[must_use]
    pub fn recent(&self, now: Moment) -> Option<ClockJump> {
        self.last().filter(|jump| now.since(jump.at) < RECENT_MILLIS)
    }

    /// The earliest stamp that an event at or after `since` may carry. The result is before `since` if the wall clock
    /// went forward between `since` and `now`.
    #[must_use]
    pub fn earliest_stamp(&self, now: Moment, since: Moment) -> Moment {
        // The fold runs from the newest jump back: each jump inside the window widens the window.
        let widen = |since: Moment, jump: &ClockJump| {
            if jump.at >= since && jump.at <= now { since.moved(jump.by.max(0).saturating_neg()) } else { since }
        };
        self.0.iter().rev().fold(since, |since, (_, jump)| widen(since, jump))
    }

    /// Returns how far the wall clock went forward within the last `window`. An age measured with the wall clock may be
    /// too large by this amount.
    #[must_use]
    pub fn forward_within(&self, awake: u64, window: Duration) -> Duration {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let recent = self.0.iter().filter(|(seen, _)| awake.saturating_sub(*seen) <= window);
        Duration::from_millis(recent.fold(0, |sum, (_, jump)| sum.saturating_add(jump.forward())))
    }
}

/// The clock of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SteadyClock {
    anchor: ClockReading,
}

impl SteadyClock {
    /// Creates a clock that shows the wall clock's current time.
    #[must_use]
    pub const fn new(now: ClockReading) -> Self {
        Self { anchor: now }
    }

    /// Creates a clock for records whose newest stamp is `newest`. If the wall clock is behind that stamp, the clock goes
    /// on from the stamp, and [`SteadyClock::jump`] reports the difference.
    #[must_use]
    pub fn after(now: ClockReading, newest: Moment) -> Self {
        Self { anchor: ClockReading { wall: now.wall.max(newest), ..now } }
    }

    /// The current time: the wall clock's time at the last call of [`SteadyClock::follow`], plus the time since that
    /// call.
    #[must_use]
    pub fn now(&self, reading: ClockReading) -> Moment {
        Moment(self.anchor.wall.0.saturating_add(reading.awake.saturating_sub(self.anchor.awake)))
    }

    /// The jump of the wall clock since the last call of [`SteadyClock::follow`]; `None` while both clocks agree.
    #[must_use]
    pub fn jump(&self, reading: ClockReading) -> Option<ClockJump> {
        let by = i64::try_from(i128::from(reading.wall.0) - i128::from(self.now(reading).0)).ok()?;
        let since = |now: u64, then: u64| now.saturating_sub(then);
        let suspended =
            since(reading.booted, self.anchor.booted).saturating_sub(since(reading.awake, self.anchor.awake));
        (by.unsigned_abs() >= TOLERANCE).then_some(ClockJump { at: reading.wall, by, suspended })
    }

    /// Continues from the wall clock's time of this reading.
    pub fn follow(&mut self, reading: ClockReading) {
        self.anchor = reading;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: ClockReading = ClockReading { wall: Moment(1_000_000_000), awake: 50_000, booted: 60_000 };

    /// The reading after `awake` seconds awake and `slept` seconds suspended, with the wall clock moved by `moved`
    /// seconds.
    fn later(awake: u64, slept: u64, moved: i64) -> ClockReading {
        let wall = START.wall.0 + (awake + slept) * 1000;
        ClockReading {
            wall: Moment(wall.saturating_add_signed(moved * 1000)),
            awake: START.awake + awake * 1000,
            booted: START.booted + (awake + slept) * 1000,
        }
    }

    #[test]
    fn the_time_never_jumps_and_each_jump_is_described() {
        for (slept, moved, expected) in [
            (0, -3600, "the clock of the machine went back by 1 h"),
            (0, 3700, "the clock of the machine went forward by 1 h 1 min"),
            (0, 11, "the clock of the machine went forward by 11 s"),
            (0, -40_000_000, "the clock of the machine went back by 11 d 13 h"),
            (7200, 0, "the machine was suspended for 2 h"),
            (90, -3600, "the machine was suspended for 90 s, and its clock went back by 1 h"),
            (90, 300, "the machine was suspended for 90 s, and its clock went forward by 5 min"),
        ] {
            let mut clock = SteadyClock::new(START);
            let reading = later(10, slept, moved);
            assert_eq!(clock.now(reading), Moment(START.wall.0 + 10_000), "{expected}");
            let jump = clock.jump(reading).expect(expected);
            // The subtraction saturates: 11 days before the epoch becomes the epoch itself.
            if moved > -40_000_000 {
                assert_eq!((jump.to_string().as_str(), jump.at), (expected, reading.wall));
            }
            clock.follow(reading);
            assert_eq!((clock.now(reading), clock.jump(reading)), (reading.wall, None));
        }
    }

    #[test]
    fn a_clock_after_a_stamp_in_the_future_reports_the_difference() {
        let ahead = SteadyClock::after(START, START.wall.moved(5_000));
        assert_eq!(ahead.now(later(10, 0, 0)), START.wall.moved(15_000));
        let jump = ahead.jump(later(10, 0, 0)).expect("a difference");
        assert_eq!((jump.by, jump.suspended), (-5_000, 0));
        assert_eq!(SteadyClock::after(START, START.wall.moved(-5_000)), SteadyClock::new(START));
        assert_eq!(
            SteadyClock::after(START, START.wall.moved(999)).jump(later(10, 0, 0)),
            None,
            "within the tolerance"
        );
    }

    #[test]
    fn a_slewed_clock_reports_no_jump() {
        let clock = SteadyClock::new(START);
        let slewed = ClockReading { wall: Moment(START.wall.0 + 10_999), ..later(10, 0, 0) };
        assert_eq!((clock.jump(later(86_400, 0, 0)), clock.jump(slewed)), (None, None));
        assert_eq!(clock.now(slewed), Moment(START.wall.0 + 10_000));
    }

    #[test]
    fn ignores_a_monotonic_clock_that_goes_back() {
        let clock = SteadyClock::new(START);
        let before = ClockReading { awake: START.awake - 1, ..START };
        assert_eq!(clock.now(before), START.wall);
    }

    fn jump(by: i64) -> ClockJump {
        ClockJump { at: Moment(1_000_000), by, suspended: 0 }
    }

    #[test]
    fn only_recent_forward_jumps_count_as_extra_age() {
        let mut jumps = ClockJumps::default();
        let hour = Duration::from_secs(3600);
        assert_eq!(jumps.forward_within(0, hour), Duration::ZERO);
        jumps.push(1000, jump(-5_000_000));
        jumps.push(2000, jump(7_200_000));
        jumps.push(3000, jump(1500));
        assert_eq!(jumps.forward_within(4000, hour), Duration::from_millis(7_201_500));
        assert_eq!(jumps.forward_within(4000, Duration::from_secs(1)), Duration::from_millis(1500));
        assert_eq!(jumps.forward_within(4_000_000, hour), Duration::ZERO);
        assert_eq!(jumps.last(), Some(jump(1500)));
        assert_eq!(
            (jumps.recent(Moment(1_000_000 + RECENT_MILLIS)), jumps.recent(Moment(0))),
            (None, Some(jump(1500)))
        );
    }

    #[test]
    fn finds_recent_stamps_after_the_clock_went_forward() {
        let mut jumps = ClockJumps::default();
        let minutes = |n: u64| Moment(1_000_000_000 + n * 60_000);
        // At minute 10 the clock jumped to minute 70, and three minutes later from 73 to 103.
        jumps.push(0, ClockJump { at: minutes(70), by: 3_600_000, suspended: 0 });
        jumps.push(0, ClockJump { at: minutes(103), by: 1_800_000, suspended: 0 });
        for (now, since, reaches) in
            [(104, 103, 73), (104, 100, 70 - 60), (104, 99, 69 - 60), (120, 104, 104), (80, 75, 75)]
        {
            let reach = jumps.earliest_stamp(minutes(now), minutes(since));
            assert_eq!(reach, minutes(reaches), "{now} {since}");
        }
        let mut back = ClockJumps::default();
        back.push(0, ClockJump { at: minutes(10), by: -3_600_000, suspended: 0 });
        assert_eq!(back.earliest_stamp(minutes(12), minutes(5)), minutes(5));
    }

    #[test]
    fn keeps_a_bounded_number_of_jumps_and_merges_the_oldest() {
        let mut jumps = ClockJumps::default();
        (0..100).for_each(|n| jumps.push(n, jump(2000)));
        assert_eq!(jumps.0.len(), JUMPS_MAX);
        assert_eq!(jumps.forward_within(100, Duration::from_secs(1)), Duration::from_secs(200));
    }
}
