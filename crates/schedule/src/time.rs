//! Moments as text.

use gantry_model::Moment;
use jiff::Timestamp;

/// A moment in RFC 3339, in UTC and whole seconds.
#[must_use]
pub fn rfc3339(moment: Moment) -> String {
    let seconds = i64::try_from(moment.0 / 1000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// Parses a time in RFC 3339. None for any other text, and for times before 1970.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Moment> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Moment)
}
