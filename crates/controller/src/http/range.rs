//! Byte ranges of blob requests (RFC 9110, section 14). An interrupted pull resumes where it stopped.

use std::ops::Range;

/// The part of a blob of `size` bytes to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The whole blob: the request has no range, or a range that RFC 9110 allows to ignore, such as several ranges at
    /// once.
    Whole,
    /// These bytes.
    Of(Range<u64>),
    /// The range lies outside the blob.
    Nothing,
}

/// Reads the value of a `Range` field.
pub(crate) fn part(value: Option<&str>, size: u64) -> Part {
    let Some((first, last)) = value.and_then(|value| value.strip_prefix("bytes=")?.split_once('-')) else {
        return Part::Whole;
    };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = match (first, number(first), last, number(last)) {
        ("", _, _, Some(count)) => size.saturating_sub(count)..size,
        (_, Some(first), "", _) => first..size,
        (_, Some(first), _, Some(last)) if first <= last => first..size.min(last.saturating_add(1)),
        _ => return Part::Whole,
    };
    if range.start < range.end { Part::Of(range) } else { Part::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_read_and_everything_else_passed_over() {
        for (value, expected) in [
            ("bytes=0-9", Part::Of(0..10)),
            ("bytes=5-", Part::Of(5..100)),
            ("bytes=-7", Part::Of(93..100)),
            ("bytes=-700", Part::Of(0..100)),
            ("bytes=90-1000", Part::Of(90..100)),
            ("bytes=90-18446744073709551615", Part::Of(90..100)),
            ("bytes=100-", Part::Nothing),
            ("bytes=100-200", Part::Nothing),
            ("bytes=-0", Part::Nothing),
            ("bytes=9-5", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=99999999999999999999-", Part::Whole),
            ("lines=0-9", Part::Whole),
        ] {
            assert_eq!(part(Some(value), 100), expected, "{value}");
        }
        assert_eq!(part(None, 100), Part::Whole);
        assert_eq!(part(Some("bytes=0-"), 0), Part::Nothing);
    }

    #[test]
    fn whatever_is_asked_for_lies_within() {
        let letters = ["", "0", "9", "-", ",", "18446744073709551615", " "];
        for n in 0..letters.len().pow(5) {
            let text: String = (0..5).map(|place| letters[n / letters.len().pow(place) % letters.len()]).collect();
            if let Part::Of(range) = part(Some(&format!("bytes={text}")), 5) {
                assert!(range.start < range.end && range.end <= 5, "{text}: {range:?}");
            }
        }
    }
}
