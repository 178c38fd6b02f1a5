//! The identity of a router process.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::MachineName;

/// Identity of a router, written `machine/number`. While a new router replaces the old one, a machine runs two routers.
/// A router that restarts after a crash keeps its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouterId {
    /// The machine that the router runs on.
    pub machine: MachineName,
    /// Number of the router on its machine.
    pub number: u64,
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.machine, self.number)
    }
}

impl From<RouterId> for String {
    fn from(id: RouterId) -> Self {
        id.to_string()
    }
}

/// The text is no router id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid router id {0:?}: expected MACHINE/NUMBER")]
pub struct RouterIdError(String);

impl TryFrom<String> for RouterId {
    type Error = RouterIdError;

    fn try_from(text: String) -> Result<Self, RouterIdError> {
        let wrong = || RouterIdError(text.clone());
        let (machine, number) = text.split_once('/').ok_or_else(wrong)?;
        let machine = MachineName::parse(machine).map_err(|_| wrong())?;
        Ok(Self { machine, number: number.parse().map_err(|_| wrong())? })
    }
}
