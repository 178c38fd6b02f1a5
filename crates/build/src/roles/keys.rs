//! The keys of `container/roles.json`, and what a user meant by an unknown key.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, Visitor};

use super::SettingError;

pub(super) const ROLE_KEYS: [&str; 20] = [
    "command",
    "port",
    "protocol",
    "instances",
    "memory",
    "cpu",
    "pids",
    "disk",
    "reserve",
    "placement",
    "health",
    "stop_signal",
    "stop_timeout",
    "request_timeout",
    "drain",
    "request_buffer",
    "env",
    "volumes",
    "single",
    "schedule",
];
pub(super) const HEALTH_KEYS: [&str; 8] =
    ["path", "command", "host", "headers", "start", "interval", "timeout", "attempts"];

pub(super) const SCHEDULE_KEYS: [&str; 4] = ["cron", "timezone", "missed", "overlap"];

/// Words that other tools use for these keys.
const ALIASES: [(&str, &str); 36] = [
    ("cmd", "command"),
    ("run", "command"),
    ("exec", "command"),
    ("entrypoint", "command"),
    ("script", "command"),
    ("replicas", "instances"),
    ("copies", "instances"),
    ("count", "instances"),
    ("scale", "instances"),
    ("quantity", "instances"),
    ("mem", "memory"),
    ("ram", "memory"),
    ("memory_limit", "memory"),
    ("cpus", "cpu"),
    ("processes", "pids"),
    ("healthcheck", "health"),
    ("check", "health"),
    ("readiness", "health"),
    ("environment", "env"),
    ("config", "env"),
    ("mounts", "volumes"),
    ("ports", "port"),
    ("expose", "port"),
    ("signal", "stop_signal"),
    ("stop_grace_period", "stop_timeout"),
    ("url", "path"),
    ("test", "command"),
    ("retries", "attempts"),
    ("period", "interval"),
    ("start_period", "start"),
    ("initial_delay", "start"),
    ("hostname", "host"),
    ("crontab", "schedule"),
    ("tz", "timezone"),
    ("zone", "timezone"),
    ("concurrency_policy", "overlap"),
];

/// Visitor that checks a text during parsing, so that an error names the place of the text.
pub(super) struct Text<F>(pub(super) F);

impl<'de, T, F: FnOnce(&str) -> Result<T, SettingError>> Visitor<'de> for Text<F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

/// Seed that accepts only the known keys.
pub(super) struct Key(pub(super) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = &'static str;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        deserializer.deserialize_str(Text(|text: &str| known(text, self.0)))
    }
}

fn known(text: &str, keys: &[&'static str]) -> Result<&'static str, SettingError> {
    if let Some(key) = keys.iter().find(|key| **key == text) {
        return Ok(key);
    }
    match closest_key(text, keys) {
        Some(meant) => Err(SettingError::MisspelledKey { key: text.to_owned(), meant }),
        None => Err(SettingError::UnknownKey { key: text.to_owned(), known: keys.join(", ") }),
    }
}

/// The key that a user may have meant: another tool's word for a key, or else a key with a few other letters.
fn closest_key<'a>(text: &str, keys: &[&'a str]) -> Option<&'a str> {
    let mut plain = String::new();
    for c in text.chars() {
        if c.is_ascii_uppercase() && !plain.is_empty() && !plain.ends_with('_') {
            plain.push('_');
        }
        plain.push(if c == '-' { '_' } else { c.to_ascii_lowercase() });
    }
    let is_key = |word: &str| keys.iter().find(|key| **key == word).copied();
    let alias = || ALIASES.iter().filter(|(word, _)| *word == plain).find_map(|(_, key)| is_key(key));
    let distance = |key: &str| strsim::damerau_levenshtein(key, &plain);
    let near = || keys.iter().min_by_key(|key| distance(key)).copied().filter(|key| distance(key) <= 1 + key.len() / 4);
    is_key(&plain).or_else(alias).or_else(near)
}
