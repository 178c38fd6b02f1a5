//! Placement in words: what a role asks of its machine, whether a machine takes copies, and why machines refuse a copy.
//!
//! The rules are the role's; `gantry-placement` decides by them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AppName, Bytes, LabelKey, LabelValue, MachineName, MilliCpu, Moment, RoleName};

/// A processor's architecture, as images name it: `amd64`, `arm64`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Architecture(pub String);

/// Placement rules of a role: its demands on the machines that run its copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacementRules {
    /// Memory that each copy reserves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_memory: Option<Bytes>,
    /// Processor time that each copy reserves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_cpu: Option<MilliCpu>,
    /// For each key, the values of which the machine's label must have one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, BTreeSet<LabelValue>>,
    /// The architecture that the machine must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// A copy of each of these roles must run on the machine already.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub with: BTreeSet<RolePattern>,
    /// None of these roles may run on the machine. The rule is symmetric.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub apart_from: BTreeSet<RolePattern>,
    /// At most one copy of the role runs on a machine.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub one_per_machine: bool,
    /// The role has one copy on every machine that fits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub global: bool,
    /// The only machine for the role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineName>,
    /// The label over whose values the copies spread; none spreads them over machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<LabelKey>,
}

impl PlacementRules {
    /// Reports whether a role has no rule.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A pattern of roles, written `app/role`. In each half, `*` stands for any text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RolePattern {
    app: String,
    role: String,
}

/// The text is no pattern of roles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pattern of roles; write for example shop/web, shop/* or */database")]
pub struct RolePatternError(String);

impl RolePattern {
    /// Parses `app/role`; an app alone means all its roles.
    ///
    /// # Errors
    /// When a half is empty, too long, or holds a character that no name has.
    pub fn parse(text: &str) -> Result<Self, RolePatternError> {
        let (app, role) = text.split_once('/').unwrap_or((text, "*"));
        let is_half = |half: &str| {
            let mut bytes = half.bytes();
            !half.is_empty() && half.len() <= 100 && bytes.all(|b| b.is_ascii_alphanumeric() || b"*-._".contains(&b))
        };
        if is_half(app) && is_half(role) {
            return Ok(Self { app: app.to_owned(), role: role.to_owned() });
        }
        Err(RolePatternError(text.chars().take(60).collect()))
    }

    /// Reports whether the pattern covers a role of an app.
    #[must_use]
    pub fn covers(&self, app: &AppName, role: &RoleName) -> bool {
        matches_glob(&self.app, app.as_str()) && matches_glob(&self.role, role.as_str())
    }
}

impl fmt::Display for RolePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.role)
    }
}

impl TryFrom<String> for RolePattern {
    type Error = RolePatternError;
    fn try_from(text: String) -> Result<Self, RolePatternError> {
        Self::parse(&text)
    }
}

impl From<RolePattern> for String {
    fn from(pattern: RolePattern) -> Self {
        pattern.to_string()
    }
}

/// Reports whether a text matches a pattern in which `*` stands for any text. Takes time in proportion to the product of
/// the lengths at most.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p + 1, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star, at)) = retry {
            retry = Some((star, at + 1));
            (p, t) = (star, at + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// An operator's decision about copies on a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MachineAvailability {
    /// The machine takes copies.
    #[default]
    Schedulable,
    /// The machine takes no new copies. Its own stay.
    Cordoned {
        /// The operator's reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The machine takes no new copies, and its own move to other machines.
    Draining {
        /// The operator's reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// When all copies are expected to have left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Moment>,
    },
    /// The machine has left the cluster. Its agent and router are refused.
    Removed,
}

impl MachineAvailability {
    /// The availability's name for people.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Schedulable => "schedulable",
            Self::Cordoned { .. } => "cordoned",
            Self::Draining { .. } => "draining",
            Self::Removed => "removed",
        }
    }

    /// The operator's reason.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Cordoned { reason } | Self::Draining { reason, .. } => reason.as_deref(),
            Self::Schedulable | Self::Removed => None,
        }
    }

    /// When all copies are expected to have left the machine.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        match self {
            Self::Draining { deadline, .. } => *deadline,
            _ => None,
        }
    }
}

/// Reason why a machine does not take a copy. The first reason that applies counts, in the order of the variants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MachineRefusal {
    /// The agent has not reported yet.
    Joining,
    /// Agent and router do not report at the moment.
    Silent,
    /// The machine is lost.
    Lost,
    /// All copies leave the machine.
    Draining,
    /// The machine takes no new copies.
    Cordoned,
    /// The machine's agent is too old for a setting of the role.
    OldAgent,
    /// The image runs on another architecture.
    OtherArchitecture,
    /// A label lacks the required value.
    WrongLabel {
        /// Key of the label.
        key: LabelKey,
    },
    /// The role names another machine.
    NotNamed {
        /// The machine that the role names.
        machine: MachineName,
    },
    /// The data of the role's volume is on another machine.
    DataElsewhere {
        /// The machine that has the data.
        machine: MachineName,
    },
    /// The copy failed on the machine just now.
    Failed,
    /// The machine runs no copy of a role that the copy must be with.
    LacksNeighbour {
        /// The pattern.
        pattern: RolePattern,
    },
    /// A role that must be apart from the copy runs on the machine.
    Conflict {
        /// The app of the role.
        app: AppName,
        /// The role.
        role: RoleName,
    },
    /// The machine has a copy of the role already.
    HasCopy,
    /// The machine is short of memory.
    ShortOfMemory,
    /// The machine is short of processor time.
    ShortOfCpu,
}

