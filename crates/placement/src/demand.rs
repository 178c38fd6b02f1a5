//! What one copy of a role asks of its machine.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::{AppName, MachineName, RoleName};

use crate::machine::Architecture;
use crate::resources::Resources;

/// A role of an app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacedRole {
    /// The app.
    pub app: AppName,
    /// The role.
    pub role: RoleName,
}

/// A pattern of roles, written `app/role`. In each half, `*` stands for any text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RolePattern {
    app: String,
    role: String,
}

impl RolePattern {
    /// Parses `app/role`; an app alone means all its roles.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (app, role) = text.split_once('/').unwrap_or((text, "*"));
        let is_half = |half: &str| {
            let mut bytes = half.bytes();
            !half.is_empty() && half.len() <= 100 && bytes.all(|b| b.is_ascii_alphanumeric() || b"*-._".contains(&b))
        };
        (is_half(app) && is_half(role)).then(|| Self { app: app.to_owned(), role: role.to_owned() })
    }

    /// Reports whether the pattern covers a role.
    #[must_use]
    pub fn covers(&self, role: &PlacedRole) -> bool {
        matches_glob(&self.app, role.app.as_str()) && matches_glob(&self.role, role.role.as_str())
    }
}

impl std::fmt::Display for RolePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.app, self.role)
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

/// The part of a demand that concerns a machine alone. Roles of one shape share an index.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DemandShape {
    /// Memory, processor time and disk space.
    pub resources: Resources,
    /// Ports of the machine.
    pub ports: BTreeSet<u16>,
    /// The processor's architecture, if the image runs on one only.
    pub architecture: Option<Architecture>,
    /// For each key, the values of which the machine's label must have one.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// Where the copies of a role go relative to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CopySpread {
    /// On as many machines as possible.
    #[default]
    Machines,
    /// On as many values of a label as possible, and there on as many machines as possible.
    Label(String),
}

/// What one copy of a role asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementDemand {
    /// The role.
    pub role: PlacedRole,
    /// What the copy asks of the machine alone.
    pub shape: DemandShape,
    /// A copy of each of these must run on the machine already.
    pub with: Vec<RolePattern>,
    /// None of these may run on the machine. The rule is symmetric: neither may this copy come later, nor the others.
    pub apart_from: BTreeSet<RolePattern>,
    /// At most one copy of the role runs on a machine.
    pub one_per_machine: bool,
    /// The only machine for the copy, such as the one that has its data.
    pub pinned: Option<MachineName>,
    /// How copies of the role spread.
    pub spread: CopySpread,
}

impl PlacementDemand {
    /// Creates the demand of a role without constraints.
    #[must_use]
    pub fn new(role: PlacedRole, resources: Resources) -> Self {
        Self {
            role,
            shape: DemandShape { resources, ..DemandShape::default() },
            with: Vec::new(),
            apart_from: BTreeSet::new(),
            one_per_machine: false,
            pinned: None,
            spread: CopySpread::Machines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_roles() {
        let role = |app: &str, role: &str| PlacedRole {
            app: AppName::parse(app).expect("a name"),
            role: RoleName::parse(role).expect("a name"),
        };
        let covers = |pattern: &str, of: &PlacedRole| RolePattern::parse(pattern).expect("a pattern").covers(of);
        for (pattern, app, name, wanted) in [
            ("shop/web", "shop", "web", true),
            ("shop/web", "shop", "worker", false),
            ("shop", "shop", "worker", true),
            ("*/web", "blog", "web", true),
            ("shop-*/w*r", "shop-2", "worker", true),
            ("shop-*/w*r", "shop", "worker", false),
            ("*a*b*/*", "xaxbx", "web", true),
            ("*a*b*/*", "xbxax", "web", false),
        ] {
            assert_eq!(covers(pattern, &role(app, name)), wanted, "{pattern} {app}/{name}");
        }
        for bad in ["", "/", "shop/", "/web", "a b/c", &"x".repeat(101)] {
            assert_eq!(RolePattern::parse(bad), None, "{bad}");
        }
    }
}
