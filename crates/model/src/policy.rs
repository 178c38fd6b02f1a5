//! Cluster policy: the rules that hold for the whole cluster, one record of the store.
//!
//! A rule that is not set has its default. The table below is the only place where rules are written down: the record,
//! the flags of `gantry up`, the API and the CLI take names, grammar, bounds and defaults from the table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::proxies::PROXIES_MAX;
use crate::{
    AppUrl, AppUrlError, Bytes, HostName, MachineSubnet, MachineSubnetError, NameError, Seconds, Subnet, SubnetError,
    TrustedProxies, defaults,
};

const DAY: u64 = 86_400;

/// Defines the rules: key, field with its type, name, meaning, default, and the least and the greatest number.
macro_rules! rules {
    ($($key:ident $field:ident: $type:ty, $name:literal, $meaning:literal, $default:expr, $bounds:expr;)+) => {
        /// A rule of the cluster policy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PolicyKey {
            $(#[doc = $meaning] $key,)+
        }

        /// The cluster policy. A rule that is `None` has its default.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct ClusterPolicy {
            /// True once a server has taken its settings over as the first values.
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            pub adopted: bool,
            /// True once a server has taken its address of the apps over as the first `app-url`. The rule is younger than
            /// the other settings.
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            pub app_url_adopted: bool,
            /// The address of the apps in the settings of that server. A person gave `app-url` any other value.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub first_app_url: Option<AppUrl>,
            $(
                #[doc = $meaning]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )+
        }

        impl PolicyKey {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$key),+];

            /// Name of the rule: `bake-time`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$key => $name),+ }
            }

            /// Meaning of the rule, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$key => $meaning),+ }
            }
        }

        impl ClusterPolicy {
            $(
                #[doc = $meaning]
                #[must_use]
                pub fn $field(&self) -> $type {
                    self.$field.clone().unwrap_or_else(|| $default)
                }
            )+

            /// Sets a rule to the value that a text names.
            ///
            /// # Errors
            /// When the text is no value of the rule.
            pub fn set(&mut self, key: PolicyKey, text: &str) -> Result<(), RuleError> {
                match key {
                    $(PolicyKey::$key => self.$field = Some(<$type as RuleType>::read(text, $bounds)?),)+
                }
                Ok(())
            }

            /// Gives a rule its default again.
            pub fn unset(&mut self, key: PolicyKey) {
                match key { $(PolicyKey::$key => self.$field = None),+ }
            }

            /// Reports whether a rule is set.
            #[must_use]
            pub fn is_set(&self, key: PolicyKey) -> bool {
                match key { $(PolicyKey::$key => self.$field.is_some()),+ }
            }

            /// The value that a rule has, set or by default.
            #[must_use]
            pub fn value(&self, key: PolicyKey) -> RuleValue {
                match key { $(PolicyKey::$key => self.$field().into_value()),+ }
            }
        }
    };
}