/// Reason why no machine takes a copy: the reasons with their numbers of machines, the most frequent reason first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlacementRefusal(pub Vec<RefusingMachines>);

/// The machines that refuse a copy for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusingMachines {
    /// The reason.
    pub why: MachineRefusal,
    /// Number of machines.
    pub machines: u32,
    /// The smallest amount that one of them is short of, in bytes or thousandths of a processor; 0 if the reason has no
    /// amount.
    #[serde(default)]
    pub short: u64,
}

impl PlacementRefusal {
    /// Number of machines that refuse.
    #[must_use]
    pub fn machines(&self) -> u32 {
        self.0.iter().map(|refusing| refusing.machines).sum()
    }
}

/// `3: 128 MiB short of memory; 2: cordoned`.
impl fmt::Display for PlacementRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("there is no machine");
        }
        for (place, RefusingMachines { why, machines, short }) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{machines}: {}", RefusalText(why, *short))?;
        }
        Ok(())
    }
}

/// Text of a reason with its amount.
struct RefusalText<'a>(&'a MachineRefusal, u64);

impl fmt::Display for RefusalText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(reason, short) = self;
        match reason {
            MachineRefusal::Joining => f.write_str("not reported yet"),
            MachineRefusal::Silent => f.write_str("silent"),
            MachineRefusal::Lost => f.write_str("lost"),
            MachineRefusal::Draining => f.write_str("draining"),
            MachineRefusal::Cordoned => f.write_str("cordoned"),
            MachineRefusal::OldAgent => f.write_str("agent too old for a single copy; update the machine"),
            MachineRefusal::OtherArchitecture => f.write_str("another architecture"),
            MachineRefusal::WrongLabel { key } => write!(f, "label {key} has no required value"),
            MachineRefusal::NotNamed { machine } => write!(f, "not {machine}, which the role names"),
            MachineRefusal::DataElsewhere { machine } => write!(f, "not {machine}, which has the role's data"),
            MachineRefusal::Failed => f.write_str("failed there just now"),
            MachineRefusal::LacksNeighbour { pattern } => write!(f, "no copy of {pattern}"),
            MachineRefusal::Conflict { app, role } => write!(f, "conflict with {app}/{role}"),
            MachineRefusal::HasCopy => f.write_str("has a copy already"),
            MachineRefusal::ShortOfMemory => write!(f, "{} MiB short of memory", short.div_ceil(1 << 20)),
            MachineRefusal::ShortOfCpu => write!(f, "{} processors short", *short as f64 / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_roles() {
        for (pattern, app, role, expected) in [
            ("shop/web", "shop", "web", true),
            ("shop/web", "shop", "worker", false),
            ("shop", "shop", "worker", true),
            ("*/web", "blog", "web", true),
            ("shop-*/w*r", "shop-2", "worker", true),
            ("shop-*/w*r", "shop", "worker", false),
            ("*a*b*/*", "xaxbx", "web", true),
            ("*a*b*/*", "xbxax", "web", false),
        ] {
            let (app, role) = (AppName::parse(app).expect("a name"), RoleName::parse(role).expect("a name"));
            let pattern = RolePattern::parse(pattern).expect("a pattern");
            assert_eq!(pattern.covers(&app, &role), expected, "{pattern} {app}/{role}");
            assert_eq!(RolePattern::parse(&pattern.to_string()), Ok(pattern));
        }
        for bad in ["", "/", "shop/", "/web", "a b/c", &"x".repeat(101)] {
            let error = RolePattern::parse(bad).expect_err("no pattern");
            assert!(error.to_string().contains("shop/web"), "{error}");
        }
    }

    #[test]
    fn a_refusal_counts_machines_by_reason() {
        let refusing = |why, machines, short| RefusingMachines { why, machines, short };
        let refusal = PlacementRefusal(vec![
            refusing(MachineRefusal::ShortOfMemory, 3, 128 << 20),
            refusing(MachineRefusal::Cordoned, 2, 0),
            refusing(MachineRefusal::ShortOfCpu, 1, 1500),
            refusing(MachineRefusal::OldAgent, 1, 0),
        ]);
        let text = "3: 128 MiB short of memory; 2: cordoned; 1: 1.5 processors short; \
                    1: agent too old for a single copy; update the machine";
        assert_eq!(refusal.to_string(), text);
        assert_eq!(refusal.machines(), 7);
        assert_eq!(PlacementRefusal::default().to_string(), "there is no machine");
        let text = serde_json::to_string(&refusal).expect("JSON");
        assert_eq!(serde_json::from_str::<PlacementRefusal>(&text).expect("a refusal"), refusal);
    }

    #[test]
    fn omits_unset_placement_rules() {
        assert_eq!(serde_json::to_string(&PlacementRules::default()).expect("JSON"), "{}");
        let text = r#"{"reserve_memory":268435456,"labels":{"disk":["ssd"]},"apart_from":["*/batch"]}"#;
        let rules: PlacementRules = serde_json::from_str(text).expect("rules");
        assert_eq!(rules.reserve_memory, Some(Bytes::mebi(256)));
        assert_eq!(serde_json::to_string(&rules).expect("JSON"), text);
    }

    #[test]
    fn availability_keeps_reason_and_deadline() {
        let draining = MachineAvailability::Draining { reason: Some("new disk".into()), deadline: Some(Moment(5)) };
        let text = serde_json::to_string(&draining).expect("JSON");
        assert_eq!(text, r#"{"kind":"draining","reason":"new disk","deadline":5}"#);
        let read: MachineAvailability = serde_json::from_str(&text).expect("an availability");
        assert_eq!((read.word(), read.reason(), read.deadline()), ("draining", Some("new disk"), Some(Moment(5))));
    }
}
