//! Tests of the rules: by table for known dialects and clock changes, and properties over all zones.

mod changes;
mod dialect;
mod due_times;
mod properties;

use gantry_model::Moment;
use jiff::Timestamp;

use crate::{Cron, Progress, Schedule, Zone};

/// A moment, from RFC 3339.
fn at(text: &str) -> Moment {
    let timestamp: Timestamp = text.parse().expect("a time");
    Moment(u64::try_from(timestamp.as_millisecond()).expect("after 1970"))
}

fn cron(text: &str) -> Cron {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn zone(name: &str) -> Zone {
    name.parse().expect("a zone")
}

/// The next times after a moment, as the wall clock shows them: `03-29 03:00+02:00`.
fn times(expression: &str, zone_name: &str, from: &str, most: usize) -> Vec<String> {
    let zone = zone(zone_name);
    let schedule = Schedule::cron(cron(expression), zone.clone());
    let upcoming = Progress::new(at(from)).upcoming(&schedule, most);
    upcoming.into_iter().map(|moment| zone.wall_time(moment).replace(":00 ", "")[5..].to_owned()).collect()
}
