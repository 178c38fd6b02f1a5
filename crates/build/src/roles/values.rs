//! Values of `container/roles.json`. Each value is checked during parsing, so that an error names its place.

use std::collections::BTreeMap;
use std::fmt;

use gantry_model::role::REQUEST_BUFFER_MAX;
use gantry_model::{Bytes, MilliCpu};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};

use super::{SettingError, check_command};

/// A number or a text, with a check.
struct Scalar<F>(&'static str, F);

/// Makes a [`Scalar`] of what is expected and of a check.
fn scalar<T, F: FnOnce(Plain<'_>) -> Result<T, SettingError>>(expected: &'static str, check: F) -> Scalar<F> {
    Scalar(expected, check)
}

/// The value of a [`Scalar`].
enum Plain<'a> {
    Number(f64),
    Text(&'a str),
}

impl<'de, T, F: FnOnce(Plain<'_>) -> Result<T, SettingError>> DeserializeSeed<'de> for Scalar<F> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<T, F: FnOnce(Plain<'_>) -> Result<T, SettingError>> Visitor<'_> for Scalar<F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.1)(Plain::Number(number as f64)).map_err(E::custom)
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        (self.1)(Plain::Number(number as f64)).map_err(E::custom)
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        (self.1)(Plain::Number(number)).map_err(E::custom)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.1)(Plain::Text(text)).map_err(E::custom)
    }
}

/// A whole number from `least` to `most`.
pub(super) fn whole<'de>(least: u32, most: u32) -> impl DeserializeSeed<'de, Value = u32> {
    scalar("a whole number", move |value| match value {
        Plain::Number(number) if number.fract() == 0.0 && (f64::from(least)..=f64::from(most)).contains(&number) => {
            Ok(number as u32)
        }
        Plain::Number(number) => Err(SettingError::NotWhole { number, least, most }),
        Plain::Text(text) => Err(SettingError::NotNumber(text.to_owned())),
    })
}

/// A number of seconds. The largest one is 68 years.
pub(super) fn seconds<'de>(least: u32) -> impl DeserializeSeed<'de, Value = u32> {
    whole(least, 1 << 31)
}

/// A size of at least `least`. A smaller number is mostly meant as mebibytes.
pub(super) fn size<'de>(least: Bytes) -> impl DeserializeSeed<'de, Value = Bytes> {
    scalar("a size such as \"512M\", or a number of bytes", move |value| {
        let (size, written) = match value {
            Plain::Number(bytes) if bytes >= 1.0 => (Bytes(bytes as u64), format!("{bytes} bytes")),
            Plain::Number(bytes) => return Err(SettingError::NotSize(bytes)),
            Plain::Text(text) => (Bytes::parse(text)?, format!("{text:?}")),
        };
        if size < least {
            return Err(SettingError::TooSmall { written, least });
        }
        Ok(size)
    })
}

/// A number of processors.
pub(super) fn processors<'de>() -> impl DeserializeSeed<'de, Value = MilliCpu> {
    scalar("a number of processors", |value| match value {
        Plain::Number(number) if (0.01..=1024.0).contains(&number) => Ok(MilliCpu((number * 1000.0).round() as u32)),
        Plain::Number(number) => Err(SettingError::NotProcessors(number)),
        Plain::Text(text) => Err(SettingError::ProcessorsText(text.to_owned())),
    })
}

/// A size from 0 to [`REQUEST_BUFFER_MAX`]. A size of other settings is never 0.
pub(super) fn request_buffer<'de>() -> impl DeserializeSeed<'de, Value = Bytes> {
    scalar("a size from 0 to 1M, such as \"256K\"", |value| {
        let bytes = match value {
            Plain::Number(bytes) => bytes,
            Plain::Text(text) if text.trim() == "0" => 0.0,
            Plain::Text(text) => Bytes::parse(text)?.0 as f64,
        };
        if bytes < 0.0 {
            return Err(SettingError::NegativeBuffer);
        }
        if bytes > REQUEST_BUFFER_MAX.0 as f64 {
            return Err(SettingError::LargeBuffer);
        }
        Ok(Bytes(bytes as u64))
    })
}

/// A text, with a check.
pub(super) fn text<'de, F: FnOnce(String) -> Result<String, SettingError>>(
    check: F,
) -> impl DeserializeSeed<'de, Value = String> {
    scalar("a text", move |value| match value {
        Plain::Text(text) => check(text.to_owned()),
        Plain::Number(number) => Err(SettingError::NotText(number)),
    })
}

/// A command line.
pub(super) fn command_line<'de>() -> impl DeserializeSeed<'de, Value = String> {
    text(|line| check_command(&line).map(|()| line))
}

/// Texts by name: an example, and a check during parsing.
pub(super) struct Texts<F>(pub(super) &'static str, pub(super) F);

impl<'de, F: FnOnce(BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SettingError>> DeserializeSeed<'de>
    for Texts<F>
{
    type Value = BTreeMap<String, String>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnOnce(BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SettingError>> Visitor<'de>
    for Texts<F>
{
    type Value = BTreeMap<String, String>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut texts = BTreeMap::new();
        while let Some(name) = map.next_key()? {
            texts.insert(name, map.next_value_seed(text(Ok))?);
        }
        (self.1)(texts).map_err(M::Error::custom)
    }
}
