//! Fields of a request, as the JSON form of protocol buffers has them: both spellings of a name, 64-bit numbers as
//! numbers or strings, bytes in standard base64, enums by name or number. Null is the same as no field.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::GatewayError;

static NULL: Value = Value::Null;

/// A message of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(Option<&'a Map<String, Value>>);

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a Value) -> Result<Self, GatewayError> {
        match value {
            Value::Object(fields) => Ok(Self(Some(fields))),
            Value::Null => Ok(Self(None)),
            _ => Err(GatewayError::invalid("json: cannot unmarshal the request into a message")),
        }
    }

    /// The value of a field; null if there is none.
    pub(crate) fn value(&self, name: &str) -> &'a Value {
        let Some(fields) = self.0 else { return &NULL };
        fields.get(name).or_else(|| fields.get(&camel_case(name))).unwrap_or(&NULL)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.value(name).is_null()
    }

    pub(crate) fn message(&self, name: &str) -> Result<Self, GatewayError> {
        Self::of(self.value(name)).map_err(|_| wrong(name, "a message"))
    }

    pub(crate) fn list(&self, name: &str) -> Result<&'a [Value], GatewayError> {
        match self.value(name) {
            Value::Null => Ok(&[]),
            Value::Array(values) => Ok(values),
            _ => Err(wrong(name, "a list")),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, GatewayError> {
        match self.value(name) {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(wrong(name, "a boolean")),
        }
    }

    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<u8>, GatewayError> {
        match self.value(name) {
            Value::Null => Ok(Vec::new()),
            Value::String(text) => STANDARD.decode(text).map_err(|error| wrong(name, &error.to_string())),
            _ => Err(wrong(name, "bytes in base64")),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<i64, GatewayError> {
        match self.value(name) {
            Value::Null => Ok(0),
            Value::Number(number) => number.as_i64().ok_or_else(|| wrong(name, "a whole number of 64 bits")),
            Value::String(text) => text.parse().map_err(|_| wrong(name, "a whole number of 64 bits")),
            _ => Err(wrong(name, "a number")),
        }
    }

    /// An enum: its number, given by name or by number.
    pub(crate) fn choice(&self, name: &str, names: &[&str]) -> Result<usize, GatewayError> {
        choice(name, self.value(name), names)
    }
}

/// Reads an enum.
pub(crate) fn choice(name: &str, value: &Value, names: &[&str]) -> Result<usize, GatewayError> {
    let found = match value {
        Value::Null => Some(0),
        Value::Number(number) => {
            number.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number < names.len())
        }
        Value::String(text) => names.iter().position(|known| known == text),
        _ => None,
    };
    found.ok_or_else(|| wrong(name, &format!("one of {}", names.join(", "))))
}

pub(crate) fn wrong(name: &str, expected: &str) -> GatewayError {
    GatewayError::invalid(format!("json: cannot read the field {name}: want {expected}"))
}

/// `range_end` as `rangeEnd`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let (head, rest) = word.split_at(word.len().min(1));
        text + &head.to_ascii_uppercase() + rest
    })
}
