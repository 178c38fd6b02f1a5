//! Parser of `container/roles.json`: role → command line, or an object if a role needs more settings. The format is
//! JSON5, because the convention's own sample has single quotes and a trailing comma. The parser refuses an unknown key
//! and names its place and the nearest known key: a misspelt `health` must not mean "no health check".

mod error;
mod keys;
mod placement;
mod schedule;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use gantry_model::execve::is_variable_name;
use gantry_model::role::{AppProtocol, HealthSettings, ResourceLimits, Role, RoleCommand, ShutdownSignal};
use gantry_model::{Bytes, RoleName, Seconds, VolumeName};
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

pub(crate) use error::RolesError;
pub use error::{HealthConflict, SettingError};
pub(crate) use schedule::{cron, of_cron};

use keys::{HEALTH_KEYS, Key, ROLE_KEYS, Text};
use placement::{Placement, Reserve};
use schedule::ScheduleSeed;
use values::{Texts, command_line, processors, request_buffer, seconds, size, text, whole};

/// Size limit. A file of roles is about a page; a larger file is an attack.
const SIZE_MAX: usize = 64 << 10;

/// Nesting limit, deep enough for any role. The parser recurses.
const DEPTH_MAX: usize = 16;

/// Longest start-up time: a day.
pub(crate) const START_MAX: u32 = 86_400;

/// Maximum number of header fields of a check, and of bytes in them.
const HEADERS_MAX: usize = 20;
const HEADER_BYTES_MAX: usize = 4096;

/// Maximum number of copies of a role. A machine's network has addresses for this many copies, with some to spare.
const INSTANCES_MAX: u32 = 1000;

/// Parses the file.
///
/// # Errors
/// [`RolesError`], mostly with line and column.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<RoleName, Role>, RolesError> {
    if text.len() > SIZE_MAX {
        return Err(RolesError::TooLarge(text.len()));
    }
    if let Some(offset) = too_deep(text) {
        let position = json5::Position::from_offset(offset, text);
        return Err(RolesError::TooDeep { line: position.line + 1, column: position.column + 1 });
    }
    let roles: Roles = serde_path_to_error::deserialize(&mut json5::Deserializer::from_str(text)).map_err(named)?;
    if roles.0.is_empty() {
        return Err(RolesError::NoRole);
    }
    Ok(roles.0)
}

/// The error with the name of the role's setting before it: `web.memory: "lots" is not a size … at line 1 column 24`.
fn named(error: serde_path_to_error::Error<json5::Error>) -> RolesError {
    let (setting, error) = (error.path().to_string(), error.into_inner());
    // A path of `.` is the file itself, and `?` stands for an unknown name.
    let is_setting = setting != "." && !setting.contains('?');
    if is_setting { RolesError::Setting { setting, error } } else { RolesError::Syntax(error) }
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
                f.write_str("an object of roles such as { web: \"bin/server\" }")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Roles, M::Error> {
                let mut roles = BTreeMap::new();
                while let Some(Name(name)) = map.next_key()? {
                    let RoleEntry(role) = map.next_value()?;
                    if roles.insert(name.clone(), role).is_some() {
                        return Err(M::Error::custom(format!("role {name} is there twice")));
                    }
                }
                Ok(Roles(roles))
            }
        }
        deserializer.deserialize_any(RolesVisitor)
    }
}

struct Name(RoleName);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(|text: &str| RoleName::parse(text).map(Name).map_err(SettingError::from)))
    }
}

/// A role: a command line or an object.
struct RoleEntry(Role);

impl<'de> Deserialize<'de> for RoleEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = RoleEntry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command line, or an object with a command")
            }
            fn visit_str<E: Error>(self, command: &str) -> Result<RoleEntry, E> {
                check_command(command)
                    .map_err(E::custom)
                    .map(|()| RoleEntry(Role::new(RoleCommand::Shell(command.to_owned()))))
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<RoleEntry, M::Error> {
                read_role(map).map(RoleEntry)
            }
        }
        deserializer.deserialize_any(EntryVisitor)
    }
}

/// Checks that a command is not empty and holds no NUL.
pub(crate) fn check_command(command: &str) -> Result<(), SettingError> {
    if command.trim().is_empty() {
        return Err(SettingError::EmptyCommand);
    }
    if command.contains('\0') {
        return Err(SettingError::NulInCommand);
    }
    Ok(())
}

