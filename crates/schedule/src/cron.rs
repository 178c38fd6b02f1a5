//! Cron expressions: five fields, or six with seconds first.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time, Weekday, date};
use serde::{Deserialize, Serialize};

use crate::field::{DAY, HOUR, InvalidField, MINUTE, MONTH, SECOND, WEEKDAY};

/// Longest text of an expression, in bytes.
const TEXT_MAX: usize = 200;

/// Months after which the calendar repeats: the Gregorian calendar has the same dates and weekdays after 400 years. What
/// does not match within this time never matches.
const CYCLE_MONTHS: i32 = 400 * 12 + 1;

/// A cron expression.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cron {
    text: String,
    seconds: u64,
    minutes: u64,
    hours: u64,
    months: u64,
    days: Days,
    weekdays: Weekdays,
    /// True if a day must match both fields of days; otherwise one of them is enough.
    both: bool,
    fixed: bool,
}

/// Days of a month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Days {
    numbers: u64,
    /// `15W`: the workday nearest to a day, in the same month.
    nearest: u64,
    /// `L`: the last day.
    last: bool,
    /// `LW`: the last workday.
    last_workday: bool,
}

/// Days of the week. Bit 0 is Sunday.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Weekdays {
    every: u64,
    /// `5L`: the last Friday of the month.
    last: u64,
    /// `5#2`: the second Friday of the month. `nth[1]` has the second weekdays.
    nth: [u64; 5],
}

/// Reason why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCron {
    /// The expression is too long.
    #[error("a cron expression has at most {TEXT_MAX} bytes, this one {0}")]
    Length(usize),
    /// The expression has another number of fields.
    #[error(
        "{0:?} is not a cron expression: write minute, hour, day of the month, month and day of the week, such as \"30 6 * * MON-FRI\""
    )]
    Fields(String),
    /// A variable such as `CRON_TZ=` stands before the fields.
    #[error("{0:?} sets a variable; name the time zone beside the expression")]
    Variable(String),
    /// An unknown word such as `@reboot`.
    #[error("{0:?} is unknown; write @yearly, @monthly, @weekly, @daily or @hourly")]
    Word(String),
    /// A field cannot be read.
    #[error(transparent)]
    Field(#[from] InvalidField),
}

impl FromStr for Cron {
    type Err = InvalidCron;

    fn from_str(text: &str) -> Result<Self, InvalidCron> {
        if text.len() > TEXT_MAX {
            return Err(InvalidCron::Length(text.len()));
        }
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let fields = match words[..] {
            [word, ..] if word.contains('=') => return Err(InvalidCron::Variable(word.to_owned())),
            [word] if word.starts_with('@') => word_fields(word)?,
            [minute, hour, day, month, weekday] => ["0", minute, hour, day, month, weekday],
            [second, minute, hour, day, month, weekday] => [second, minute, hour, day, month, weekday],
            _ => return Err(InvalidCron::Fields(text.to_owned())),
        };
        let [second, minute, hour, day, month, weekday] = fields;
        Ok(Self {
            text: words.join(" "),
            seconds: SECOND.parse(second)?,
            minutes: MINUTE.parse(minute)?,
            hours: HOUR.parse(hour)?,
            months: MONTH.parse(month)?,
            days: Days::parse(day)?,
            weekdays: Weekdays::parse(weekday)?,
            both: [day, weekday].iter().any(|field| field.starts_with(['*', '?'])),
            fixed: ![second, minute, hour].iter().any(|field| field.contains('*')),
        })
    }
}

fn word_fields(word: &str) -> Result<[&'static str; 6], InvalidCron> {
    Ok(match word {
        "@yearly" | "@annually" => ["0", "0", "0", "1", "1", "*"],
        "@monthly" => ["0", "0", "0", "1", "*", "*"],
        "@weekly" => ["0", "0", "0", "*", "*", "0"],
        "@daily" | "@midnight" => ["0", "0", "0", "*", "*", "*"],
        "@hourly" => ["0", "0", "*", "*", "*", "*"],
        _ => return Err(InvalidCron::Word(word.to_owned())),
    })
}

impl Cron {
    /// The expression as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Reports whether the expression names fixed times of the day: no `*` in hours, minutes and seconds.
    pub(crate) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The first time on a wall calendar that matches, at `from` or later. None if there is none for ever.
    pub(crate) fn next_civil(&self, from: DateTime) -> Option<DateTime> {
        let (mut year, mut month) = (from.year(), from.month());
        // The rest of the first day, and then whole days.
        let mut first = Some(from);
        for _ in 0..CYCLE_MONTHS {
            if self.months & (1 << month) != 0 {
                let mut days = self.days_of(year, month);
                if let Some(from) = first {
                    days &= u64::MAX << from.day();
                    if let Some(time) = self.next_time(from.time()).filter(|_| days & (1 << from.day()) != 0) {
                        return Some(from.date().to_datetime(time));
                    }
                    days &= !(1 << from.day());
                }
                if let Some(day) = lowest(days) {
                    return Some(Date::new(year, month, day).ok()?.to_datetime(self.next_time(Time::midnight())?));
                }
            }
            first = None;
            (year, month) = if month == 12 { (year.checked_add(1)?, 1) } else { (year, month + 1) };
            Date::new(year, month, 1).ok()?;
        }
        None
    }

