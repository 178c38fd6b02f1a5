//! Properties over all zones and the changes of their clocks, checked against definitions that look at each
//! minute.

use std::collections::BTreeMap;

use gantry_model::Moment;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::{cron, zone};
use crate::{Cron, Progress, Schedule, Zone};

/// Half of the window around a change, in minutes.
const WINDOW: i64 = 200;

/// The changes of the clocks of all zones from 2000 to 2040: the second of the change, with a zone for each pair of
/// offsets before and after it.
fn changes() -> BTreeMap<(i64, i32, i32), Zone> {
    let from: Timestamp = "2000-01-01T00:00:00Z".parse().expect("a time");
    let to: Timestamp = "2040-01-01T00:00:00Z".parse().expect("a time");
    let mut changes = BTreeMap::new();
    for name in Zone::all() {
        let zone = zone(&name);
        for at in zone.rules().following(from).map(|change| change.timestamp()).take_while(|at| *at < to) {
            let second = at.as_second();
            let offset = |second| zone.rules().to_offset(Timestamp::from_second(second).expect("a time")).seconds();
            changes.entry((second, offset(second - 1), offset(second))).or_insert_with(|| zone.clone());
        }
    }
    changes
}

/// Minutes of a window, with what the wall clock shows: minutes since its own 1970.
fn shown(zone: &TimeZone, change: i64) -> Vec<(i64, i64)> {
    let minutes = (-WINDOW..WINDOW).map(|minute| change + minute * 60);
    let wall =
        |second: i64| second + i64::from(zone.to_offset(Timestamp::from_second(second).expect("a time")).seconds());
    minutes.map(|second| (second, wall(second) / 60)).collect()
}

fn found(expression: &str, zone: &Zone, from: i64, to: i64) -> Vec<i64> {
    let moment = |second: i64| Moment(u64::try_from(second).expect("after 1970") * 1000);
    let end = Some(moment(to - 1));
    let schedule = Schedule { end, ..Schedule::cron(cron(expression), zone.clone()) };
    let times = Progress::new(moment(from)).upcoming(&schedule, 2000);
    times.into_iter().map(|time| i64::try_from(time.0 / 1000).expect("small")).collect()
}

fn of_day(minute: i64) -> (i64, i64) {
    (minute.rem_euclid(1440) / 60, minute.rem_euclid(60))
}

/// Checks one change with a minute and an hour near it.
fn check(zone: &Zone, change: i64, minutes: &[i64], shift: i64) {
    let shown = shown(zone.rules(), change);
    let (from, to) = (shown[0].0, shown[shown.len() - 1].0);
    let list = minutes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    // Hours around the change.
    let middle = of_day(shown[usize::try_from(WINDOW + shift).expect("in the window")].1).0;
    let hours = [middle, (middle + 1) % 24];
    let matches = |wall: i64| {
        let (hour, minute) = of_day(wall);
        hours.contains(&hour) && minutes.contains(&minute)
    };
    // A fixed time is due at the first minute at which the clock shows it or a later time.
    let mut fixed = Vec::new();
    let mut highest = shown[0].1 - 1;
    for (second, wall) in &shown {
        if *wall > highest {
            if (highest + 1..=*wall).any(matches) {
                fixed.push(*second);
            }
            highest = *wall;
        }
    }
    let expression = format!("{list} {},{} * * *", hours[0], hours[1]);
    assert_eq!(found(&expression, zone, from, to), within(&fixed, to), "{expression} in {zone}, {change}");
    // Any other expression is due whenever the clock shows its time.
    let moving: Vec<i64> =
        shown.iter().filter(|(_, wall)| minutes.contains(&of_day(*wall).1)).map(|(second, _)| *second).collect();
    let expression = format!("{list} * * * *");
    assert_eq!(found(&expression, zone, from, to), within(&moving, to), "{expression} in {zone}, {change}");
}

fn within(times: &[i64], to: i64) -> Vec<i64> {
    times.iter().copied().filter(|time| *time < to).collect()
}

#[test]
fn every_change_of_every_zone() {
    let changes = changes();
    assert!(changes.len() > 2000, "{}", changes.len());
    for (place, ((change, _, _), zone)) in changes.iter().enumerate() {
        // Each change sees other minutes and hours.
        let place = i64::try_from(place).expect("small");
        check(zone, *change, &[place % 60, (place * 7 + 13) % 60], place % 5 * 30 - 60);
    }
}

proptest! {
    #[test]
    fn the_next_time_is_after_the_last(
        fields in ("[0-9]|[1-5][0-9]|\\*|\\*/7", "[0-9]|1[0-9]|\\*|\\*/5", "[1-9]|L|15W|\\*", "[1-9]|\\*", "[0-6]|5L|2#3|\\*"),
        from in 1_700_000_000u64..4_000_000_000,
        name in proptest::sample::select(Zone::all().collect::<Vec<_>>()),
    ) {
        let (minute, hour, day, month, weekday) = fields;
        let expression: Cron = cron(&format!("{minute} {hour} {day} {month} {weekday}"));
        let schedule = Schedule::cron(expression, zone(&name));
        let times = Progress::new(Moment(from * 1000)).upcoming(&schedule, 20);
        prop_assert!(times.first().is_none_or(|first| first.0 >= from * 1000));
        prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn no_text_panics(text in "[-0-9*/,#LW?@A-Z ]{0,40}") {
        if let Ok(parsed) = text.parse::<Cron>() {
            let again: Cron = parsed.as_str().parse().expect("parses again");
            prop_assert_eq!(&again, &parsed);
            let _ = Progress::new(Moment(1_790_000_000_000)).next(&Schedule::cron(parsed, Zone::utc()));
        }
    }
}
