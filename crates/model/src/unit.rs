//! Sizes, shares of a processor, moments and generations. Each unit has a type of its own.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A size in bytes. Written and read as `512M`, `2G`, `64K` or a plain number of bytes; K, M and G are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// `n` mebibytes.
    #[must_use]
    pub const fn mebi(n: u64) -> Self {
        Self(n << 20)
    }

    /// Parses `512M`, `512MB`, `512MiB`, `1.5G` or `1048576`.
    ///
    /// # Errors
    /// Fails if the text is no size, or a size out of range.
    pub fn parse(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            _ => return Err(SizeError::Malformed(text.to_owned())),
        };
        let value: f64 = number.parse().map_err(|_| SizeError::Malformed(text.to_owned()))?;
        let bytes = value * f64::from(1u32 << shift);
        if !(1.0..=1e18).contains(&bytes) {
            return Err(SizeError::OutOfRange(text.to_owned()));
        }
        // The check above bounds the value, so the cast is exact to the byte.
        Ok(Self(bytes as u64))
    }
}

/// Reason why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The text has another form.
    #[error("{0:?} is not a size; write for example 512M or 2G")]
    Malformed(String),
    /// The size is too small or too large.
    #[error("size {0:?} is out of range: expected 1 byte to 1 EB")]
    OutOfRange(String),
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = |shift: u32| (self.0 as f64) / f64::from(1u32 << shift);
        let text = match self.0 {
            n if n >= 1 << 30 => format!("{:.1}G", tenths(30)),
            n if n >= 1 << 20 => format!("{:.1}M", tenths(20)),
            n if n >= 1 << 10 => format!("{:.1}K", tenths(10)),
            n => format!("{n}B"),
        };
        f.pad(&text.replace(".0", ""))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum SizeInput {
            Number(u64),
            Text(String),
        }
        match SizeInput::deserialize(deserializer) {
            Ok(SizeInput::Number(n)) => Ok(Self(n)),
            Ok(SizeInput::Text(text)) => Self::parse(&text).map_err(D::Error::custom),
            Err(_) => Err(D::Error::custom("invalid size: write a text such as \"512M\", or a number of bytes")),
        }
    }
}

/// Thousandths of a processor. Written as a number of processors: `0.5` is 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u32);

impl Serialize for MilliCpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for MilliCpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let processors = f64::deserialize(deserializer)?;
        if !(0.01..=1024.0).contains(&processors) {
            return Err(D::Error::custom("cpu must be a number of processors between 0.01 and 1024"));
        }
        Ok(Self((processors * 1000.0).round() as u32))
    }
}

/// Whole seconds, for settings that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub u32);

impl Seconds {
    /// Converts the seconds to milliseconds, to add to a [`Moment`].
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 as u64 * 1000
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

/// A moment: milliseconds since 1970-01-01 UTC. Deciders take the current moment as an argument and never read a clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Milliseconds from `earlier` to this moment; zero if the clock stepped back.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `by` milliseconds later, or earlier when `by` is negative.
    #[must_use]
    pub fn moved(self, by: i64) -> Self {
        Self(self.0.saturating_add_signed(by))
    }
}

/// A span in milliseconds, displayed for people: `5 s`, `3 min`, `2 h`, `4 days`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan(pub u64);

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1000 {
            seconds if seconds < 120 => write!(f, "{seconds} s"),
            seconds if seconds < 120 * 60 => write!(f, "{} min", seconds / 60),
            seconds if seconds < 48 * 3600 => write!(f, "{} h", seconds / 3600),
            seconds => write!(f, "{} days", seconds / 86_400),
        }
    }
}

/// Revision of a routing table or plan. A receiver refuses a revision older than the revision it already has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The next generation.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_sizes_with_and_without_units() {
        for (text, bytes) in
            [("512M", 512 << 20), ("512MiB", 512 << 20), ("64k", 64 << 10), ("1.5G", 3 << 29), ("42", 42)]
        {
            assert_eq!(Bytes::parse(text), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "M", "-1M", "12X", "1e9", "0", "99999999999G"] {
            assert!(Bytes::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Bytes::mebi(512).to_string(), "512M");
    }

    #[test]
    fn units_round_trip_through_json() {
        let cpu: MilliCpu = serde_json::from_str("0.5").expect("half a processor");
        assert_eq!((cpu, serde_json::to_string(&cpu).expect("json")), (MilliCpu(500), "0.5".to_owned()));
        assert!(serde_json::from_str::<MilliCpu>("0").is_err());
        let size: Bytes = serde_json::from_str("\"1M\"").expect("a size");
        assert_eq!(serde_json::to_string(&size).expect("json"), "1048576");
    }
}