rules! {
    Domain domain: HostName, "domain",
        "domain of the apps: an app is reached as <app>.<domain>", localhost(), (0, 0);
    AppUrl app_url: AppUrl, "app-url",
        "how people reach the apps: http or https, with a port if it is not the usual one, such as http:8080",
        AppUrl::HTTP, (0, 0);
    BakeTime bake_time: Seconds, "bake-time",
        "how long the old release stands by after promotion", defaults::BAKE_TIME, (0, DAY);
    WaitFor wait_for: WaitFor, "wait-for",
        "state that a push waits for: serving, or bake for the end of the bake time", WaitFor::Serving, (0, 0);
    Drain drain: Seconds, "drain",
        "how long a retired instance may finish its requests, if its role does not say", defaults::DRAIN_TIME, (0, DAY);
    Deadline deadline: Seconds, "deadline",
        "how long a deploy may make no progress", defaults::DEPLOY_DEADLINE, (1, 7 * DAY);
    CompileTime compile_time: Seconds, "compile-time",
        "time limit of container/compile", Seconds(1800), (1, 7 * DAY);
    CompileMemory compile_memory: Bytes, "compile-memory",
        "memory limit of container/compile", Bytes(4 << 30), (1 << 20, 1 << 50);
    CompileDisk compile_disk: Bytes, "compile-disk",
        "disk limit of container/compile, with the cache of the app", Bytes(8 << 30), (1 << 20, 1 << 50);
    Builds builds: u16, "builds",
        "most builds that run at the same time on a machine", 2, (1, 1000);
    CollectEvery collect_every: Seconds, "collect-every",
        "interval of garbage collection", Seconds(600), (1, 30 * DAY);
    CollectGrace collect_grace: Seconds, "collect-grace",
        "age below which garbage collection keeps unreferenced data", Seconds(3600), (0, 365 * DAY);
    Reserve reserve: Bytes, "reserve",
        "free disk space that a push, build, pull, base or upload must leave", Bytes(1 << 30), (1, 1 << 60);
    SuspectAfter suspect_after: Seconds, "suspect-after",
        "silence after which a machine takes no new copies", Seconds(2), (1, DAY);
    LostAfter lost_after: Seconds, "lost-after",
        "silence of agent and router after which a machine is lost and its copies move", Seconds(3), (2, 7 * DAY);
    SystemMemory system_memory: Bytes, "system-memory",
        "memory of each machine that reservations leave to the system", Bytes::mebi(256), (0, 1 << 50);
    RebalanceCopies rebalance_copies: u16, "rebalance-copies",
        "most copies of a role that move at the same time to spread over machines; 0 for none", 1, (0, 1000);
    RebalanceInterval rebalance_interval: Seconds, "rebalance-interval",
        "how long all copies of a role must be ready before one of them moves to spread", Seconds(0), (0, 30 * DAY);
    TrustedProxies trusted_proxies: TrustedProxies, "trusted-proxies",
        "proxies that every app trusts, as address ranges", TrustedProxies::default(), (0, PROXIES_MAX as u64);
    CallbackPrivateAddresses callback_private_addresses: TrustedProxies, "callback-private-addresses",
        "private addresses that push queues and callbacks of jobs may reach, as address ranges",
        TrustedProxies::default(), (0, PROXIES_MAX as u64);
    EventRetention event_retention: u32, "event-retention",
        "newest events of the audit trail that are kept", 1000, (100, EVENTS_MAX);
    JobRetention job_retention: Seconds, "job-retention",
        "how long an ended job is kept", Seconds(604_800), (60, 365 * DAY);
    LogRetention log_retention: Seconds, "log-retention",
        "how long a machine keeps the logs of an app after the app's last instance left", Seconds(604_800), (60, 365 * DAY);
    LogsKept logs_kept: u32, "logs-kept",
        "logs of removed instances that a machine keeps for each app", 20, (0, 1000);
    ReleasesKept releases_kept: u32, "releases-kept",
        "newest releases that each app keeps", 20, (1, 1000);
    GoodReleasesKept good_releases_kept: u32, "good-releases-kept",
        "newest releases that once served and that each app keeps, however old", 5, (1, 1000);
    DeploysKept deploys_kept: u32, "deploys-kept",
        "newest deploys that each app keeps", 50, (1, 1000);
    MaxCopies max_copies: u32, "max-copies",
        "most copies of a role", 1000, (1, 10_000);
    MaxHosts max_hosts: u32, "max-hosts",
        "most host names of an app", 100, (1, 1000);
    MaxWaitingJobs max_waiting_jobs: u32, "max-waiting-jobs",
        "most jobs that wait in all queues", 2_000_000, (1, 10_000_000);
    ClusterSubnet cluster_subnet: MachineSubnet, "cluster-subnet",
        "range from which each machine that joins gets a network for its containers", cluster_subnet(), (0, 0);
    MachinePrefix machine_prefix: u16, "machine-prefix",
        "prefix length of the network that a machine gets when it joins", 20, (8, 30);
}