    /// The first time of a day that matches, at `from` or later.
    fn next_time(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour(), from.minute(), from.second());
        let from = |numbers: u64, least: i8| lowest(numbers & (u64::MAX << least));
        let here = |numbers: u64, number: i8| numbers & (1 << number) != 0;
        let (first_minute, first_second) = (lowest(self.minutes)?, lowest(self.seconds)?);
        let (hour, minute, second) = if here(self.hours, hour) && here(self.minutes, minute) {
            match from(self.seconds, second) {
                Some(second) => (hour, minute, second),
                None => self.after_minute(hour, minute)?,
            }
        } else if let Some(minute) = from(self.minutes, minute).filter(|_| here(self.hours, hour)) {
            (hour, minute, first_second)
        } else {
            (from(self.hours, hour + 1)?, first_minute, first_second)
        };
        Time::new(hour, minute, second, 0).ok()
    }

    /// The first matching time of the day after a minute.
    fn after_minute(&self, hour: i8, minute: i8) -> Option<(i8, i8, i8)> {
        let second = lowest(self.seconds)?;
        match lowest(self.minutes & (u64::MAX << (minute + 1))) {
            Some(minute) => Some((hour, minute, second)),
            None => Some((lowest(self.hours & (u64::MAX << (hour + 1)))?, lowest(self.minutes)?, second)),
        }
    }

    /// The days of a month that match, a bit for each.
    fn days_of(&self, year: i16, month: i8) -> u64 {
        let Ok(first) = Date::new(year, month, 1) else { return 0 };
        let (by_number, by_weekday) = (self.days.of(first), self.weekdays.of(first));
        if self.both { by_number & by_weekday } else { by_number | by_weekday }
    }
}

/// The lowest number of a set.
fn lowest(numbers: u64) -> Option<i8> {
    i8::try_from(numbers.trailing_zeros()).ok().filter(|number| *number < 64)
}

/// A day as a bit.
fn bit(day: i8) -> u64 {
    1 << day
}

impl Days {
    fn parse(text: &str) -> Result<Self, InvalidField> {
        let mut days = Self::default();
        for element in text.split(',') {
            match element.strip_suffix(['W', 'w']) {
                _ if element == "?" => days.numbers |= DAY.parse("*")?,
                _ if element.eq_ignore_ascii_case("L") => days.last = true,
                Some(day) if day.eq_ignore_ascii_case("L") => days.last_workday = true,
                Some(day) => days.nearest |= 1 << DAY.number(day)?,
                None => days.numbers |= DAY.element(element)?,
            }
        }
        Ok(days)
    }

    fn of(&self, first: Date) -> u64 {
        let length = first.days_in_month();
        let mut days = self.numbers & ((1 << (length + 1)) - 1);
        if self.last {
            days |= bit(length);
        }
        if self.last_workday {
            days |= bit(nearest_workday(first, length));
        }
        let nearest = (1..=length).filter(|day| self.nearest & bit(*day) != 0);
        nearest.fold(days, |days, day| days | bit(nearest_workday(first, day)))
    }
}

/// The workday nearest to a day, in the same month.
fn nearest_workday(first: Date, day: i8) -> i8 {
    let length = first.days_in_month();
    match date(first.year(), first.month(), day).weekday() {
        Weekday::Saturday if day == 1 => 3,
        Weekday::Saturday => day - 1,
        Weekday::Sunday if day == length => day - 2,
        Weekday::Sunday => day + 1,
        _ => day,
    }
}

/// The weekday of `5L` or `5#L`.
fn last_of(element: &str) -> Option<&str> {
    let day = element.strip_suffix(['L', 'l'])?;
    Some(day.strip_suffix('#').unwrap_or(day))
}

impl Weekdays {
    fn parse(text: &str) -> Result<Self, InvalidField> {
        let mut weekdays = Self::default();
        for element in text.split(',') {
            if element == "?" {
                weekdays.every |= WEEKDAY.parse("*")?;
            } else if let Some(day) = last_of(element) {
                weekdays.last |= 1 << WEEKDAY.number(day)?;
            } else if let Some((day, number)) = element.split_once('#') {
                let day = WEEKDAY.number(day)?;
                let place = number.parse::<usize>().ok().filter(|number| (1..=5).contains(number));
                let place = place.ok_or_else(|| InvalidField::Value {
                    field: "week of a month",
                    text: number.chars().take(40).collect(),
                    least: 1,
                    most: 5,
                    named: false,
                })?;
                weekdays.nth[place - 1] |= 1 << day;
            } else {
                weekdays.every |= WEEKDAY.element(element)?;
            }
        }
        // 7 is Sunday.
        let fold = |days: u64| (days | days >> 7) & 0x7f;
        Ok(Self { every: fold(weekdays.every), last: fold(weekdays.last), nth: weekdays.nth.map(fold) })
    }

    fn of(&self, first: Date) -> u64 {
        let length = first.days_in_month();
        let begin = first.weekday().to_sunday_zero_offset();
        (1..=length).filter(|day| self.matches(begin, *day, length)).fold(0, |days, day| days | bit(day))
    }

    /// Reports whether a day of a month that begins at the weekday `begin` matches.
    fn matches(&self, begin: i8, day: i8, length: i8) -> bool {
        let weekday = bit((begin + day - 1) % 7);
        let place = usize::try_from((day - 1) / 7).unwrap_or_default();
        let is_last = day + 7 > length;
        self.every & weekday != 0 || self.nth[place] & weekday != 0 || (is_last && self.last & weekday != 0)
    }
}

impl TryFrom<String> for Cron {
    type Error = InvalidCron;

    fn try_from(text: String) -> Result<Self, InvalidCron> {
        text.parse()
    }
}

impl From<Cron> for String {
    fn from(cron: Cron) -> Self {
        cron.text
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?})", self.text)
    }
}
