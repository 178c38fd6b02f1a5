//! Slots and allocations. A slot names one copy of a role in a release; an allocation is one placement of a slot on one
//! machine.
//!
//! Everything that exists on a machine has the name of an allocation: folders, control groups, logs, reports and
//! endpoints. A copy that moves to another machine gets a new allocation, so both can exist at once, and what the old
//! one left behind never passes for the new one's.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AppName, ReleaseNumber, RoleName};

/// One copy of a role in a release, written `storefront.v12.web-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot {
    /// The app.
    pub app: AppName,
    /// The release.
    pub release: ReleaseNumber,
    /// The role.
    pub role: RoleName,
    /// Index of the copy, from 1.
    pub index: u32,
}

/// One placement of a slot on one machine. Numbers of a slot rise and are never used twice. The
/// next app with the name of a destroyed one has higher release numbers.
/// The first placement has the name of its slot, `storefront.v12.web-1`; the second is `storefront.v12.web-1.2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllocationId {
    /// The slot.
    pub slot: Slot,
    /// Number of the placement, from 1.
    pub number: u32,
}

/// The text is no identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {shown:?}: expected {form}")]
pub struct AllocationError {
    kind: &'static str,
    form: &'static str,
    shown: String,
}

impl Slot {
    /// The short form for people: `web-1`.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}-{}", self.role, self.index)
    }

    /// The placement of the slot with a number.
    #[must_use]
    pub fn numbered(&self, number: u32) -> AllocationId {
        AllocationId { slot: self.clone(), number }
    }

    /// Parses `storefront.v12.web-1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        AllocationId::parse(text).filter(|id| id.number == 1).map(|id| id.slot)
    }
}

impl AllocationId {
    /// The short form for people: `web-1`, or `web-1.2` for the second placement.
    #[must_use]
    pub fn short(&self) -> String {
        match self.number {
            1 => self.slot.short(),
            number => format!("{}.{number}", self.slot.short()),
        }
    }

    /// The lower bound of an app's allocations in the order of ids: the bound of a range, and not an allocation.
    pub(crate) fn lower_bound(app: &AppName) -> Self {
        let slot = Slot { app: app.clone(), release: ReleaseNumber(0), role: RoleName::lower_bound(), index: 0 };
        Self { slot, number: 0 }
    }

    /// Parses `storefront.v12.web-1` or `storefront.v12.web-1.2`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (app, rest) = text.split_once('.')?;
        let (release, rest) = rest.split_once('.')?;
        let (role, rest) = rest.rsplit_once('-')?;
        let (index, number) = rest.split_once('.').unwrap_or((rest, "1"));
        let slot = Slot {
            app: AppName::parse(app).ok()?,
            release: release.parse().ok()?,
            role: RoleName::parse(role).ok()?,
            index: index.parse().ok()?,
        };
        let id = Self { slot, number: number.parse().ok().filter(|number| *number > 0)? };
        // Each allocation has exactly one text: `v012`, `web-01` or `web-1.1` would name an allocation twice.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}.{}-{}", self.app, self.release, self.role, self.index))
    }
}

impl fmt::Display for AllocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            1 => self.slot.fmt(f),
            number => f.pad(&format!("{}.{number}", self.slot)),
        }
    }
}