/// Maximum number of events that a policy may keep.
pub const EVENTS_MAX: u64 = 5000;

/// The range of the machines' networks in a cluster that names none.
fn cluster_subnet() -> MachineSubnet {
    "10.64.0.0/10".parse().unwrap_or_else(|_| unreachable!("10.64.0.0/10 is a network"))
}

impl ClusterPolicy {
    /// Returns the URL of an app, or of a held release, by the first part of its host name.
    #[must_use]
    pub fn url(&self, host: &str) -> String {
        self.app_url().of_host(&format!("{host}.{}", self.domain()))
    }

    /// Length of the lease of copies of roles with `single: true`, in milliseconds. A machine that is cut off ends such
    /// copies after this time. The lease outlives the change of the leading server.
    #[must_use]
    pub fn single_lease(&self) -> u64 {
        self.lost_after().millis().saturating_mul(3)
    }
}

/// The domain of a cluster that has none.
fn localhost() -> HostName {
    HostName::parse("localhost").unwrap_or_else(|_| unreachable!("localhost is a host name"))
}

/// State at which a command that deploys returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// The new release serves.
    Serving,
    /// The bake time, and with it the deploy, is over.
    Bake,
}

/// The value of a rule, apart from the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleValue {
    /// A time.
    Time(Seconds),
    /// A size.
    Size(Bytes),
    /// A number.
    Count(u32),
    /// A word or a name.
    Text(String),
    /// Address ranges.
    Proxies(TrustedProxies),
}

/// The form in which people write the value: `30s`, `10m`, `1G`. The text reads as the same value again.
impl fmt::Display for RuleValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(Seconds(seconds)) => match u64::from(*seconds) {
                n if n > 0 && n.is_multiple_of(DAY) => write!(f, "{}d", n / DAY),
                n if n > 0 && n.is_multiple_of(3600) => write!(f, "{}h", n / 3600),
                n if n > 0 && n.is_multiple_of(60) => write!(f, "{}m", n / 60),
                n => write!(f, "{n}s"),
            },
            Self::Size(Bytes(bytes)) => match *bytes {
                n if n.is_multiple_of(1 << 30) => write!(f, "{}G", n >> 30),
                n if n.is_multiple_of(1 << 20) => write!(f, "{}M", n >> 20),
                n if n.is_multiple_of(1 << 10) => write!(f, "{}K", n >> 10),
                n => write!(f, "{n}"),
            },
            Self::Count(count) => count.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Proxies(proxies) if proxies.is_empty() => Ok(()),
            Self::Proxies(proxies) => proxies.fmt(f),
        }
    }
}

