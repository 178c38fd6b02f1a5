//! Parsers of the values of arguments.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use gantry_model::{
    ClusterPolicy, LabelKey, LabelValue, Moment, NameError, PolicyKey, RoleName, RuleError, UnknownRule, VolumeName,
};
use gantry_queue::{ConcurrencyKey, InvalidQueueName, InvalidScheduleName, QueueName, ScheduleName};
use gantry_queue_store::{PostgresAddress, PostgresAddressError};

/// Reason why a text is no value of an argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidValue {
    #[error("{0:?} is not a number in range; write a whole number, for example 20")]
    Number(String),
    #[error("{0:?} is not an address with a port; write for example 127.0.0.1:4680 or [::]:80")]
    SocketAddress(String),
    #[error("{0:?} is not a number of jobs; write for example customer-7=2")]
    JobCount(String),
    #[error("{0:?} is not NAME=VALUE; write for example LOG_LEVEL=debug")]
    Pair(String),
    #[error("{0:?} is not an age; write for example 90s, 15m, 1h or 2d")]
    Age(String),
    #[error("{0:?} is not a time; write for example 2026-12-01T06:00:00+01:00")]
    Time(String),
    #[error("{0:?} is not NAME:PATH, such as data:/var/lib/data")]
    Mount(String),
    #[error("{path:?} is not an absolute path; write for example {name}:/var/lib/data")]
    MountPath { name: String, path: String },
    #[error("{name:?} cannot be the name of a volume; write for example data:{path}")]
    VolumeName { name: String, path: String },
    #[error("{0:?} is not a port; write 1 to 65535, or auto for the one that the image says")]
    Port(String),
    #[error("{0:?} is not ROLE=COUNT; write for example web=3")]
    Scale(String),
    #[error("{0:?} is not a number of copies; write for example web=3")]
    Copies(String),
    #[error(
        "{0:?} is neither a host name nor an IP address; write for example m1.example.com or 10.0.0.5, without a port"
    )]
    Host(String),
    #[error("{0:?} is not the address of a server; write for example m1:7000")]
    ServerAddress(String),
    #[error("{0:?} is not a machine for ssh; write for example root@m5")]
    SshTarget(String),
    #[error("{0:?} is not a network; write for example 10.83.0.1/16")]
    Network(String),
    #[error("the prefix length is between 8 and 28")]
    NetworkPrefix,
    #[error("write the app and the name of the lock, for example shop/migrate")]
    NoLockName,
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Parser of the address of the jobs' database. Its errors do not repeat the value, which may contain a password.
#[derive(Debug, Clone)]
pub(crate) struct JobStoreParser;

impl TypedValueParser for JobStoreParser {
    type Value = PostgresAddress;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<PostgresAddress, clap::Error> {
        let parsed = value.to_str().ok_or(PostgresAddressError::Form).and_then(str::parse);
        parsed.map_err(|error| {
            let flag = argument.and_then(clap::Arg::get_long).unwrap_or("job-store");
            clap::Error::raw(ErrorKind::ValueValidation, format!("--{flag}: {error}\n")).with_cmd(command)
        })
    }
}

/// Parses a concurrency key: `KEY` or `KEY=LIMIT`.
pub(super) fn concurrency_key(text: &str) -> Result<ConcurrencyKey, InvalidValue> {
    let (name, limit) = text.rsplit_once('=').unwrap_or((text, "1"));
    let limit = limit.parse().map_err(|_| InvalidValue::JobCount(limit.to_owned()))?;
    Ok(ConcurrencyKey { name: name.to_owned(), limit })
}

/// App of the codes that are named without an app.
pub(crate) const CODES_APP: &str = "jobs";

/// Parses the name of a code or of its queue: `APP/CODE`, or `CODE` of the app [`CODES_APP`].
pub(super) fn code_name(text: &str) -> Result<QueueName, InvalidQueueName> {
    with_codes_app(text).parse()
}

/// Parses the name of a schedule: `APP/NAME`, or `NAME` of the app [`CODES_APP`].
pub(super) fn schedule_name(text: &str) -> Result<ScheduleName, InvalidScheduleName> {
    with_codes_app(text).parse()
}