fn read_role<'de, M: MapAccess<'de>>(mut map: M) -> Result<Role, M::Error> {
    let mut role = Role::new(RoleCommand::Shell(String::new()));
    let mut limits = ResourceLimits::default();
    let mut copies = None;
    while let Some(key) = map.next_key_seed(Key(&ROLE_KEYS))? {
        match key {
            "command" => role.command = RoleCommand::Shell(map.next_value_seed(command_line())?),
            "port" => role.port = u16::try_from(map.next_value_seed(whole(1, 65_535))?).ok(),
            "protocol" => role.protocol = map.next_value::<Spoken>()?.0,
            "instances" => copies = Some(map.next_value_seed(whole(0, INSTANCES_MAX))?),
            "memory" => limits.memory = map.next_value_seed(size(Bytes::mebi(4)))?,
            "cpu" => limits.cpu = map.next_value_seed(processors())?,
            "pids" => limits.pids = map.next_value_seed(whole(1, 1 << 22))?,
            "disk" => limits.disk = map.next_value_seed(size(Bytes::mebi(1)))?,
            "health" => role.health = map.next_value_seed(HealthSeed)?,
            "stop_signal" => role.stop_signal = map.next_value::<StopSignal>()?.0,
            "stop_timeout" => role.stop_timeout = Seconds(map.next_value_seed(seconds(0))?),
            "request_timeout" => role.request_timeout = Seconds(map.next_value_seed(seconds(1))?),
            "drain" => role.drain = Some(Seconds(map.next_value_seed(seconds(0))?)),
            "request_buffer" => role.request_buffer = Some(map.next_value_seed(request_buffer())?),
            "single" => role.single = map.next_value()?,
            "schedule" => role.schedule = Some(map.next_value_seed(ScheduleSeed)?),
            "reserve" => map.next_value_seed(Reserve(&mut role.placement))?,
            "placement" => map.next_value_seed(Placement(&mut role.placement))?,
            "env" => role.env = map.next_value_seed(Texts("an object such as { NAME: \"value\" }", checked_env))?,
            _ => {
                role.volumes =
                    map.next_value_seed(Texts("an object such as { data: \"/var/lib/data\" }", checked_volumes))?
            }
        }
    }
    if matches!(&role.command, RoleCommand::Shell(line) if line.is_empty()) {
        return Err(M::Error::custom("a role has no \"command\""));
    }
    if role.single && (role.schedule.is_some() || copies.is_some_and(|copies| copies > 1)) {
        return Err(M::Error::custom(
            "a \"single\" role has one copy: it has no \"schedule\", and \"instances\" is 1 or 0",
        ));
    }
    if role.placement.global && (role.schedule.is_some() || role.stop_first() || copies.is_some()) {
        return Err(M::Error::custom(
            "a \"global\" role has a copy on each machine: no \"instances\", \"single\", \"volumes\" or \"schedule\"",
        ));
    }
    role.instances = match (&role.schedule, copies) {
        (Some(_), Some(1..)) => return Err(M::Error::custom("a role with a \"schedule\" has no \"instances\"")),
        (Some(_), _) => 0,
        (None, copies) => copies.unwrap_or(role.instances),
    };
    role.limits = limits;
    Ok(role)
}

struct Spoken(AppProtocol);

impl<'de> Deserialize<'de> for Spoken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(|text: &str| match text {
            "http1" => Ok(Spoken(AppProtocol::Http1)),
            "h2c" => Ok(Spoken(AppProtocol::H2c)),
            _ => Err(SettingError::Protocol(text.to_owned())),
        }))
    }
}

struct StopSignal(ShutdownSignal);

impl<'de> Deserialize<'de> for StopSignal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(|text: &str| {
            let names: Vec<_> = ShutdownSignal::ALL.iter().map(|signal| signal.name()).collect();
            let unknown = || SettingError::StopSignal { text: text.to_owned(), known: names.join(", ") };
            ShutdownSignal::parse(text).map(StopSignal).ok_or_else(unknown)
        }))
    }
}

struct HealthSeed;

