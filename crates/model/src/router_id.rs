//! One router process.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::MachineName;

/// A router. Two run on a machine while one takes the other's place; one that is started again after it died has the
/// same number as before. Written as `machine/number`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouterId {
    /// Where it runs.
    pub machine: MachineName,
    /// Which of the machine's.
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

impl TryFrom<String> for RouterId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no router: a machine's name, a slash and a number are");
        let (machine, number) = text.split_once('/').ok_or_else(wrong)?;
        let machine = MachineName::parse(machine).map_err(|_| wrong())?;
        Ok(Self { machine, number: number.parse().map_err(|_| wrong())? })
    }
}