/// Adds the app [`CODES_APP`] to a name without an app.
fn with_codes_app(text: &str) -> Cow<'_, str> {
    if text.contains('/') { Cow::Borrowed(text) } else { Cow::Owned(format!("{CODES_APP}/{text}")) }
}

/// A variable with its value. The value may be secret, and Debug leaves it out.
#[derive(Clone)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Variable").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Parses `NAME=VALUE`.
pub(super) fn variable(text: &str) -> Result<Variable, InvalidValue> {
    let (name, value) = text.split_once('=').ok_or_else(|| InvalidValue::Pair(text.to_owned()))?;
    Ok(Variable { name: name.to_owned(), value: value.to_owned() })
}

/// Parses a time with its offset from UTC.
pub(super) fn moment(text: &str) -> Result<Moment, InvalidValue> {
    gantry_schedule::parse_rfc3339(text).ok_or_else(|| InvalidValue::Time(text.to_owned()))
}

/// Parses `disk=ssd`, or `disk-` for a label to remove.
pub(super) fn label_change(text: &str) -> Result<(LabelKey, Option<LabelValue>), LabelArgumentError> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) => Ok((LabelKey::parse(key)?, Some(LabelValue::parse(value)?))),
        (None, Some(key)) => Ok((LabelKey::parse(key)?, None)),
        (None, None) => Err(LabelArgumentError::Form(text.to_owned())),
    }
}

/// Reason why an argument is no label.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LabelArgumentError {
    #[error("{0:?} is not KEY=VALUE, nor KEY- to remove a label")]
    Form(String),
    #[error(transparent)]
    Text(#[from] NameError),
}

/// Parses `drain=60s`.
pub(super) fn rule(text: &str) -> Result<(PolicyKey, String), RuleArgumentError> {
    let (name, value) = text.split_once('=').ok_or_else(|| RuleArgumentError::Form(text.to_owned()))?;
    let key = name.parse()?;
    Ok((key, rule_value(key, value)?))
}

/// Checks that a text is a value of the rule.
pub(super) fn rule_value(key: PolicyKey, text: &str) -> Result<String, RuleError> {
    ClusterPolicy::default().set(key, text).map(|()| text.to_owned())
}

