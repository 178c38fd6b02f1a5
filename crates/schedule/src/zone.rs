//! Time zones.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use gantry_model::Moment;
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

/// The database that is part of the program. The machine's own may be missing, or older than that of another machine.
static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone of the IANA database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

/// A text is no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone {0:?}; write a name of the IANA database, such as Europe/Paris or UTC")]
pub struct UnknownZone(String);

impl Zone {
    /// UTC.
    #[must_use]
    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), zone: TimeZone::UTC }
    }

    /// The zone's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Names of all zones.
    pub fn all() -> impl Iterator<Item = String> {
        DATABASE.available().map(|name| name.to_string())
    }

    /// The wall clock's time at a moment, with its offset from UTC: `2026-12-01 06:00:00 +01:00`.
    #[must_use]
    pub fn wall_time(&self, moment: Moment) -> String {
        let seconds = i64::try_from(moment.0 / 1000).unwrap_or(i64::MAX);
        let Ok(timestamp) = Timestamp::from_second(seconds) else { return "never".to_owned() };
        timestamp.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
    }

    pub(crate) fn rules(&self) -> &TimeZone {
        &self.zone
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(text: &str) -> Result<Self, UnknownZone> {
        let unknown = || UnknownZone(text.chars().take(80).collect());
        if text.eq_ignore_ascii_case("utc") {
            return Ok(Self::utc());
        }
        let zone = DATABASE.get(text).map_err(|_| unknown())?;
        let name = zone.iana_name().ok_or_else(unknown)?.to_owned();
        Ok(Self { name, zone })
    }
}

impl TryFrom<String> for Zone {
    type Error = UnknownZone;

    fn try_from(text: String) -> Result<Self, UnknownZone> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name)
    }
}
