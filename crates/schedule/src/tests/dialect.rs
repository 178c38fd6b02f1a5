//! Meaning of expressions, and refused expressions.

use gantry_model::Moment;

use super::{at, cron, times};
use crate::{Cron, InvalidSchedule, Schedule, Zone};

/// The next days at midnight UTC, from 2026-11-01, a Sunday.
fn days(day: &str, month: &str, weekday: &str, most: usize) -> Vec<String> {
    let found = times(&format!("0 0 {day} {month} {weekday}"), "UTC", "2026-11-01T00:00:00Z", most);
    found.into_iter().map(|time| time[..5].to_owned()).collect()
}

#[test]
fn days_of_month_and_week() {
    for (day, weekday, expected) in [
        ("13", "FRI", ["11-06", "11-13", "11-20"]),
        ("13", "*", ["11-13", "12-13", "01-13"]),
        ("*", "5", ["11-06", "11-13", "11-20"]),
        // A field that begins with `*` or `?` leaves the choice to the other one.
        ("*/2", "FRI", ["11-13", "11-27", "12-11"]),
        ("?", "MON-WED", ["11-02", "11-03", "11-04"]),
        ("1-7", "*/7", ["11-01", "12-06", "01-03"]),
        ("*", "7", ["11-01", "11-08", "11-15"]),
        ("*", "0,sun", ["11-01", "11-08", "11-15"]),
        ("*", "5-7", ["11-01", "11-06", "11-07"]),
        ("L", "*", ["11-30", "12-31", "01-31"]),
        ("LW", "*", ["11-30", "12-31", "01-29"]),
        ("1W", "*", ["11-02", "12-01", "01-01"]),
        ("15W", "*", ["11-16", "12-15", "01-15"]),
        ("*", "5#2", ["11-13", "12-11", "01-08"]),
        ("*", "MON#5", ["11-30", "03-29", "05-31"]),
        ("*", "5L", ["11-27", "12-25", "01-29"]),
        ("*", "FRI#L", ["11-27", "12-25", "01-29"]),
    ] {
        assert_eq!(days(day, "*", weekday, 3), expected, "{day} * {weekday}");
    }
    assert_eq!(days("1", "jan,JUL", "*", 2), ["01-01", "07-01"]);
}

#[test]
fn seconds_stand_first_and_words_are_short_forms() {
    assert_eq!(
        times("*/20 0 12 * * *", "UTC", "2026-11-01T00:00:00Z", 3),
        ["11-01 12:00+00:00", "11-01 12:00:20 +00:00", "11-01 12:00:40 +00:00"]
    );
    for (word, expected) in [
        ("@hourly", "11-01 13:00+00:00"),
        ("@daily", "11-02 00:00+00:00"),
        ("@midnight", "11-02 00:00+00:00"),
        ("@weekly", "11-08 00:00+00:00"),
        ("@monthly", "12-01 00:00+00:00"),
        ("@yearly", "01-01 00:00+00:00"),
    ] {
        assert_eq!(times(word, "UTC", "2026-11-01T12:30:00Z", 1), [expected], "{word}");
    }
}

#[test]
fn refuses_with_the_remedy() {
    for (text, expected) in [
        ("* * * *", "is not a cron expression: write minute"),
        ("* * * * * * *", "is not a cron expression"),
        ("", "is not a cron expression"),
        ("60 * * * *", "\"60\" is not a valid minute; write 0 to 59"),
        ("* 24 * * *", "\"24\" is not a valid hour; write 0 to 23"),
        ("* * 0 * *", "\"0\" is not a valid day of the month; write 1 to 31"),
        ("* * * 13 *", "write 1 to 12, or a name such as JAN or MON"),
        ("* * * * Monday", "\"Monday\" is not a valid day of the week"),
        ("50-10 * * * *", "ends before it begins; write two ranges"),
        ("* * * * FRI-MON", "ends before it begins"),
        ("*/90 * * * *", "the step of \"*/90\" in the minute must be 1 to 59"),
        ("*/0 * * * *", "must be 1 to 59"),
        ("5/15 * * * *", "write 5-59/"),
        ("H * * * *", "\"H\" is not a valid minute"),
        ("+5 * * * *", "\"+5\" is not a valid minute"),
        ("1,,2 * * * *", "\"\" is not a valid minute"),
        ("* * L-2 * *", "\"L\" is not a valid day of the month"),
        ("* * * * 5#6", "\"6\" is not a valid week of a month"),
        ("@reboot", "\"@reboot\" is unknown"),
        ("CRON_TZ=UTC 0 6 * * *", "name the time zone beside the expression"),
        (&"1,".repeat(150), "at most 200 bytes"),
    ] {
        let refused = text.parse::<Cron>().expect_err(text).to_string();
        assert!(refused.contains(expected), "{text}: {refused}");
    }
    assert!("Europe/Nowhere".parse::<Zone>().is_err() && "../../etc/passwd".parse::<Zone>().is_err());
    assert_eq!("europe/berlin".parse::<Zone>().expect("a zone").as_str(), "Europe/Berlin");
}

#[test]
fn an_expression_without_times_is_refused_and_a_rare_time_is_found() {
    let now = at("2026-11-30T00:00:00Z");
    let check =
        |expression: &str, zone: &str| Schedule::cron(cron(expression), zone.parse().expect("a zone")).check(now);
    assert_eq!(check("0 0 30 2 *", "UTC"), Err(InvalidSchedule::Never));
    assert_eq!(check("0 0 31 4,6,9,11 *", "UTC"), Err(InvalidSchedule::Never));
    // Follows the clock, and that hour is in the gap each year.
    assert_eq!(check("*/10 2 ? 3 SUN#L", "Europe/Berlin"), Err(InvalidSchedule::Never));
    assert_eq!(times("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1), ["02-29 00:00+00:00"]);
    // The next 29 February on a Monday.
    assert_eq!(check("0 0 */28 2 MON", "UTC"), Ok(()));
    let mut over = Schedule::cron(cron("@daily"), Zone::utc());
    over.end = Some(Moment(now.0 - 1));
    assert_eq!(over.check(now), Err(InvalidSchedule::Never));
    over.count = Some(0);
    assert_eq!(over.check(now), Err(InvalidSchedule::NoRuns));
}

#[test]
fn a_schedule_round_trips_through_text() {
    let text = r#"{"cron":"0 6 * * *","timezone":"Europe/Paris","start":5,"missed":"all","overlap":"forbid"}"#;
    let schedule: Schedule = serde_json::from_str(text).expect("a schedule");
    assert_eq!(serde_json::to_string(&schedule).expect("text"), text);
    for (wrong, told) in [
        (r#"{"every":5,"cron":"@daily"}"#, "not both"),
        (r#"{"every":5,"timezone":"UTC"}"#, "an interval has none"),
        ("{}", "needs a cron expression"),
        (r#"{"every":5,"never":1}"#, "unknown field"),
    ] {
        let error = serde_json::from_str::<Schedule>(wrong).expect_err(wrong).to_string();
        assert!(error.contains(told), "{error}");
    }
}
