//! Parser of `container/roles.json`: role → command line, or an object if a role needs more settings. The format is
//! JSON5, because the convention's own sample has single quotes and a trailing comma. The parser refuses an unknown key
//! and names its place and the nearest known key: a misspelt `health` must not mean "no health check".

use std::collections::BTreeMap;
use std::fmt;

use gantry_model::execve::is_variable_name;
use gantry_model::role::{Command, Health, Limits, Protocol, REQUEST_BUFFER_MAX, Role, Signal};
use gantry_model::{Bytes, MilliCpu, RoleName, Seconds};
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Size limit. A file of roles is about a page; a larger file is an attack.
const SIZE_MAX: usize = 64 << 10;

/// Nesting limit, deep enough for any role. The parser recurses.
const DEPTH_MAX: usize = 16;

const ROLE_KEYS: [&str; 16] = [
    "command",
    "port",
    "protocol",
    "instances",
    "memory",
    "cpu",
    "pids",
    "disk",
    "health",
    "stop_signal",
    "stop_timeout",
    "request_timeout",
    "drain",
    "request_buffer",
    "env",
    "volumes",
];
const HEALTH_KEYS: [&str; 8] = ["path", "command", "host", "headers", "start", "interval", "timeout", "attempts"];

/// Longest start-up time: a day.
pub(crate) const START_MAX: u32 = 86_400;

/// Most header fields of a check, and most bytes in them.
const HEADERS_MAX: usize = 20;
const HEADER_BYTES_MAX: usize = 4096;

/// Most copies of a role. A machine's network has addresses for this many copies, with some to spare.
const INSTANCES_MAX: u32 = 1000;

/// Parses the file.
///
/// # Errors
/// A message with line and column.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<RoleName, Role>, String> {
    if text.len() > SIZE_MAX {
        return Err(format!("it has {} bytes; at most {SIZE_MAX} are read", text.len()));
    }
    if let Some(offset) = too_deep(text) {
        let position = json5::Position::from_offset(offset, text);
        return Err(format!("it is nested too deeply at line {} column {}", position.line + 1, position.column + 1));
    }
    let roles: Roles = json5::from_str(text).map_err(|error| error.to_string())?;
    if roles.0.is_empty() {
        return Err("it names no role; write for example { \"web\": \"bin/server\" }".to_owned());
    }
    Ok(roles.0)
}

/// Finds nesting beyond [`DEPTH_MAX`] before the recursive parser sees the text. Returns the offset.
fn too_deep(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().peekable();
    let mut depth = 0usize;
    while let Some((offset, character)) = characters.next() {
        match character {
            '"' | '\'' => {
                while let Some((_, inner)) = characters.next() {
                    if inner == '\\' {
                        characters.next();
                    } else if inner == character {
                        break;
                    }
                }
            }
            '/' if characters.peek().is_some_and(|(_, next)| *next == '/') => {
                characters.by_ref().find(|(_, inner)| matches!(inner, '\n' | '\r' | '\u{2028}' | '\u{2029}'));
            }
            '/' if characters.peek().is_some_and(|(_, next)| *next == '*') => {
                characters.next();
                let mut before = ' ';
                for (_, inner) in characters.by_ref() {
                    if before == '*' && inner == '/' {
                        break;
                    }
                    before = inner;
                }
            }
            '[' | '{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Some(offset);
                }
            }
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

struct Roles(BTreeMap<RoleName, Role>);

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RolesVisitor;
        impl<'de> Visitor<'de> for RolesVisitor {
            type Value = Roles;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of roles")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Roles, M::Error> {
                let mut roles = BTreeMap::new();
                while let Some(Name(name)) = map.next_key()? {
                    let Entry(role) = map.next_value()?;
                    if roles.insert(name.clone(), role).is_some() {
                        return Err(M::Error::custom(format!("role {name} is there twice")));
                    }
                }
                Ok(Roles(roles))
            }
        }
        deserializer.deserialize_map(RolesVisitor)
    }
}

struct Name(RoleName);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_str(Text(|text: &str| RoleName::parse(text).map(Name).map_err(|error| error.to_string())))
    }
}

/// Visitor that checks a text during parsing, so that an error names the place of the text.
struct Text<F>(F);

