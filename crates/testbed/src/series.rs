//! A series of kills: their number, and figures of their times.

use std::time::Duration;

/// Number of kills of a test: that in `GANTRY_TEST_KILLS`, 50 with `GANTRY_TEST_LONG`, else `short`.
///
/// # Panics
/// If the variable has no number.
#[must_use]
pub fn kills(short: usize) -> usize {
    let asked = std::env::var("GANTRY_TEST_KILLS").ok();
    let default = if std::env::var_os("GANTRY_TEST_LONG").is_some() { 50 } else { short };
    asked.map_or(default, |asked| asked.parse().expect("a number"))
}

/// The median, the 99th percentile and the longest of some times, which it sorts. There must be one.
#[must_use]
pub fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let millis = |part: usize| times[(times.len() * part).div_ceil(100).max(1) - 1].as_millis();
    format!("{} times; median {} ms, p99 {} ms, longest {} ms", times.len(), millis(50), millis(99), millis(100))
}
