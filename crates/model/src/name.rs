//! Names, checked once, where they enter. A value of these types is safe as a path segment, a DNS label and a
//! command-line argument. No name contains `/`, `..` or NUL, or starts with `-`. Clones of a name share its text.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name of an app, role, machine or base image. Gantry builds host names from these names
/// (`web-12.storefront`), and a DNS label holds 63 octets.
pub const NAME_MAX: usize = 40;

/// The longest host name (RFC 1035, section 2.3.4).
pub const HOST_MAX: usize = 253;

/// Longest key or value of a machine's label.
pub const LABEL_MAX: usize = 63;

/// Reason why a text is not a name. The message names the expected kind of name and the violated rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} is not {kind}: {why}")]
pub struct NameError {
    kind: &'static str,
    shown: String,
    why: &'static str,
}

impl NameError {
    fn new(kind: &'static str, text: &str, why: &'static str) -> Self {
        Self { kind, shown: text.chars().take(NAME_MAX + 8).collect(), why }
    }
}

/// Checks for lower-case letters, digits and inner hyphens, with a letter first. `underscore` also permits underscores.
fn check_label(kind: &'static str, shown: &str, text: &str, underscore: bool) -> Result<(), NameError> {
    let fail = |why| Err(NameError::new(kind, shown, why));
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > NAME_MAX {
        return fail("it is longer than 40 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return fail("it must start with a lower-case letter");
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (underscore && c == '_');
    if !text.chars().all(inner) {
        return fail("it may contain only lower-case letters, digits and hyphens");
    }
    if text.ends_with('-') {
        return fail("it must not end with a hyphen");
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses and checks a name.
            ///
            /// # Errors
            /// Returns a [`NameError`] that names the violated rule.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text).map(|()| Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type!(
    /// The name of an app: one codebase, with roles.
    AppName,
    |text| check_label("an app name", text, text, false)
);

name_type!(
    /// The name of a machine: a Linux host that runs the agent.
    MachineName,
    |text| check_label("a machine name", text, text, false)
);

name_type!(
    /// The name of a base image: app images are built on it.
    BaseName,
    |text| check_label("a base name", text, text, false)
);

name_type!(
    /// The name of a role. A leading dot marks a role that is not a service (`.shell`).
    RoleName,
    |text| check_label("a role name", text, text.strip_prefix('.').unwrap_or(text), true)
);

name_type!(
    /// The name of a volume, or of a snapshot of a volume.
    VolumeName,
    |text| check_label("a volume name", text, text, true)
);

name_type!(
    /// A host name of requests, in lower case, without port or trailing dot.
    HostName,
    check_host
);

name_type!(
    /// Key of a machine's label, such as `disk` or `example.com/zone`.
    LabelKey,
    |text| check_label_text("a label's key", text)
);

name_type!(
    /// Value of a machine's label, such as `ssd`.
    LabelValue,
    |text| check_label_text("a label's value", text)
);

/// Checks the key or the value of a machine's label.
fn check_label_text(kind: &'static str, text: &str) -> Result<(), NameError> {
    let fail = |why| Err(NameError::new(kind, text, why));
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > LABEL_MAX {
        return fail("it is longer than 63 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return fail("it must start with a letter or a digit");
    }
    if !text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/".contains(c)) {
        return fail("it may contain only letters, digits and the characters - . _ /");
    }
    Ok(())
}

impl RoleName {
    /// The lower bound of all role names: the bound of a range, and not a name.
    pub(crate) fn lower_bound() -> Self {
        Self("".into())
    }
}

fn check_host(text: &str) -> Result<(), NameError> {
    let fail = |why| Err(NameError::new("a host name", text, why));
    if text.is_empty() || text.len() > HOST_MAX {
        return fail("it must have 1 to 253 characters");
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !text.split('.').all(label) {
        return fail("each part between dots needs 1 to 63 lower-case letters, digits or inner hyphens");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_valid_names() {
        for good in ["a", "storefront", "shop-2", &"a".repeat(40)] {
            assert!(AppName::parse(good).is_ok(), "{good}");
        }
        assert!(RoleName::parse(".shell").is_ok());
        assert!(HostName::parse("v12.storefront.localhost").is_ok());
    }

    #[test]
    fn refuses_hostile_names_with_the_violated_rule() {
        let long = "a".repeat(300);
        for bad in ["", "..", "a/b", "-rf", "a\0b", "A", "1a", "a-", "ä", "a b", ".", &long] {
            let error = AppName::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("is not an app name"), "{error}");
            assert!(error.len() < 200, "{error}");
        }
        for bad in ["", "..", ".-x", "web.", "a..b", "."] {
            assert!(RoleName::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", ".new-data", "a/b", ".."] {
            assert!(VolumeName::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", ".", "a..b", "-a.b", "a_b", "A.b", &long] {
            assert!(HostName::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_accepted_name_is_a_safe_path_segment(text in "\\PC{0,50}") {
            if let Ok(name) = RoleName::parse(&text) {
                let s = name.as_str();
                prop_assert!(!s.contains('/') && !s.contains('\0') && s != "." && s != ".." && !s.starts_with('-'));
            }
        }
    }
}