impl<'de, T, F: FnOnce(&str) -> Result<T, String>> Visitor<'de> for Text<F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

/// Seed that accepts only the known keys.
struct Key(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = &'static str;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        deserializer.deserialize_str(Text(|text: &str| known(text, self.0)))
    }
}

fn known(text: &str, keys: &[&'static str]) -> Result<&'static str, String> {
    if let Some(key) = keys.iter().find(|key| **key == text) {
        return Ok(key);
    }
    let nearest = keys.iter().min_by_key(|key| strsim::damerau_levenshtein(key, text));
    match nearest.filter(|key| strsim::damerau_levenshtein(key, text) <= 3) {
        Some(key) => Err(format!("unknown key {text:?}; did you mean {key:?}?")),
        None => Err(format!("unknown key {text:?}; known are {}", keys.join(", "))),
    }
}

/// A role: a command line or an object.
struct Entry(Role);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command line, or an object with a command")
            }
            fn visit_str<E: Error>(self, command: &str) -> Result<Entry, E> {
                check_command(command).map_err(E::custom).map(|()| Entry(Role::new(Command::Shell(command.to_owned()))))
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Entry, M::Error> {
                read_role(map).map(Entry)
            }
        }
        deserializer.deserialize_any(EntryVisitor)
    }
}

/// Checks that a command is not empty and holds no NUL.
pub(crate) fn check_command(command: &str) -> Result<(), String> {
    if command.trim().is_empty() {
        return Err("a command line is empty".to_owned());
    }
    if command.contains('\0') {
        return Err("a command line holds a NUL character".to_owned());
    }
    Ok(())
}

fn read_role<'de, M: MapAccess<'de>>(mut map: M) -> Result<Role, M::Error> {
    let mut role = Role::new(Command::Shell(String::new()));
    let mut limits = Limits::default();
    while let Some(key) = map.next_key_seed(Key(&ROLE_KEYS))? {
        match key {
            "command" => {
                let command: String = map.next_value()?;
                check_command(&command).map_err(M::Error::custom)?;
                role.command = Command::Shell(command);
            }
            "port" => role.port = Some(positive(map.next_value::<u16>()?, "port")?),
            "protocol" => role.protocol = map.next_value::<Spoken>()?.0,
            "instances" => {
                role.instances = map.next_value()?;
                if role.instances > INSTANCES_MAX {
                    return Err(M::Error::custom(format!("at most {INSTANCES_MAX} instances of a role")));
                }
            }
            "memory" => limits.memory = map.next_value::<Bytes>()?.max(Bytes::mebi(4)),
            "cpu" => limits.cpu = map.next_value::<MilliCpu>()?,
            "pids" => limits.pids = positive(map.next_value()?, "pids")?,
            "disk" => limits.disk = map.next_value::<Bytes>()?.max(Bytes::mebi(1)),
            "health" => role.health = map.next_value_seed(HealthSeed)?,
            "stop_signal" => role.stop_signal = map.next_value::<StopSignal>()?.0,
            "stop_timeout" => role.stop_timeout = Seconds(map.next_value()?),
            "request_timeout" => {
                role.request_timeout = Seconds(positive(map.next_value()?, "request_timeout")?);
            }
            "drain" => role.drain = Some(Seconds(map.next_value()?)),
            "request_buffer" => role.request_buffer = Some(map.next_value::<Buffered>()?.0),
            "env" => role.env = checked_env(map.next_value()?).map_err(M::Error::custom)?,
            _ => role.volumes = checked_volumes(map.next_value()?).map_err(M::Error::custom)?,
        }
    }
    if matches!(&role.command, Command::Shell(line) if line.is_empty()) {
        return Err(M::Error::custom("a role has no \"command\""));
    }
    role.limits = limits;
    Ok(role)
}

fn positive<T: Default + PartialEq, E: Error>(number: T, what: &str) -> Result<T, E> {
    if number == T::default() { Err(E::custom(format!("{what} must be greater than 0"))) } else { Ok(number) }
}

/// A size from 0 to [`REQUEST_BUFFER_MAX`]. [`Bytes`] itself is never 0.
struct Buffered(Bytes);

