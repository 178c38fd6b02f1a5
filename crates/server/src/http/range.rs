//! Byte ranges of blob requests (RFC 9110, section 14). An interrupted pull resumes where it stopped.

use std::ops::Range;

/// The part of a blob of `size` bytes to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RequestedRange {
    /// The whole blob: the request has no range, or a range that RFC 9110 allows to ignore, such as several ranges at
    /// once.
    Whole,
    /// A part of the blob.
    Bytes(Range<u64>),
    /// The range lies outside the blob.
    Unsatisfiable,
}

/// Reads the value of a `Range` field.
pub(crate) fn parse_range(value: Option<&str>, size: u64) -> RequestedRange {
    let Some((first, last)) = value.and_then(|value| value.strip_prefix("bytes=")?.split_once('-')) else {
        return RequestedRange::Whole;
    };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = match (first, number(first), last, number(last)) {
        ("", _, _, Some(count)) => size.saturating_sub(count)..size,
        (_, Some(first), "", _) => first..size,
        (_, Some(first), _, Some(last)) if first <= last => first..size.min(last.saturating_add(1)),
        _ => return RequestedRange::Whole,
    };
    if range.start < range.end { RequestedRange::Bytes(range) } else { RequestedRange::Unsatisfiable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_read_and_everything_else_passed_over() {
        for (value, expected) in [
            ("bytes=0-9", RequestedRange::Bytes(0..10)),
            ("bytes=5-", RequestedRange::Bytes(5..100)),
            ("bytes=-7", RequestedRange::Bytes(93..100)),
            ("bytes=-700", RequestedRange::Bytes(0..100)),
            ("bytes=90-1000", RequestedRange::Bytes(90..100)),
            ("bytes=90-18446744073709551615", RequestedRange::Bytes(90..100)),
            ("bytes=100-", RequestedRange::Unsatisfiable),
            ("bytes=100-200", RequestedRange::Unsatisfiable),
            ("bytes=-0", RequestedRange::Unsatisfiable),
            ("bytes=9-5", RequestedRange::Whole),
            ("bytes=0-1,5-6", RequestedRange::Whole),
            ("bytes=", RequestedRange::Whole),
            ("bytes=-", RequestedRange::Whole),
            ("bytes=+1-2", RequestedRange::Whole),
            ("bytes=99999999999999999999-", RequestedRange::Whole),
            ("lines=0-9", RequestedRange::Whole),
        ] {
            assert_eq!(parse_range(Some(value), 100), expected, "{value}");
        }
        assert_eq!(parse_range(None, 100), RequestedRange::Whole);
        assert_eq!(parse_range(Some("bytes=0-"), 0), RequestedRange::Unsatisfiable);
    }

    #[test]
    fn every_parsed_range_lies_within_the_content() {
        let letters = ["", "0", "9", "-", ",", "18446744073709551615", " "];
        for n in 0..letters.len().pow(5) {
            let text: String = (0..5).map(|place| letters[n / letters.len().pow(place) % letters.len()]).collect();
            if let RequestedRange::Bytes(range) = parse_range(Some(&format!("bytes={text}")), 5) {
                assert!(range.start < range.end && range.end <= 5, "{text}: {range:?}");
            }
        }
    }
}
