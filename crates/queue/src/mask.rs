//! Payloads without secrets, for people.

use serde_json::Value;

/// Parts of key names whose values are masked.
const SECRET_PARTS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "authorization",
    "credential",
    "privatekey",
    "accesskey",
    "cookie",
];

/// Text in place of a masked value.
const MASK: &str = "[masked]";

/// The payload with values of secret-looking keys replaced, if the payload is JSON. Returns none for any other payload:
/// nothing says where its secrets are.
#[must_use]
pub fn masked(payload: &[u8]) -> Option<String> {
    let mut value: Value = serde_json::from_slice(payload).ok()?;
    mask(&mut value, false);
    serde_json::to_string(&value).ok()
}

fn mask(value: &mut Value, secret: bool) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| mask(value, secret || is_secret(key))),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, secret)),
        Value::Null => {}
        _ if secret => *value = Value::String(MASK.to_owned()),
        _ => {}
    }
}

/// Reports whether a key looks like the name of a secret. `api_key`, `API-Key` and `apiKey` are one name.
fn is_secret(key: &str) -> bool {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    SECRET_PARTS.iter().any(|part| plain.contains(part))
}