impl<'de> Deserialize<'de> for Buffered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BufferedVisitor;
        impl Visitor<'_> for BufferedVisitor {
            type Value = Buffered;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size from 0 to 1M, such as \"256K\"")
            }
            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Buffered, E> {
                if bytes > REQUEST_BUFFER_MAX.0 {
                    return Err(E::custom("request_buffer may be 1M at most, and 0 collects nothing"));
                }
                Ok(Buffered(Bytes(bytes)))
            }
            // The parser may pass a number as a signed integer.
            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Buffered, E> {
                match u64::try_from(bytes) {
                    Ok(bytes) => self.visit_u64(bytes),
                    Err(_) => Err(E::custom("request_buffer may not be less than 0")),
                }
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Buffered, E> {
                match text.trim() {
                    "0" => self.visit_u64(0),
                    text => Bytes::parse(text).map_err(E::custom).and_then(|size| self.visit_u64(size.0)),
                }
            }
        }
        deserializer.deserialize_any(BufferedVisitor)
    }
}

struct Spoken(Protocol);

impl<'de> Deserialize<'de> for Spoken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(|text: &str| match text {
            "http1" => Ok(Spoken(Protocol::Http1)),
            "h2c" => Ok(Spoken(Protocol::H2c)),
            _ => Err(format!("{text:?} is no protocol; known are http1, h2c")),
        }))
    }
}

struct StopSignal(Signal);

impl<'de> Deserialize<'de> for StopSignal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(|text: &str| {
            let names: Vec<_> = Signal::ALL.iter().map(|signal| signal.name()).collect();
            Signal::parse(text)
                .map(StopSignal)
                .ok_or_else(|| format!("{text:?} is no stop signal; known are {}", names.join(", ")))
        }))
    }
}

struct HealthSeed;