impl<'de> DeserializeSeed<'de> for HealthSeed {
    type Value = HealthSettings;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<HealthSettings, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for HealthSeed {
    type Value = HealthSettings;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as { path: \"/up\" }")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<HealthSettings, M::Error> {
        let mut health = HealthSettings::default();
        while let Some(key) = map.next_key_seed(Key(&HEALTH_KEYS))? {
            match key {
                "path" => health.path = Some(map.next_value_seed(text(health_path))?),
                "command" => health.command = Some(map.next_value_seed(command_line())?),
                "host" => health.host = Some(map.next_value_seed(text(health_host))?),
                "headers" => {
                    health.headers =
                        map.next_value_seed(Texts("an object such as { \"X-Key\": \"value\" }", health_headers))?
                }
                "start" => health.start = Some(Seconds(map.next_value_seed(whole(1, START_MAX))?)),
                "interval" => health.interval = Seconds(map.next_value_seed(seconds(1))?),
                "timeout" => health.timeout = Seconds(map.next_value_seed(seconds(1))?),
                _ => health.attempts = map.next_value_seed(whole(1, 1 << 31))?,
            }
        }
        check_health(&health).map_err(M::Error::custom)?;
        Ok(health)
    }
}

/// Checks that a health check is either a GET or a command.
pub(crate) fn check_health(health: &HealthSettings) -> Result<(), HealthConflict> {
    let over_http = health.path.is_some() || health.host.is_some() || !health.headers.is_empty();
    match (&health.command, &health.path) {
        (Some(_), _) if over_http => Err(HealthConflict::CommandAndGet),
        (_, None) if over_http => Err(HealthConflict::GetWithoutPath),
        _ => Ok(()),
    }
}

/// Checks that a header can carry the host name, with or without a port.
pub(crate) fn health_host(host: String) -> Result<String, SettingError> {
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    if plain && !host.is_empty() && host.len() <= 255 { Ok(host) } else { Err(SettingError::Host(host)) }
}

/// Checks that a request can carry the header fields.
pub(crate) fn health_headers(headers: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SettingError> {
    let is_token = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let reserved = ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer"];
    for (name, value) in &headers {
        if !is_token(name) {
            return Err(SettingError::HeaderName(name.clone()));
        }
        if let Some(reserved) = reserved.iter().find(|reserved| name.eq_ignore_ascii_case(reserved)) {
            let remedy = if *reserved == "host" { "; write health.host" } else { "" };
            return Err(SettingError::ReservedHeader { name: name.clone(), remedy });
        }
        if value.bytes().any(|byte| byte != b'\t' && !(b' '..=b'~').contains(&byte)) {
            return Err(SettingError::HeaderValue(name.clone()));
        }
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        return Err(SettingError::TooManyHeaders { count: headers.len(), bytes });
    }
    Ok(headers)
}

/// Checks that a request line can carry the path.
pub(crate) fn health_path(path: String) -> Result<String, SettingError> {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    if path.starts_with('/') && plain { Ok(path) } else { Err(SettingError::Path(path)) }
}

fn checked_env(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SettingError> {
    match env.keys().find(|name| !is_variable_name(name)) {
        Some(name) => Err(SettingError::VariableName(name.clone())),
        None if env.values().any(|value| value.contains('\0')) => Err(SettingError::NulInValue),
        None => Ok(env),
    }
}

fn checked_volumes(volumes: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SettingError> {
    volumes.iter().try_for_each(|(name, path)| check_volume(name, path))?;
    Ok(volumes)
}

/// Checks a volume. Its name must be a valid folder name, and its path must not belong to the kernel or to Gantry.
///
/// # Errors
/// The invalid name or path.
pub fn check_volume(name: &str, path: &str) -> Result<(), SettingError> {
    VolumeName::parse(name).map_err(|_| SettingError::VolumeName(name.to_owned()))?;
    let forbidden = ["/", "/proc", "/sys", "/dev", "/.gantry"];
    let under = |place: &str| path == place || (place != "/" && path.starts_with(&format!("{place}/")));
    let plain = path.starts_with('/') && !path.split('/').any(|part| part == ".." || part == ".");
    if !plain || path.contains('\0') || forbidden.iter().any(|place| under(place)) {
        return Err(SettingError::VolumePlace(path.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::MilliCpu;
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
    }

    #[test]
    fn parses_the_object_form_of_a_role() {
        let text = "{ web: { command: 'x', port: 80, instances: 3, memory: '1G', cpu: 0.5, health: { path: '/up', timeout: 2 },
            stop_signal: 'QUIT', stop_timeout: 60, request_timeout: 90, drain: 7200, request_buffer: '1M', env: { A: 'b' }, volumes: { data: '/var/lib/redis' } } }";
        let role = role(text);
        assert_eq!((role.port, role.instances, role.limits.cpu), (Some(80), 3, MilliCpu(500)));
        assert_eq!((role.health.path.as_deref(), role.health.timeout), (Some("/up"), Seconds(2)));
        assert_eq!((role.stop_signal, role.stop_timeout), (ShutdownSignal::Quit, Seconds(60)));
        assert_eq!((role.request_timeout, role.drain), (Seconds(90), Some(Seconds(7200))));
        assert_eq!(role.request_buffer(), Bytes::mebi(1));
        assert!(role.stop_first());
    }

    #[test]
    fn a_global_role_has_no_number_of_copies() {
        assert!(role("{ agent: { command: 'x', placement: { global: true } } }").placement.global);
        for text in ["instances: 2", "single: true", "volumes: { data: '/data' }", "schedule: '@daily'"] {
            let text = format!("{{ agent: {{ command: 'x', placement: {{ global: true }}, {text} }} }}");
            let error = parse(&text).expect_err(&text).to_string();
            assert!(error.contains("has a copy on each machine"), "{text}: {error}");
        }
    }

    #[test]
    fn a_single_role_has_one_copy() {
        let single = role("{ worker: { command: 'x', single: true } }");
        assert!(single.single && single.stop_first() && single.moves_fenced());
        for text in ["instances: 2", "schedule: '@daily'"] {
            let error =
                parse(&format!("{{ worker: {{ command: 'x', single: true, {text} }} }}")).expect_err(text).to_string();
            assert!(error.contains("has one copy"), "{text}: {error}");
        }
    }

    #[test]
    fn a_schedule_is_an_expression_or_an_object() {
        let short = role("{ report: { command: 'x', schedule: '0 6 * * *' } }");
        assert_eq!((short.instances, short.schedule), (0, Some(of_cron("0 6 * * *".to_owned()))));
        let long = role(
            "{ report: { command: 'x', instances: 0, schedule: { cron: '@daily', timezone: 'europe/paris', missed: 'skip', overlap: 'forbid' } } }",
        );
        let schedule = long.schedule.expect("a schedule");
        assert_eq!((schedule.cron.as_str(), schedule.timezone.as_deref()), ("@daily", Some("Europe/Paris")));
        for (text, says) in [
            ("{ report: { command: 'x', schedule: '61 * * * *' } }", "report.schedule: \"61\" is not a valid minute"),
            ("{ report: { command: 'x', schedule: { timezone: 'UTC' } } }", "a schedule has no \"cron\""),
            ("{ report: { command: 'x', schedule: { cron: '@daily', tz: 'UTC' } } }", "did you mean \"timezone\""),
            ("{ report: { command: 'x', schedule: { cron: '@daily', timezone: 'Mars' } } }", "there is no time zone"),
            ("{ report: { command: 'x', schedule: { cron: '@daily', overlap: 'maybe' } } }", "known are allow"),
            ("{ report: { command: 'x', schedule: '@daily', instances: 2 } }", "has no \"instances\""),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_role_may_reserve_and_name_its_machines() {
        let rules = |text: &str| {
            let text = format!("{{ web: {{ command: 'x', {text} }} }}");
            parse(&text).map(|roles| roles.into_values().next().expect("a role").placement)
        };
        assert!(rules("").expect("rules").is_default());
        let read = rules(
            "reserve: { memory: '256M', cpu: 0.5 }, placement: { labels: { disk: 'ssd', zone: ['a', 'b'] }, \
             with: 'shop/cache', apart_from: ['*/batch', 'blog'], one_per_machine: true, machine: 'm1', spread: 'zone', \
             architecture: 'arm64' }",
        );
        let expected = serde_json::json!({
            "reserve_memory": 268_435_456, "reserve_cpu": 0.5, "labels": { "disk": ["ssd"], "zone": ["a", "b"] },
            "architecture": "arm64", "with": ["shop/cache"], "apart_from": ["*/batch", "blog/*"],
            "one_per_machine": true, "machine": "m1", "spread": "zone",
        });
        assert_eq!(serde_json::to_value(read.expect("rules")).expect("JSON"), expected);
        for (text, wanted) in [
            ("reserve: { disk: '1G' }", "unknown key"),
            ("reserve: { memory: 256 }", "less than the minimum"),
            ("placement: { label: { disk: 'ssd' } }", "did you mean \"labels\""),
            ("placement: { labels: { disk: [] } }", "label disk has no value"),
            ("placement: { labels: { 'a b': 'x' } }", "not a label's key"),
            ("placement: { with: ['a b'] }", "not a pattern of roles"),
            ("placement: { architecture: '../x' }", "not an architecture"),
        ] {
            let error = rules(text).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn the_request_buffer_follows_the_protocol_unless_the_role_sets_it() {
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
            let error =
                parse(&format!("{{ web: {{ command: 'x', request_buffer: {size} }} }}")).expect_err(size).to_string();
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
            (
                "{ web: { command: 'x', health: { path: '/', headers: { 'a b': 'c' } } } }",
                "not the name of a header field",
            ),
            ("{ web: { command: 'x', health: { path: '/', headers: { a: 'b\\r\\nc: d' } } } }", "not plain ASCII text"),
            ("{ web: { command: 'x', health: { path: '/', host: 'a b' } } }", "is not a host name"),
            (
                "{ web: { command: 'x', health: { path: '/', start: 0 } } }",
                "web.health.start: 0 is not a whole number from 1",
            ),
            ("{ web: { command: 'x', quibble: 1 } }", "unknown key \"quibble\"; known are command, port"),
            ("{ web: { port: 80 } }", "a role has no \"command\""),
            ("{ web: 7 }", "a command line, or an object with a command"),
            ("{ web: '' }", "a command line is empty"),
            ("{ 'Web': 'x' }", "\"Web\" is not a role name"),
            ("{ '../x': 'x' }", "is not a role name"),
            (
                "{ web: { command: 'x', memory: 'lots' } }",
                "web.memory: \"lots\" is not a size; write for example 512M or 2G at line 1 column 32",
            ),
            ("{ web: { command: 'x', memory: -1 } }", "web.memory: -1 is not a size"),
            (
                "{ web: { command: 'x', port: 70000 } }",
                "web.port: 70000 is not a whole number from 1 to 65535 at line 1 column 30",
            ),
            (
                "{ web: { command: 'x', port: '80' } }",
                "web.port: \"80\" is not a number; write a number without quotes",
            ),
            ("{ web: { command: 'x', cpu: 'half' } }", "web.cpu: \"half\" is not a number of processors"),
            ("{ web: { command: 'x', instances: 1.5 } }", "web.instances: 1.5 is not a whole number from 0 to 1000"),
            (
                "{ web: { command: 'x', pids: true } }",
                "web.pids: invalid type: boolean `true`, expected a whole number",
            ),
            ("{ web: { command: 7 } }", "web.command: 7 is not a text; put it in quotes at line 1 column 19"),
            (
                "{ web: { command: 'x', env: { 'a b': 'c' } } }",
                "web.env: \"a b\" cannot be the name of an environment variable at line 1 column 29",
            ),
            ("{ web: { command: 'x', memory: 512 } }", "web.memory: 512 bytes is less than the minimum of 4M; write"),
            ("{ web: { command: 'x', disk: '1K' } }", "web.disk: \"1K\" is less than the minimum of 1M"),
            (
                "{ web: { command: 'x', volumes: ['/data'] } }",
                "web.volumes: invalid type: sequence, expected an object such as { data: \"/var/lib/data\" } at line 1",
            ),
            ("{ web: { command: 'x', env: 'A=b' } }", "expected an object such as { NAME: \"value\" }"),
            ("{ web: { command: 'x', env: { A: 1 } } }", "web.env.A: 1 is not a text; put it in quotes"),
            ("{ web: { command: 'x', health: '/up' } }", "expected an object such as { path: \"/up\" }"),
            ("['web']", "expected an object of roles such as"),
            ("{ web: { command: 'x', drain: 'long' } }", "web.drain: \"long\" is not a number"),
            // Another tool's word for a key, or another way to write the key.
            ("{ web: { cmd: 'x' } }", "unknown key \"cmd\"; did you mean \"command\"? at line 1 column 10"),
            ("{ web: { command: 'x', replicas: 2 } }", "did you mean \"instances\"?"),
            ("{ web: { command: 'x', stopSignal: 'TERM' } }", "did you mean \"stop_signal\"?"),
            ("{ web: { command: 'x', 'stop-timeout': 3 } }", "did you mean \"stop_timeout\"?"),
            ("{ web: { command: 'x', health: { path: '/', retries: 2 } } }", "did you mean \"attempts\"?"),
            ("{ web: { command: 'x', gpu: 1 } }", "did you mean \"cpu\"?"),
            ("{ web: { command: 'x', stop_signal: 'KILL' } }", "not a stop signal"),
            ("{ web: { command: 'x', volumes: { data: '/proc/x' } } }", "not a place for a volume"),
            ("{ web: { command: 'x', volumes: { data: '/a/../etc' } } }", "not a place for a volume"),
            ("{ web: 'x' ", "line"),
            ("{}", "names no role"),
            ("", ""),
        ];
        for (text, wanted) in cases {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(parse(&"[".repeat(60_000)).expect_err("deep").to_string().contains("too deeply"));
        assert!(parse(&" ".repeat(100_000)).expect_err("long").to_string().contains("at most"));
    }

    proptest! {
        #[test]
        fn no_text_brings_the_parser_down(text in "[\\PC\\n]{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn survives_any_text_that_resembles_roles(text in "[{}\\[\\]'\":,a-z0-9/*\\\\ ]{0,200}") {
            let _ = parse(&text);
        }
    }
}