/// Text form of an identifier: parsed with `parse`, written with `Display`.
macro_rules! text_form {
    ($name:ident, $kind:literal, $form:literal) => {
        impl TryFrom<String> for $name {
            type Error = AllocationError;
            fn try_from(text: String) -> Result<Self, AllocationError> {
                text.parse()
            }
        }

        impl std::str::FromStr for $name {
            type Err = AllocationError;
            fn from_str(text: &str) -> Result<Self, AllocationError> {
                let shown = || text.chars().take(SHOWN_MAX).collect();
                Self::parse(text).ok_or_else(|| AllocationError { kind: $kind, form: $form, shown: shown() })
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

/// Characters of a refused text that an error shows.
const SHOWN_MAX: usize = 160;

text_form!(Slot, "slot", "APP.vN.ROLE-N, for example storefront.v12.web-1");
text_form!(AllocationId, "allocation id", "APP.vN.ROLE-N or APP.vN.ROLE-N.N, for example storefront.v12.web-1");

/// The highest number that each slot of an app has had. A number is recorded before the allocation that has it, and
/// stays recorded until the slot's release is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllocationNumbers(pub BTreeMap<Slot, u32>);

impl AllocationNumbers {
    /// The highest number of a slot; 0 for a slot without an allocation.
    #[must_use]
    pub fn highest(&self, slot: &Slot) -> u32 {
        self.0.get(slot).copied().unwrap_or_default()
    }

    /// Records an allocation.
    pub fn record(&mut self, id: &AllocationId) {
        let highest = self.0.entry(id.slot.clone()).or_default();
        *highest = id.number.max(*highest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_allocation_parses_to_its_own_text() {
        let id = AllocationId::parse("shop-2.v12.web-1").expect("an allocation");
        assert_eq!((id.to_string().as_str(), id.short().as_str(), id.number), ("shop-2.v12.web-1", "web-1", 1));
        let moved = AllocationId::parse("shop-2.v12.web-1.2").expect("an allocation");
        assert_eq!((moved.short().as_str(), moved.number), ("web-1.2", 2));
        assert_eq!(moved.slot, id.slot);
        assert_eq!(Slot::parse("shop-2.v12.web-1"), Some(id.slot));
        assert_eq!(Slot::parse("shop-2.v12.web-1.2"), None);
        for bad in [
            "",
            "shop",
            "shop.v1",
            "shop.v1.web",
            "shop.v0.web-1",
            "shop.v01.web-1",
            "shop.v1.web-01",
            "../x.v1.web-1",
            "shop.v1.web-1.1",
            "shop.v1.web-1.0",
            "shop.v1.web-1.02",
            "shop.v1.web-1.",
            "shop.v1.web-1.2.3",
            "shop.v1.web-1.4294967296",
        ] {
            assert_eq!(AllocationId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refused_text_is_shown_with_the_expected_form() {
        let error = AllocationId::try_from("shop".to_owned()).expect_err("refused").to_string();
        assert_eq!(
            error,
            "invalid allocation id \"shop\": expected APP.vN.ROLE-N or APP.vN.ROLE-N.N, for example storefront.v12.web-1"
        );
        assert!("x".repeat(9000).parse::<Slot>().expect_err("refused").to_string().len() < 300);
    }

    #[test]
    fn numbers_only_rise() {
        let slot = Slot::parse("shop.v1.web-1").expect("a slot");
        let mut numbers = AllocationNumbers::default();
        assert_eq!(numbers.highest(&slot), 0);
        for (number, highest) in [(1, 1), (3, 3), (2, 3)] {
            numbers.record(&slot.numbered(number));
            assert_eq!(numbers.highest(&slot), highest);
        }
        let text = serde_json::to_string(&numbers).expect("written");
        assert_eq!(text, r#"{"shop.v1.web-1":3}"#);
        assert_eq!(serde_json::from_str::<AllocationNumbers>(&text).expect("read"), numbers);
    }

    proptest! {
        #[test]
        fn ids_round_trip_and_sort_by_slot(
            role in "\\.?[a-z][a-z0-9_-]{0,8}[a-z0-9]", release in 1..900u64, index in 0..40u32, numbers in (1..9u32, 1..9u32),
        ) {
            let slot = Slot {
                app: AppName::parse("shop").expect("a name"),
                release: ReleaseNumber(release),
                role: RoleName::parse(&role).expect("a role"),
                index,
            };
            let (one, other) = (slot.numbered(numbers.0), slot.numbered(numbers.1));
            prop_assert_eq!(AllocationId::parse(&one.to_string()), Some(one.clone()));
            prop_assert_eq!(one.cmp(&other), numbers.0.cmp(&numbers.1));
            prop_assert!(AllocationId::lower_bound(&slot.app) < one);
        }
    }
}