impl<'de> DeserializeSeed<'de> for HealthSeed {
    type Value = Health;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Health, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HealthSeed {
    type Value = Health;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as { path: \"/up\" }")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Health, M::Error> {
        let mut health = Health::default();
        while let Some(key) = map.next_key_seed(Key(&HEALTH_KEYS))? {
            match key {
                "path" => health.path = Some(health_path(map.next_value()?).map_err(M::Error::custom)?),
                "command" => {
                    let command: String = map.next_value()?;
                    check_command(&command).map_err(M::Error::custom)?;
                    health.command = Some(command);
                }
                "host" => health.host = Some(health_host(map.next_value()?).map_err(M::Error::custom)?),
                "headers" => health.headers = health_headers(map.next_value()?).map_err(M::Error::custom)?,
                "start" => health.start = Some(health_start(map.next_value()?).map_err(M::Error::custom)?),
                "interval" => health.interval = Seconds(positive(map.next_value()?, "interval")?),
                "timeout" => health.timeout = Seconds(positive(map.next_value()?, "timeout")?),
                _ => health.attempts = positive(map.next_value()?, "attempts")?,
            }
        }
        check_health(&health).map_err(M::Error::custom)?;
        Ok(health)
    }
}

/// Checks that a health check is either a GET or a command.
pub(crate) fn check_health(health: &Health) -> Result<(), String> {
    let over_http = health.path.is_some() || health.host.is_some() || !health.headers.is_empty();
    if health.command.is_some() && over_http {
        return Err("a check is a command or a GET; name \"command\" alone, or \"path\" with \"host\" and \"headers\""
            .to_owned());
    }
    if health.path.is_none() && over_http {
        return Err("\"host\" and \"headers\" are of a GET; name its \"path\" too".to_owned());
    }
    Ok(())
}

/// Checks that a header can carry the host name, with or without a port.
pub(crate) fn health_host(host: String) -> Result<String, String> {
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    if plain && !host.is_empty() && host.len() <= 255 {
        Ok(host)
    } else {
        Err(format!("{host:?} is no host name; write for example \"shop.example\""))
    }
}

/// Checks that a request can carry the header fields.
pub(crate) fn health_headers(headers: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    let is_token = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let reserved = ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer"];
    for (name, value) in &headers {
        if !is_token(name) {
            return Err(format!("{name:?} is no name of a header field"));
        }
        if let Some(reserved) = reserved.iter().find(|reserved| name.eq_ignore_ascii_case(reserved)) {
            let remedy = if *reserved == "host" { "; write health.host" } else { "" };
            return Err(format!("a check cannot set the header field {name}{remedy}"));
        }
        if value.bytes().any(|byte| byte != b'\t' && !(b' '..=b'~').contains(&byte)) {
            return Err(format!("the value of the header field {name} is not plain ASCII text"));
        }
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        let (count, most) = (headers.len(), HEADERS_MAX);
        return Err(format!("{count} header fields of {bytes} bytes; at most {most} of {HEADER_BYTES_MAX} bytes"));
    }
    Ok(headers)
}

/// Checks a start-up time in seconds.
fn health_start(seconds: u32) -> Result<Seconds, String> {
    match seconds {
        1..=START_MAX => Ok(Seconds(seconds)),
        _ => Err(format!("start is {seconds} s; it is between 1 and {START_MAX} s")),
    }
}

/// Checks that a request line can carry the path.
pub(crate) fn health_path(path: String) -> Result<String, String> {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    if path.starts_with('/') && plain {
        Ok(path)
    } else {
        Err(format!("{path:?} is no path; write for example \"/up\""))
    }
}

fn checked_env(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    match env.keys().find(|name| !is_variable_name(name)) {
        Some(name) => Err(format!("{name:?} cannot be the name of an environment variable")),
        None if env.values().any(|value| value.contains('\0')) => Err("an env value holds a NUL character".to_owned()),
        None => Ok(env),
    }
}

fn checked_volumes(volumes: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    volumes.iter().try_for_each(|(name, path)| check_volume(name, path))?;
    Ok(volumes)
}

/// Checks a volume. Its name must be a valid folder name, and its path must not belong to the kernel or to Gantry.
///
/// # Errors
/// The invalid name or path.
pub fn check_volume(name: &str, path: &str) -> Result<(), String> {
    RoleName::parse(name).map_err(|_| format!("{name:?} cannot be the name of a volume"))?;
    let forbidden = ["/", "/proc", "/sys", "/dev", "/.gantry"];
    let under = |place: &str| path == place || (place != "/" && path.starts_with(&format!("{place}/")));
    let plain = path.starts_with('/') && !path.split('/').any(|part| part == ".." || part == ".");
    if !plain || path.contains('\0') || forbidden.iter().any(|place| under(place)) {
        return Err(format!("{path:?} is no place for a volume; write an absolute path such as \"/data\""));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn role(text: &str) -> Role {
        parse(text).expect(text).into_values().next().expect("a role")
    }

    #[test]
    fn the_conventions_own_sample_loads() {
        let sample = "{
    'web': 'unicorn -c /app/unicorn.conf.rb -l 8000 -E $RAILS_ENV',
    'resque': 'bundle exec rake environment resque:work',
    '.shell': '/bin/bash -l',
  }";
        let roles = parse(sample).expect("roles");
        assert_eq!(roles.len(), 3);
        assert!(!RoleName::parse(".shell").is_ok_and(|name| name.is_service()));
    }

    #[test]
    fn an_object_says_more() {
        let text = "{ web: { command: 'x', port: 80, instances: 3, memory: '1G', cpu: 0.5, health: { path: '/up', timeout: 2 },
            stop_signal: 'QUIT', stop_timeout: 60, request_timeout: 90, drain: 7200, request_buffer: '1M', env: { A: 'b' }, volumes: { data: '/var/lib/redis' } } }";
        let role = role(text);
        assert_eq!((role.port, role.instances, role.limits.cpu), (Some(80), 3, MilliCpu(500)));
        assert_eq!((role.health.path.as_deref(), role.health.timeout), (Some("/up"), Seconds(2)));
        assert_eq!((role.stop_signal, role.stop_timeout), (Signal::Quit, Seconds(60)));
        assert_eq!((role.request_timeout, role.drain), (Seconds(90), Some(Seconds(7200))));
        assert_eq!(role.request_buffer(), Bytes::mebi(1));
        assert!(role.stop_first());
    }

    #[test]
    fn what_is_collected_of_a_request_follows_the_protocol_unless_the_role_says() {
        let of = |more: &str| role(&format!("{{ web: {{ command: 'x'{more} }} }}")).request_buffer().0;
        assert_eq!((of(""), of(", protocol: 'h2c'")), (64 << 10, 0));
        assert_eq!(
            (of(", request_buffer: 0"), of(", request_buffer: '0'"), of(", request_buffer: 5000")),
            (0, 0, 5000)
        );
        assert_eq!(of(", protocol: 'h2c', request_buffer: '256K'"), 256 << 10);
        for (size, says) in
            [("'2M'", "1M at most"), ("-1", "request_buffer"), ("'many'", "is not a size"), ("[]", "a size")]
        {
            let error = parse(&format!("{{ web: {{ command: 'x', request_buffer: {size} }} }}")).expect_err(size);
            assert!(error.contains(says), "{size}: {error}");
        }
    }

    #[test]
    fn a_check_may_name_host_headers_and_start_or_a_command() {
        let health = role(
            "{ web: { command: 'x', health: { path: '/up', host: 'shop.example:8080', headers: { 'X-Key': 'a b' }, start: 300 } } }",
        )
        .health;
        assert_eq!((health.host.as_deref(), health.start), (Some("shop.example:8080"), Some(Seconds(300))));
        assert_eq!(health.headers, BTreeMap::from([("X-Key".to_owned(), "a b".to_owned())]));
        let health = role("{ db: { command: 'x', health: { command: 'pg_isready -q', attempts: 5 } } }").health;
        assert_eq!((health.command.as_deref(), health.attempts), (Some("pg_isready -q"), 5));
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_the_right_word() {
        let cases = [
            (
                "{\n  web: { command: 'x', helth: { path: '/' } } }",
                "unknown key \"helth\"; did you mean \"health\"? at line 2 column 24",
            ),
            ("{ web: { command: 'x', health: { pth: '/' } } }", "did you mean \"path\"? at line 1 column 34"),
            ("{ web: { command: 'x', health: { path: '/', command: 'true' } } }", "a check is a command or a GET"),
            ("{ web: { command: 'x', health: { host: 'a.example' } } }", "name its \"path\" too"),
            ("{ web: { command: 'x', health: { path: '/', headers: { Host: 'a' } } } }", "write health.host"),
            ("{ web: { command: 'x', health: { path: '/', headers: { 'a b': 'c' } } } }", "no name of a header field"),
            ("{ web: { command: 'x', health: { path: '/', headers: { a: 'b\\r\\nc: d' } } } }", "not plain ASCII text"),
            ("{ web: { command: 'x', health: { path: '/', host: 'a b' } } }", "is no host name"),
            ("{ web: { command: 'x', health: { path: '/', start: 0 } } }", "it is between 1 and 86400 s"),
            ("{ web: { command: 'x', quibble: 1 } }", "unknown key \"quibble\"; known are command, port"),
            ("{ web: { port: 80 } }", "a role has no \"command\""),
            ("{ web: 7 }", "a command line, or an object with a command"),
            ("{ web: '' }", "a command line is empty"),
            ("{ 'Web': 'x' }", "\"Web\" is not a role name"),
            ("{ '../x': 'x' }", "is not a role name"),
            ("{ web: { command: 'x', memory: 'lots' } }", "is not a size"),
            ("{ web: { command: 'x', port: 70000 } }", "line 1"),
            ("{ web: { command: 'x', stop_signal: 'KILL' } }", "no stop signal"),
            ("{ web: { command: 'x', volumes: { data: '/proc/x' } } }", "no place for a volume"),
            ("{ web: { command: 'x', volumes: { data: '/a/../etc' } } }", "no place for a volume"),
            ("{ web: 'x' ", "line"),
            ("{}", "names no role"),
            ("", ""),
        ];
        for (text, wanted) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(parse(&"[".repeat(60_000)).expect_err("deep").contains("too deeply"));
        assert!(parse(&" ".repeat(100_000)).expect_err("long").contains("at most"));
    }

    proptest! {
        #[test]
        fn no_text_brings_the_parser_down(text in "[\\PC\\n]{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_text_that_looks_like_roles_brings_it_down(text in "[{}\\[\\]'\":,a-z0-9/*\\\\ ]{0,200}") {
            let _ = parse(&text);
        }
    }
}