/// Reason why an argument is no rule with its value.
#[derive(Debug, thiserror::Error)]
pub(super) enum RuleArgumentError {
    #[error("{0:?} is not RULE=VALUE")]
    Form(String),
    #[error(transparent)]
    Rule(#[from] UnknownRule),
    #[error(transparent)]
    Value(#[from] RuleError),
}

pub(super) fn volume(text: &str) -> Result<(String, String), InvalidValue> {
    let (name, path) = text.split_once(':').ok_or_else(|| InvalidValue::Mount(text.to_owned()))?;
    let (owned, path) = (name.to_owned(), path.to_owned());
    if !path.is_empty() && !path.starts_with('/') {
        return Err(InvalidValue::MountPath { name: owned, path });
    }
    match VolumeName::parse(name) {
        Ok(name) => Ok((name.to_string(), path)),
        Err(_) => Err(InvalidValue::VolumeName { name: owned, path }),
    }
}

/// Parses a volume of a one-off: `data` or `data:/path`.
pub(super) fn run_volume(text: &str) -> Result<(VolumeName, Option<String>), InvalidValue> {
    let (name, path) = text.split_once(':').map_or((text, None), |(name, path)| (name, Some(path)));
    if let Some(path) = path.filter(|path| !path.starts_with('/')) {
        return Err(InvalidValue::MountPath { name: name.to_owned(), path: path.to_owned() });
    }
    Ok((VolumeName::parse(name)?, path.map(str::to_owned)))
}

/// Parses a port; 0 stands for `auto`, the port that the image declares.
pub(super) fn image_port(text: &str) -> Result<u16, InvalidValue> {
    match (text, text.parse()) {
        ("auto", _) => Ok(0),
        (_, Ok(port @ 1..)) => Ok(port),
        _ => Err(InvalidValue::Port(text.to_owned())),
    }
}

pub(super) fn parse_count(text: &str) -> Result<(RoleName, u32), InvalidValue> {
    let (role, count) = text.split_once('=').ok_or_else(|| InvalidValue::Scale(text.to_owned()))?;
    let role = RoleName::parse(role)?;
    count.parse().map(|count| (role, count)).map_err(|_| InvalidValue::Copies(count.to_owned()))
}

/// Parses a whole number.
pub(super) fn number<T: FromStr>(text: &str) -> Result<T, InvalidValue> {
    text.parse().map_err(|_| InvalidValue::Number(text.to_owned()))
}

/// Parses an IP address with a port.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, InvalidValue> {
    text.parse().map_err(|_| InvalidValue::SocketAddress(text.to_owned()))
}

/// Parses an age into milliseconds.
pub(super) fn age(text: &str) -> Result<u64, InvalidValue> {
    let wrong = || InvalidValue::Age(text.to_owned());
    let unit = match text.chars().last() {
        Some('s') => 1000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

/// Parses a host name or an IP address, without a port.
pub(super) fn host(text: &str) -> Result<String, InvalidValue> {
    let is_name = text.split('.').all(|label| {
        !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    });
    if (is_name && text.len() <= 253) || text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(InvalidValue::Host(text.to_owned()))
}

/// Parses `host:port`; the port is 7000 if there is none.
pub(super) fn server_address(text: &str) -> Result<String, InvalidValue> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port),
        _ => (text, "7000"),
    };
    let wrong = || InvalidValue::ServerAddress(text.to_owned());
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    host(bare).map_err(|_| wrong())?;
    Ok(if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") })
}

/// A machine that is reached over ssh: `root@m5`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SshTarget {
    /// The whole text, as ssh takes it.
    pub(crate) text: String,
    /// Host name or address of the machine.
    pub(crate) host: String,
}

/// Parses a machine for ssh. Never returns a text that ssh would take as an option.
pub(super) fn ssh_target(text: &str) -> Result<SshTarget, InvalidValue> {
    let (user, name) = text.split_once('@').map_or((None, text), |(user, name)| (Some(user), name));
    let is_user = |user: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && user.chars().all(plain)
    };
    match host(name) {
        Ok(host) if user.is_none_or(is_user) && !text.starts_with('-') => Ok(SshTarget { text: text.to_owned(), host }),
        _ => Err(InvalidValue::SshTarget(text.to_owned())),
    }
}

/// Parses a label, `disk=ssd`.
pub(super) fn label(text: &str) -> Result<(LabelKey, LabelValue), LabelArgumentError> {
    match label_change(text)? {
        (key, Some(value)) => Ok((key, value)),
        (_, None) => Err(LabelArgumentError::Form(text.to_owned())),
    }
}

