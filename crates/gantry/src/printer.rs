//! Standard output for data: tables for people, JSON for programs.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use gantry_model::Moment;
use serde::Serialize;

/// Prints a line of data. If the reader has closed the pipe (`gantry … | head`), the program ends, as other programs
/// do.
macro_rules! out {
    ($($text:tt)*) => { $crate::printer::line(format_args!($($text)*)) };
}
pub(crate) use out;

/// Prints a status message for people on standard error. Write errors are ignored.
macro_rules! status {
    ($($text:tt)*) => { $crate::printer::print_status(&format!($($text)*)) };
}
pub(crate) use status;

/// The exit status that shells report for a program killed by SIGPIPE.
const CLOSED_PIPE: i32 = 141;

/// Prints a line of data; see [`out`].
pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    write(&plain(&text.to_string()));
}

/// Prints a value unchanged, or with control characters replaced if standard output is a terminal.
pub(crate) fn value(text: &str) {
    if std::io::stdout().is_terminal() { write(&plain(text)) } else { write(text) }
}

/// Prints `NAME=VALUE`, on one line if standard output is a terminal: a line end in the value could pass for another value.
pub(crate) fn assignment(name: &str, value: &str) {
    let value = if std::io::stdout().is_terminal() { one_line(value) } else { Cow::Borrowed(value) };
    out!("{name}={value}");
}

#[expect(clippy::disallowed_methods, reason = "a command whose output nobody reads has nothing left to do")]
fn write(text: &str) {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(CLOSED_PIPE),
        Err(error) => {
            status!("gantry: cannot write to standard output: {error}");
            std::process::exit(1);
        }
        Ok(()) => {}
    }
}

/// Prints a status message; see [`status`].
pub(crate) fn print_status(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(text));
}

/// Replaces the characters that control a terminal: applications produced much of this text.
fn plain(text: &str) -> Cow<'_, str> {
    let is_replaced = |c: char| steers(c) && c != '\n' && c != '\t';
    if text.contains(is_replaced) { Cow::Owned(text.replace(is_replaced, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// Reports whether a character controls a terminal, or the order in which the terminal shows other characters.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Makes a text of others fit for a part of one line. A line end in the text could pass for a line of Gantry.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if steers(c) => line.push('\u{fffd}'),
            c => line.push(c),
        }
    }
    Cow::Owned(line)
}

/// Prints named values, each on a line.
pub(crate) fn fields(width: usize, fields: impl IntoIterator<Item = (&'static str, String)>) {
    for (name, value) in fields {
        out!("{name:<width$} {}", one_line(&value));
    }
}

/// Prints a table; an empty table consists of its heading.
pub(crate) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let heading = heading.iter().map(|cell| cell.to_uppercase()).collect();
    let rows = rows.into_iter().map(|row| row.iter().map(|cell| one_line(cell).into_owned()).collect::<Vec<String>>());
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..).map_while(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out!("{}", cells.join("  ").trim_end());
    }
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    write(&escaped(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Prints a value as JSON in one line.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    write(&escaped(&serde_json::to_string(value)?));
    Ok(())
}

/// Escapes control characters in JSON. JSON allows some of them unescaped, and they could control a terminal.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() && c != '\n' {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// The time of this machine's clock.
pub(crate) fn now() -> Moment {
    Moment(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default())
}

/// Age of a moment: `12s`, `5m`, `3h`, `2d`.
pub(crate) fn age(moment: Moment) -> String {
    span(now().since(moment))
}

/// Time until a moment: `in 12s`, or `expired`.
pub(crate) fn time_until(moment: Moment) -> String {
    match moment.since(now()) {
        0 => "expired".to_owned(),
        millis => format!("in {}", span(millis)),
    }
}

/// Formats a span in a single unit.
pub(crate) fn span(millis: u64) -> String {
    match millis / 1000 {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// Formats a duration exactly: `45 s`, `1 h`, `1 h 30 min`, `2 days`.
pub(crate) fn duration(seconds: u64) -> String {
    let days = seconds / 86_400;
    let units = [
        (days, if days == 1 { "day" } else { "days" }),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let parts = units.into_iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count} {unit}"));
    let text = parts.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "0 s".to_owned() } else { text }
}

/// Formats a moment in this machine's time zone.
pub(crate) fn clock(moment: Moment) -> String {
    let millis = i64::try_from(moment.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(timestamp) => timestamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        Err(_) => moment.0.to_string(),
    }
}

/// Formats a value, or a dash for `None`.
pub(crate) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_each_unit_that_counts() {
        for (seconds, text) in [
            (0, "0 s"),
            (45, "45 s"),
            (90, "1 min 30 s"),
            (3600, "1 h"),
            (5400, "1 h 30 min"),
            (86_400, "1 day"),
            (2 * 86_400 + 61, "2 days 1 min 1 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn text_of_others_stays_on_one_line_and_steers_no_terminal() {
        let hostile = "base/a\n\tsha256:00  base/b\r\u{1b}[2J\u{9b}31m\u{202e}c\u{2028}";
        let line = one_line(hostile);
        assert_eq!(line, "base/a\\n\\tsha256:00  base/b\\r\u{fffd}[2J\u{fffd}31m\u{fffd}c\u{fffd}");
        assert_eq!(one_line("base/python é"), "base/python é");
        assert_eq!(plain("a\n\u{202e}b\u{7}"), "a\n\u{fffd}b\u{fffd}");
    }

    #[test]
    fn json_says_every_value_and_steers_no_terminal() {
        let value = "a\u{7f}\u{9b}31m\r\n\u{1b}[2J é";
        let text = escaped(&serde_json::to_string_pretty(&[value]).expect("JSON"));
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).expect("JSON"), [value]);
    }
}
