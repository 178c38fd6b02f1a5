//! Values of statements and rows.

use gantry_model::ClusterId;

use super::Fault;

/// A value of a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Value {
    /// No value.
    #[default]
    Null,
    /// A number or truth value.
    Whole(i64),
    /// A text.
    Text(String),
    /// Bytes, or a text that a user chose.
    Bytes(Vec<u8>),
}

/// A value for a statement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SqlParameter<'a> {
    /// No value.
    Null,
    /// A number or truth value.
    Whole(i64),
    /// A text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl Value {
    /// Size in bytes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Null | Self::Whole(_) => size_of::<i64>(),
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

impl<'a> From<&'a Value> for SqlParameter<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Whole(number) => Self::Whole(*number),
            Value::Text(text) => Self::Text(text),
            Value::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl SqlParameter<'_> {
    /// The value, for a statement that is carried out later.
    pub(crate) fn owned(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Whole(number) => Value::Whole(number),
            Self::Text(text) => Value::Text(text.to_owned()),
            Self::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
        }
    }
}

impl From<i64> for SqlParameter<'_> {
    fn from(number: i64) -> Self {
        Self::Whole(number)
    }
}

impl From<u32> for SqlParameter<'_> {
    fn from(number: u32) -> Self {
        Self::Whole(number.into())
    }
}

impl From<u8> for SqlParameter<'_> {
    fn from(number: u8) -> Self {
        Self::Whole(number.into())
    }
}

impl From<bool> for SqlParameter<'_> {
    fn from(truth: bool) -> Self {
        Self::Whole(truth.into())
    }
}

impl<'a> From<&'a str> for SqlParameter<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for SqlParameter<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Vec<u8>> for SqlParameter<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, T: Into<SqlParameter<'a>>> From<Option<T>> for SqlParameter<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The values of a statement, of any kinds.
macro_rules! bound {
    ($($value:expr),* $(,)?) => { &[$($crate::sql::SqlParameter::from($value)),*] };
}
pub(crate) use bound;

/// A row. Each value is taken out once.
#[derive(Debug)]
pub(crate) struct Row(pub(crate) Vec<Value>);

impl Row {
    /// Takes the value of a column.
    pub(crate) fn get<T: FromValue>(&mut self, column: usize) -> Result<T, Fault> {
        let value = self.0.get_mut(column).map(std::mem::take).unwrap_or_default();
        T::from_value(value).ok_or_else(|| Fault::Row(format!("column {column} of a row is of another kind")))
    }
}

/// A value of Rust that a column can have.
pub(crate) trait FromValue: Sized {
    /// None if the value is of another kind.
    fn from_value(value: Value) -> Option<Self>;
}

impl FromValue for i64 {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Whole(number) => Some(number),
            _ => None,
        }
    }
}

impl FromValue for u32 {
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl FromValue for u8 {
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Option<Self> {
        Some(i64::from_value(value)? != 0)
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            Value::Bytes(bytes) => Self::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl FromValue for ClusterId {
    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value)?.parse().ok()
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}
