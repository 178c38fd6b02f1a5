//! The schedule of a role: a cron expression, or an object with its time zone and policies.

use std::fmt;
use std::str::FromStr;

use gantry_model::role::{MissedPolicy, OverlapPolicy, RoleSchedule, UnknownSchedulePolicy};
use gantry_schedule::{Cron, Zone};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};

use super::SettingError;
use super::keys::{Key, SCHEDULE_KEYS};
use super::values::text;

/// Checks a cron expression.
pub(crate) fn cron(text: String) -> Result<String, SettingError> {
    Ok(Cron::from_str(&text)?.to_string())
}

fn timezone(text: String) -> Result<String, SettingError> {
    Ok(Zone::from_str(&text)?.to_string())
}

/// Parses a policy.
fn policy<T: FromStr<Err = UnknownSchedulePolicy>, E: Error>(word: &str) -> Result<T, E> {
    word.parse().map_err(E::custom)
}

/// Seed of a schedule.
pub(super) struct ScheduleSeed;

impl<'de> DeserializeSeed<'de> for ScheduleSeed {
    type Value = RoleSchedule;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RoleSchedule, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScheduleSeed {
    type Value = RoleSchedule;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a cron expression such as \"30 6 * * MON-FRI\", or an object with \"cron\" and \"timezone\"")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<RoleSchedule, E> {
        Ok(of_cron(cron(text.to_owned()).map_err(E::custom)?))
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RoleSchedule, M::Error> {
        let mut schedule = of_cron(String::new());
        while let Some(key) = map.next_key_seed(Key(&SCHEDULE_KEYS))? {
            match key {
                "cron" => schedule.cron = map.next_value_seed(text(cron))?,
                "timezone" => schedule.timezone = Some(map.next_value_seed(text(timezone))?),
                "missed" => schedule.missed = policy(&map.next_value_seed(text(Ok))?)?,
                _ => schedule.overlap = policy(&map.next_value_seed(text(Ok))?)?,
            }
        }
        if schedule.cron.is_empty() {
            return Err(M::Error::custom("a schedule has no \"cron\""));
        }
        Ok(schedule)
    }
}

/// The schedule of an expression that was checked, with the default policies.
pub(crate) fn of_cron(cron: String) -> RoleSchedule {
    RoleSchedule { cron, timezone: None, missed: MissedPolicy::default(), overlap: OverlapPolicy::default() }
}
