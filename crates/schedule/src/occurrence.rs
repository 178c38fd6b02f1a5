//! From an expression and a zone to instants.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::{Cron, Zone};

/// Maximum number of changes of a zone's clock that a search looks across: 400 years with four changes each.
const CHANGES_MAX: usize = 1600;

/// More than the largest offset from UTC.
const LARGEST_OFFSET: SignedDuration = SignedDuration::from_hours(26);

impl Cron {
    /// The first instant after `after` at which the expression is due, both in seconds since 1970. None if there is none.
    pub(crate) fn next_after(&self, zone: &Zone, after: i64) -> Option<i64> {
        let from = Timestamp::from_second(after.checked_add(1)?).ok()?;
        let due =
            if self.is_fixed() { self.next_fixed(zone.rules(), from) } else { self.next_moving(zone.rules(), from) };
        due.map(Timestamp::as_second)
    }

    /// The next fixed time: each wall clock time has exactly one instant, so none is lost or doubled.
    fn next_fixed(&self, zone: &TimeZone, from: Timestamp) -> Option<Timestamp> {
        let mut civil = self.next_civil(zone.to_datetime(from))?;
        loop {
            let at = instant(zone, civil)?;
            if at >= from {
                return Some(at);
            }
            // The first pass of a repeated hour is over.
            civil = self.next_civil(civil.checked_add(SignedDuration::from_secs(1)).ok()?)?;
        }
    }

    /// The next time that the clock shows: between two changes of the clock, wall clock times and instants run alike.
    fn next_moving(&self, zone: &TimeZone, mut from: Timestamp) -> Option<Timestamp> {
        for _ in 0..CHANGES_MAX {
            let offset = zone.to_offset(from);
            let change = zone.following(from).next().map(|change| change.timestamp());
            let civil = self.next_civil(offset.to_datetime(from))?;
            let at = offset.to_timestamp(civil).ok()?;
            match change {
                Some(change) if at >= change => from = change,
                _ => return Some(at),
            }
        }
        None
    }
}

/// The first instant at which the wall clock shows this time or a later one.
fn instant(zone: &TimeZone, civil: DateTime) -> Option<Timestamp> {
    // Every wall clock still shows an earlier time.
    let mut from = Offset::UTC.to_timestamp(civil).ok()?.checked_sub(LARGEST_OFFSET).ok()?;
    for _ in 0..CHANGES_MAX {
        let at = zone.to_offset(from).to_timestamp(civil).ok()?.max(from);
        match zone.following(from).next().map(|change| change.timestamp()) {
            Some(change) if at >= change => from = change,
            _ => return Some(at),
        }
    }
    None
}
