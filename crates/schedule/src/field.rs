//! Fields of a cron expression.

/// A field with its name, its least and largest number, and the names of its numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) least: u8,
    pub(crate) most: u8,
    pub(crate) names: &'static [&'static str],
}

/// Names of months and weekdays, in the order of their numbers.
const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

pub(crate) const SECOND: Field = Field { name: "second", least: 0, most: 59, names: &[] };
pub(crate) const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[] };
pub(crate) const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[] };
pub(crate) const DAY: Field = Field { name: "day of the month", least: 1, most: 31, names: &[] };
pub(crate) const MONTH: Field = Field { name: "month", least: 1, most: 12, names: MONTHS };
/// 7 is Sunday, too.
pub(crate) const WEEKDAY: Field = Field { name: "day of the week", least: 0, most: 7, names: WEEKDAYS };

/// Reason why a field is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    /// The text is no number or name of the field.
    #[error("{text:?} is not a valid {field}; write {least} to {most}{}", names(*.named))]
    Value {
        /// The field.
        field: &'static str,
        /// The text.
        text: String,
        /// The least number.
        least: u8,
        /// The largest number.
        most: u8,
        /// True if the field has names.
        named: bool,
    },
    /// The range ends before it begins.
    #[error("the range {text:?} of the {field} ends before it begins; write two ranges, separated by a comma")]
    Backwards {
        /// The field.
        field: &'static str,
        /// The range.
        text: String,
    },
    /// The step is no number, zero, or larger than the field.
    #[error("the step of {text:?} in the {field} must be 1 to {most}")]
    Step {
        /// The field.
        field: &'static str,
        /// The element.
        text: String,
        /// The largest step.
        most: u8,
    },
    /// A step after a single number, which cron programs read in two ways.
    #[error("{text:?} of the {field} has a step after a single number; write {}-{most}/…", text.split('/').next().unwrap_or_default())]
    StepOfNumber {
        /// The field.
        field: &'static str,
        /// The element.
        text: String,
        /// The largest number of the field.
        most: u8,
    },
}

fn names(named: bool) -> &'static str {
    if named { ", or a name such as JAN or MON" } else { "" }
}

impl Field {
    /// Parses a list of numbers, ranges and steps. The result has a bit for each number.
    pub(crate) fn parse(self, text: &str) -> Result<u64, InvalidField> {
        text.split(',').try_fold(0, |numbers, element| Ok(numbers | self.element(element)?))
    }

    /// Parses an element: `*`, `7`, `1-5`, `*/2`, `1-30/5`.
    pub(crate) fn element(self, text: &str) -> Result<u64, InvalidField> {
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((from, to)) => (self.number(from)?, self.number(to)?),
            None if step.is_some() => {
                let _ = self.number(range)?;
                return Err(InvalidField::StepOfNumber { field: self.name, text: text.to_owned(), most: self.most });
            }
            None => {
                let number = self.number(range)?;
                (number, number)
            }
        };
        if from > to {
            return Err(InvalidField::Backwards { field: self.name, text: text.to_owned() });
        }
        let wrong = || InvalidField::Step { field: self.name, text: text.to_owned(), most: self.most };
        let step = match step.map(str::parse::<u8>) {
            None => 1,
            Some(Ok(step)) if (1..=self.most).contains(&step) => step,
            Some(_) => return Err(wrong()),
        };
        Ok((from..=to).step_by(step.into()).fold(0, |numbers, number| numbers | 1 << number))
    }

    /// Parses a number or a name.
    pub(crate) fn number(self, text: &str) -> Result<u8, InvalidField> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|place| u8::try_from(place).ok()).map(|place| place + self.least);
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = named.or_else(|| text.parse().ok().filter(|_| digits));
        number.filter(|number| (self.least..=self.most).contains(number)).ok_or_else(|| InvalidField::Value {
            field: self.name,
            text: text.chars().take(40).collect(),
            least: self.least,
            most: self.most,
            named: !self.names.is_empty(),
        })
    }
}
