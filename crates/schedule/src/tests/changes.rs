//! Known changes of clocks. The expectations are those of Debian's cron, except where two times meet.

use super::times;

/// Europe/Berlin: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00.
const FORWARD: &str = "2026-03-28T23:00:00Z";
const BACK: &str = "2026-10-24T22:00:00Z";

#[test]
fn a_fixed_time_in_the_gap_is_due_after_it() {
    for expression in ["30 2 * * *", "0,30 2 * * *", "0-59/20 2 * * *", "15-45 2 * * *"] {
        assert_eq!(times(expression, "Europe/Berlin", FORWARD, 1), ["03-29 03:00+02:00"], "{expression}");
    }
    // Times that meet are due once, also with a real 03:00.
    assert_eq!(times("30 2,3 * * *", "Europe/Berlin", FORWARD, 2), ["03-29 03:00+02:00", "03-29 03:30+02:00"]);
    assert_eq!(times("0 2,3 * * *", "Europe/Berlin", FORWARD, 2), ["03-29 03:00+02:00", "03-30 02:00+02:00"]);
    assert_eq!(times("30 2,14 * * *", "Europe/Berlin", FORWARD, 2), ["03-29 03:00+02:00", "03-29 14:30+02:00"]);
}

#[test]
fn a_fixed_time_that_the_clock_repeats_is_due_at_its_first_pass() {
    assert_eq!(times("30 2 * * *", "Europe/Berlin", BACK, 2), ["10-25 02:30+02:00", "10-26 02:30+01:00"]);
    assert_eq!(
        times("0,30 2 * * *", "Europe/Berlin", BACK, 3),
        ["10-25 02:00+02:00", "10-25 02:30+02:00", "10-26 02:00+01:00"]
    );
    // From the middle of the second pass.
    assert_eq!(times("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), ["10-26 02:30+01:00"]);
}

#[test]
fn other_expressions_follow_the_clock() {
    assert_eq!(
        times("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3),
        ["03-29 01:30+01:00", "03-29 03:30+02:00", "03-29 04:30+02:00"]
    );
    assert_eq!(
        times("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3),
        ["10-25 02:30+02:00", "10-25 02:30+01:00", "10-25 03:30+01:00"]
    );
    assert_eq!(times("30 */2 * * *", "Europe/Berlin", FORWARD, 2), ["03-29 00:30+01:00", "03-29 04:30+02:00"]);
    assert_eq!(times("*/15 2 * * *", "Europe/Berlin", FORWARD, 1), ["03-30 02:00+02:00"]);
    assert_eq!(times("*/15 2 * * *", "Europe/Berlin", BACK, 9).last().map(String::as_str), Some("10-26 02:00+01:00"));
}

#[test]
fn changes_of_half_an_hour_and_at_midnight() {
    // Lord Howe: 2026-10-04 02:00 becomes 02:30, 2026-04-05 02:00 becomes 01:30.
    let lord_howe = |expression, from, most| times(expression, "Australia/Lord_Howe", from, most);
    assert_eq!(lord_howe("15 2 * * *", "2026-10-03T13:00:00Z", 2), ["10-04 02:30+11:00", "10-05 02:15+11:00"]);
    assert_eq!(lord_howe("45 * * * *", "2026-10-03T15:00:00Z", 2), ["10-04 01:45+10:30", "10-04 02:45+11:00"]);
    assert_eq!(lord_howe("45 1 * * *", "2026-04-04T13:00:00Z", 2), ["04-05 01:45+11:00", "04-06 01:45+10:30"]);
    assert_eq!(
        lord_howe("45 * * * *", "2026-04-04T14:00:00Z", 3),
        ["04-05 01:45+11:00", "04-05 01:45+10:30", "04-05 02:45+10:30"]
    );
    // Cairo and Santiago have no midnight on the day of the change.
    assert_eq!(
        times("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", 2),
        ["04-24 01:00+03:00", "04-25 00:00+03:00"]
    );
    assert_eq!(
        times("@daily", "America/Santiago", "2026-09-05T12:00:00Z", 2),
        ["09-06 01:00-03:00", "09-07 00:00-03:00"]
    );
    // Apia had no 2011-12-30 at all.
    assert_eq!(times("0 9 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 1), ["12-31 00:00+14:00"]);
}