/// Reason why a text is no value of a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The text is no time.
    #[error("{0:?} is not a time; write for example 30s, 10m, 2h or 1d")]
    Time(String),
    /// The text is no size.
    #[error("{0:?} is not a size; write for example 512M or 2G")]
    Size(String),
    /// The text is no number.
    #[error("{0:?} is not a number")]
    Count(String),
    /// The number is too small or too large.
    #[error("{value} is out of range: expected {least} to {most}")]
    Range {
        /// The value.
        value: RuleValue,
        /// The least value.
        least: RuleValue,
        /// The greatest value.
        most: RuleValue,
    },
    /// The text is no state.
    #[error("{0:?} is not a state; write serving or bake")]
    WaitFor(String),
    /// The text is not a host name.
    #[error(transparent)]
    Domain(#[from] NameError),
    /// The text says not how the apps are reached.
    #[error(transparent)]
    AppUrl(#[from] AppUrlError),
    /// An element of the list is no address range.
    #[error(transparent)]
    Proxies(#[from] SubnetError),
    /// The text is no network.
    #[error(transparent)]
    Network(#[from] MachineSubnetError),
    /// The list is too long.
    #[error("{count} address ranges: at most {most}; name the ranges that hold these addresses")]
    TooManyProxies {
        /// Length of the list.
        count: usize,
        /// The limit.
        most: u64,
    },
}

/// There is no rule of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule {name:?}; the rules are: {}", rule_names())]
pub struct UnknownRule {
    /// The name.
    pub name: String,
}

fn rule_names() -> String {
    PolicyKey::ALL.iter().map(|key| key.name()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PolicyKey {
    type Err = UnknownRule;

    fn from_str(text: &str) -> Result<Self, UnknownRule> {
        let name = text.replace('_', "-");
        let known = Self::ALL.iter().find(|key| key.name() == name);
        known.copied().ok_or_else(|| UnknownRule { name: text.chars().take(60).collect() })
    }
}

/// A type of values: how people write them.
trait RuleType: Sized {
    fn read(text: &str, bounds: (u64, u64)) -> Result<Self, RuleError>;
    fn into_value(self) -> RuleValue;
}

/// Refuses a number outside of the bounds.
fn within(number: u64, (least, most): (u64, u64), value: fn(u64) -> RuleValue) -> Result<u64, RuleError> {
    let is_within = (least..=most).contains(&number);
    let range = || RuleError::Range { value: value(number), least: value(least), most: value(most) };
    is_within.then_some(number).ok_or_else(range)
}

/// The beginning of a text, for an error.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

impl RuleType for Seconds {
    fn read(text: &str, bounds: (u64, u64)) -> Result<Self, RuleError> {
        let wrong = || RuleError::Time(shown(text));
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = match &text[digits..] {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => DAY,
            _ => return Err(wrong()),
        };
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let value = |seconds| RuleValue::Time(Self(u32::try_from(seconds).unwrap_or(u32::MAX)));
        let seconds = within(number.saturating_mul(unit), bounds, value)?;
        u32::try_from(seconds).map(Self).map_err(|_| wrong())
    }

    fn into_value(self) -> RuleValue {
        RuleValue::Time(self)
    }
}

impl RuleType for Bytes {
    fn read(text: &str, bounds: (u64, u64)) -> Result<Self, RuleError> {
        let size = Self::parse(text).map_err(|_| RuleError::Size(shown(text)))?;
        within(size.0, bounds, |bytes| RuleValue::Size(Self(bytes))).map(Self)
    }

    fn into_value(self) -> RuleValue {
        RuleValue::Size(self)
    }
}

impl RuleType for u16 {
    fn read(text: &str, bounds: (u64, u64)) -> Result<Self, RuleError> {
        let number = u32::read(text, bounds)?;
        Self::try_from(number).map_err(|_| RuleError::Count(shown(text)))
    }

    fn into_value(self) -> RuleValue {
        RuleValue::Count(self.into())
    }
}

impl RuleType for u32 {
    fn read(text: &str, bounds: (u64, u64)) -> Result<Self, RuleError> {
        let number = text.parse::<Self>().map_err(|_| RuleError::Count(shown(text)))?;
        let value = |number| RuleValue::Count(Self::try_from(number).unwrap_or(Self::MAX));
        within(u64::from(number), bounds, value).map(|_| number)
    }

    fn into_value(self) -> RuleValue {
        RuleValue::Count(self)
    }
}

impl RuleType for MachineSubnet {
    fn read(text: &str, _: (u64, u64)) -> Result<Self, RuleError> {
        Ok(text.parse()?)
    }

    fn into_value(self) -> RuleValue {
        RuleValue::Text(self.to_string())
    }
}

impl RuleType for WaitFor {
    fn read(text: &str, _: (u64, u64)) -> Result<Self, RuleError> {
        match text {
            "serving" => Ok(Self::Serving),
            "bake" => Ok(Self::Bake),
            _ => Err(RuleError::WaitFor(shown(text))),
        }
    }

    fn into_value(self) -> RuleValue {
        let word = if self == Self::Bake { "bake" } else { "serving" };
        RuleValue::Text(word.to_owned())
    }
}

impl RuleType for HostName {
    fn read(text: &str, _: (u64, u64)) -> Result<Self, RuleError> {
        Ok(Self::parse(text)?)
    }

    fn into_value(self) -> RuleValue {
        RuleValue::Text(self.to_string())
    }
}

impl RuleType for AppUrl {
    fn read(text: &str, _: (u64, u64)) -> Result<Self, RuleError> {
        Ok(text.parse()?)
    }

    fn into_value(self) -> RuleValue {
        RuleValue::Text(self.to_string())
    }
}

impl RuleType for TrustedProxies {
    fn read(text: &str, (_, most): (u64, u64)) -> Result<Self, RuleError> {
        let ranges = text.split(',').map(str::trim).filter(|range| !range.is_empty());
        let proxies = Self::new(ranges.map(str::parse::<Subnet>).collect::<Result<_, _>>()?);
        let count = proxies.len();
        if count as u64 > most { Err(RuleError::TooManyProxies { count, most }) } else { Ok(proxies) }
    }

    fn into_value(self) -> RuleValue {
        RuleValue::Proxies(self)
    }
}

impl ClusterPolicy {
    /// The rules that are set.
    pub fn set_rules(&self) -> impl Iterator<Item = PolicyKey> {
        PolicyKey::ALL.iter().copied().filter(|key| self.is_set(*key))
    }

    /// Reports whether a rule has got its first value from the settings of a server.
    fn has_adopted(&self, key: PolicyKey) -> bool {
        if key == PolicyKey::AppUrl { self.app_url_adopted } else { self.adopted }
    }

    /// Reports whether all rules have got their first values from the settings of a server.
    #[must_use]
    pub fn has_adopted_all(&self) -> bool {
        self.adopted && self.app_url_adopted
    }

    /// Reports whether `app-url` still has the value from the settings of a server, and no person chose another one.
    #[must_use]
    pub fn app_url_is_adopted(&self) -> bool {
        self.first_app_url == Some(self.app_url())
    }

    /// Takes over the settings of a server that differ from the rules in force, once in the life of a cluster. Rules that
    /// are set stay.
    #[must_use]
    pub fn adopt(&self, settings: &Self) -> Self {
        let mut policy = Self { adopted: true, app_url_adopted: true, ..self.clone() };
        if !self.app_url_adopted {
            // A server with any free port names port 0, which no record can have.
            policy.first_app_url = settings.app_url.filter(|url| url.port > 0);
        }
        for key in settings.set_rules().filter(|key| !self.has_adopted(*key) && !self.is_set(*key)) {
            let value = settings.value(key);
            if value != self.value(key) {
                // A value reads from its own text.
                let _ = policy.set(key, &value.to_string());
            }
        }
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: PolicyKey, text: &str) -> Result<ClusterPolicy, RuleError> {
        let mut policy = ClusterPolicy::default();
        policy.set(key, text).map(|()| policy)
    }

    #[test]
    fn every_rule_reads_its_own_default() {
        for &key in PolicyKey::ALL {
            let value = ClusterPolicy::default().value(key);
            let policy = set(key, &value.to_string()).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(policy.value(key), value, "{key}");
            assert!(policy.is_set(key) && policy.set_rules().eq([key]), "{key}");
            assert_eq!(key.name().parse(), Ok(key));
            assert_eq!(key.name().replace('-', "_").parse(), Ok(key));
            let mut policy = policy;
            policy.unset(key);
            assert_eq!(policy, ClusterPolicy::default(), "{key}");
        }
    }

    #[test]
    fn parses_sizes_and_times_with_units() {
        for (key, text, shown) in [
            (PolicyKey::Drain, "90", "90s"),
            (PolicyKey::Drain, "90s", "90s"),
            (PolicyKey::Drain, "0", "0s"),
            (PolicyKey::CollectEvery, "60m", "1h"),
            (PolicyKey::CollectGrace, "48h", "2d"),
            (PolicyKey::Reserve, "1536M", "1536M"),
            (PolicyKey::Reserve, "1048577", "1048577"),
            (PolicyKey::CompileMemory, "2GiB", "2G"),
            (PolicyKey::Builds, "7", "7"),
            (PolicyKey::WaitFor, "bake", "bake"),
            (PolicyKey::Domain, "apps.example", "apps.example"),
            (PolicyKey::AppUrl, "https:443", "https"),
            (PolicyKey::AppUrl, "http:8080", "http:8080"),
            (PolicyKey::TrustedProxies, "10.0.0.0/8, ::1", "10.0.0.0/8,::1"),
            (PolicyKey::TrustedProxies, "", ""),
            (PolicyKey::JobRetention, "48h", "2d"),
            (PolicyKey::MaxWaitingJobs, "70000", "70000"),
            (PolicyKey::ClusterSubnet, "10.96.0.0/12", "10.96.0.0/12"),
        ] {
            let policy = set(key, text).unwrap_or_else(|error| panic!("{key}={text}: {error}"));
            assert_eq!(policy.value(key).to_string(), shown, "{key}={text}");
        }
    }

    #[test]
    fn refuses_a_wrong_value_with_an_example() {
        for (key, text, why) in [
            (PolicyKey::Drain, "", "\"\" is not a time; write for example 30s, 10m, 2h or 1d"),
            (PolicyKey::Drain, "-1", "\"-1\" is not a time; write for example 30s, 10m, 2h or 1d"),
            (PolicyKey::Drain, "1w", "\"1w\" is not a time; write for example 30s, 10m, 2h or 1d"),
            (PolicyKey::Drain, "2d", "2d is out of range: expected 0s to 1d"),
            (
                PolicyKey::Drain,
                "99999999999999999999d",
                "\"99999999999999999999d\" is not a time; write for example 30s, 10m, 2h or 1d",
            ),
            (PolicyKey::Deadline, "0", "0s is out of range: expected 1s to 7d"),
            (PolicyKey::Reserve, "much", "\"much\" is not a size; write for example 512M or 2G"),
            (PolicyKey::CompileMemory, "1K", "1K is out of range: expected 1M to 1048576G"),
            (PolicyKey::Builds, "0", "0 is out of range: expected 1 to 1000"),
            (PolicyKey::Builds, "x", "\"x\" is not a number"),
            (PolicyKey::EventRetention, "99", "99 is out of range: expected 100 to 5000"),
            (PolicyKey::Builds, "65536", "65536 is out of range: expected 1 to 1000"),
            (
                PolicyKey::ClusterSubnet,
                "10.96.0.1/12",
                "invalid network: write it as 10.64.16.0/20, with 8 to 30 bits before the slash's number",
            ),
            (
                PolicyKey::AppUrl,
                "ftp",
                "\"ftp\" says not how the apps are reached; write http, https, or a port as well: http:8080",
            ),
            (PolicyKey::WaitFor, "ready", "\"ready\" is not a state; write serving or bake"),
            (
                PolicyKey::TrustedProxies,
                "10.1.2.3/8",
                "10.1.2.3/8 has bits set behind its prefix; write 10.0.0.0/8, or the address without a prefix",
            ),
        ] {
            assert_eq!(set(key, text).expect_err(text).to_string(), why, "{key}={text}");
        }
        assert!(set(PolicyKey::Domain, "a b").is_err());
        let many: Vec<String> = (0..=PROXIES_MAX).map(|n| format!("10.0.{n}.1")).collect();
        let error = set(PolicyKey::TrustedProxies, &many.join(",")).expect_err("too many");
        assert_eq!(error, RuleError::TooManyProxies { count: PROXIES_MAX + 1, most: PROXIES_MAX as u64 });
        let unknown = "drian".parse::<PolicyKey>().expect_err("unknown").to_string();
        assert!(
            unknown.starts_with("there is no rule \"drian\"; the rules are: domain, app-url, bake-time,"),
            "{unknown}"
        );
    }

    #[test]
    fn settings_are_adopted_once_and_only_where_they_differ() {
        let mut settings = ClusterPolicy::default();
        for (key, text) in [(PolicyKey::Drain, "30s"), (PolicyKey::BakeTime, "2s"), (PolicyKey::Reserve, "50M")] {
            settings.set(key, text).expect("a value");
        }
        let mut before = set(PolicyKey::Reserve, "2G").expect("a size");
        before.trusted_proxies = Some(TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a range")]));
        let adopted = before.adopt(&settings);
        assert!(adopted.adopted);
        assert_eq!((adopted.drain, adopted.bake_time, adopted.reserve), (None, Some(Seconds(2)), Some(Bytes(2 << 30))));
        assert_eq!(adopted.trusted_proxies, before.trusted_proxies);
    }

    #[test]
    fn the_address_of_the_apps_is_adopted_once_in_a_cluster_that_has_adopted_the_other_rules() {
        let mut settings = ClusterPolicy::default();
        for (key, text) in [(PolicyKey::Drain, "7s"), (PolicyKey::AppUrl, "http:8080")] {
            settings.set(key, text).expect("a value");
        }
        let before = ClusterPolicy { adopted: true, ..ClusterPolicy::default() };
        let mut policy = before.adopt(&settings);
        assert_eq!((policy.drain, policy.app_url().to_string().as_str()), (None, "http:8080"));
        assert_eq!(policy.url("shop"), "http://shop.localhost:8080/");
        assert!(policy.has_adopted_all() && !before.has_adopted_all());
        assert!(policy.app_url_is_adopted() && !before.app_url_is_adopted());
        let text = serde_json::to_string(&policy).expect("written");
        assert_eq!(serde_json::from_str::<ClusterPolicy>(&text).expect("read"), policy);
        settings.set(PolicyKey::AppUrl, "http:9090").expect("a value");
        assert_eq!(policy.adopt(&settings), policy, "the address of the first server");
        policy.unset(PolicyKey::AppUrl);
        assert_eq!(policy.adopt(&settings).app_url(), AppUrl::HTTP, "the default, once a person wants it");
        assert!(!policy.app_url_is_adopted());
        for (url, is_adopted) in [(AppUrl::HTTP, true), (AppUrl { port: 0, ..AppUrl::HTTP }, false)] {
            let policy = before.adopt(&ClusterPolicy { app_url: Some(url), ..ClusterPolicy::default() });
            assert_eq!((policy.app_url(), policy.app_url_is_adopted()), (AppUrl::HTTP, is_adopted), "{url}");
            let text = serde_json::to_string(&policy).expect("written");
            assert_eq!(serde_json::from_str::<ClusterPolicy>(&text).expect("read"), policy);
        }
    }

    #[test]
    fn reads_the_record_of_an_earlier_version() {
        let before: ClusterPolicy = serde_json::from_str(r#"{"trusted_proxies":["10.0.0.0/8"]}"#).expect("read");
        assert_eq!((before.adopted, before.trusted_proxies().len()), (false, 1));
        assert_eq!(serde_json::to_string(&ClusterPolicy::default()).expect("written"), "{}");
        let policy = set(PolicyKey::BakeTime, "5s").expect("a time").adopt(&ClusterPolicy::default());
        let text = serde_json::to_string(&policy).expect("written");
        assert_eq!(text, r#"{"adopted":true,"app_url_adopted":true,"bake_time":5}"#);
        assert_eq!(serde_json::from_str::<ClusterPolicy>(&text).expect("read"), policy);
    }
}