pub(super) fn network(text: &str) -> Result<(Ipv4Addr, u8), InvalidValue> {
    let wrong = || InvalidValue::Network(text.to_owned());
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let (address, prefix): (Ipv4Addr, u8) =
        (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
    if (8..=28).contains(&prefix) { Ok((address, prefix)) } else { Err(InvalidValue::NetworkPrefix) }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{Args, Command};

    #[test]
    fn debug_leaves_out_the_values_of_variables() {
        for words in
            [["config", "set", "shop", "PASSWORD=cli-secret"], ["job", "run", "shop/report", "-ePASSWORD=cli-secret"]]
        {
            let shown = format!("{:?}", Args::try_parse_from([&["gantry"], &words[..]].concat()).expect("arguments"));
            assert!(shown.contains("PASSWORD") && !shown.contains("cli-secret"), "{shown}");
        }
    }

    #[test]
    fn a_wrong_pair_is_refused_with_an_example() {
        for (words, expected) in [
            (["scale", "shop", "web"], "\"web\" is not ROLE=COUNT; write for example web=3"),
            (["scale", "shop", "web=x"], "\"x\" is not a number of copies; write for example web=3"),
            (["config set", "shop", "COLOR"], "\"COLOR\" is not NAME=VALUE; write for example LOG_LEVEL=debug"),
            (["job", "show", "x"], "\"x\" is not the number of a job; write for example 42"),
        ] {
            let words = words.iter().flat_map(|word| word.split(' '));
            let refused = Args::try_parse_from(std::iter::once("gantry").chain(words)).expect_err("a wrong value");
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }

    #[test]
    fn a_label_is_set_or_removed() {
        let (key, value) = label_change("disk=ssd").expect("a label");
        assert_eq!((key.as_str(), value.as_ref().map(LabelValue::as_str)), ("disk", Some("ssd")));
        assert_eq!(label_change("disk-").map(|(key, value)| (key.to_string(), value)), Ok(("disk".to_owned(), None)));
        assert_eq!(label_change("disk"), Err(LabelArgumentError::Form("disk".to_owned())));
        for wrong in ["=ssd", "disk=", "a b=c", "-", &format!("{}=x", "k".repeat(64))] {
            assert!(matches!(label_change(wrong), Err(LabelArgumentError::Text(_))), "{wrong}");
        }
    }

    #[test]
    fn a_name_without_an_app_belongs_to_the_app_of_codes() {
        for (text, expected) in [("report", "jobs/report"), ("shop/report", "shop/report")] {
            assert_eq!(code_name(text).map(|name| name.to_string()).as_deref(), Ok(expected));
            assert_eq!(schedule_name(text).map(|name| name.to_string()).as_deref(), Ok(expected));
        }
        assert!(code_name("shop/").is_err() && schedule_name("a/b/c").is_err());
        let commands: [&[&str]; 6] = [
            &["schedule", "show", "report"],
            &["schedule", "rm", "report"],
            &["queue", "pause", "report"],
            &["queue", "limit", "report", "4"],
            &["queue", "dead", "report"],
            &["job", "run", "report"],
        ];
        for words in commands {
            assert!(Args::try_parse_from([&["gantry"], words].concat()).is_ok(), "{words:?}");
        }
    }

    #[test]
    fn a_machine_for_ssh_is_no_option() {
        for (text, host) in [("root@m5", "m5"), ("m5.example.com", "m5.example.com"), ("root@fd00::5", "fd00::5")] {
            assert_eq!(ssh_target(text).map(|target| target.host).as_deref(), Ok(host));
        }
        for wrong in ["", "root@", "-oProxyCommand=id", "-o@m5", "root@-o x", "ssh://root@m5", "root@m5:22"] {
            assert!(ssh_target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        assert_eq!(age("15m"), Ok(900_000));
        assert!(age("15").is_err() && age("ü").is_err() && age("").is_err());
        assert_eq!(moment("1970-01-01T01:00:01+01:00"), Ok(Moment(1000)));
        assert!(moment("tomorrow").is_err() && moment("1960-01-01T00:00:00Z").is_err());
        assert!(network("10.0.0.1/33").is_err() && network("x").is_err());
        let parse = |words: &[&str]| Args::try_parse_from([&["gantry", "up"], words].concat());
        let openings = ["--host-ports", "5432,8125/udp", "--metadata", "169.254.169.254,fd00:ec2::254"];
        let Ok(Args { command: Command::Up(machine), .. }) = parse(&openings) else { panic!("{openings:?}") };
        assert_eq!((machine.host_ports.len(), machine.metadata.len()), (2, 2));
        assert!(parse(&["--host-ports", "5432,x"]).is_err() && parse(&["--metadata", "10.0.0.1"]).is_err());
        assert!(matches!(rule("trusted-proxies="), Ok((PolicyKey::TrustedProxies, value)) if value.is_empty()));
        let why = |text: &str| rule(text).expect_err(text).to_string();
        assert_eq!(why("drain=soon"), "\"soon\" is not a time; write for example 30s, 10m, 2h or 1d");
        assert!(why("x=1").starts_with("there is no rule \"x\"; the rules are: domain"));
        assert_eq!(why("drain"), "\"drain\" is not RULE=VALUE");
        assert_eq!(parse_count("web=3").map(|(role, n)| (role.to_string(), n)), Ok(("web".to_owned(), 3)));
    }
}
