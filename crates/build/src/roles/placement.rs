//! A role's demands on its machines: the keys `reserve` and `placement`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use gantry_model::{Architecture, Bytes, LabelKey, LabelValue, MachineName, PlacementRules, RolePattern};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::SettingError;
use super::keys::{Key, Text};
use super::values::{processors, size};

pub(super) const RESERVE_KEYS: [&str; 2] = ["memory", "cpu"];
pub(super) const PLACEMENT_KEYS: [&str; 8] =
    ["labels", "with", "apart_from", "one_per_machine", "global", "machine", "spread", "architecture"];

/// Maximum number of values in one list.
const LIST_MAX: usize = 32;

/// Reads `reserve` into the rules of a role.
pub(super) struct Reserve<'a>(pub(super) &'a mut PlacementRules);

impl<'de> DeserializeSeed<'de> for Reserve<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reserve<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as { memory: \"256M\", cpu: 0.5 }")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key_seed(Key(&RESERVE_KEYS))? {
            match key {
                "memory" => self.0.reserve_memory = Some(map.next_value_seed(size(Bytes::mebi(1)))?),
                _ => self.0.reserve_cpu = Some(map.next_value_seed(processors())?),
            }
        }
        Ok(())
    }
}

/// Reads `placement` into the rules of a role.
pub(super) struct Placement<'a>(pub(super) &'a mut PlacementRules);

impl<'de> DeserializeSeed<'de> for Placement<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Placement<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as { labels: { disk: \"ssd\" } }")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let rules = self.0;
        while let Some(key) = map.next_key_seed(Key(&PLACEMENT_KEYS))? {
            match key {
                "labels" => rules.labels = map.next_value_seed(Labels)?,
                "with" => rules.with = map.next_value_seed(ParsedTexts(parsed(RolePattern::parse)))?,
                "apart_from" => rules.apart_from = map.next_value_seed(ParsedTexts(parsed(RolePattern::parse)))?,
                "one_per_machine" => rules.one_per_machine = map.next_value()?,
                "global" => rules.global = map.next_value()?,
                "machine" => rules.machine = Some(map.next_value_seed(ParsedText(parsed(MachineName::parse)))?),
                "spread" => rules.spread = Some(map.next_value_seed(ParsedText(parsed(LabelKey::parse)))?),
                _ => rules.architecture = Some(map.next_value_seed(ParsedText(architecture))?),
            }
        }
        Ok(())
    }
}

/// Turns a parser's error into the error of a setting.
fn parsed<T, E: Into<SettingError>>(
    parse: fn(&str) -> Result<T, E>,
) -> impl Fn(&str) -> Result<T, SettingError> + Copy {
    move |text| parse(text).map_err(Into::into)
}

fn architecture(text: &str) -> Result<Architecture, SettingError> {
    let is_name = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    is_name.then(|| Architecture(text.to_owned())).ok_or_else(|| SettingError::Architecture(text.to_owned()))
}

/// The values by key that a machine's labels must have.
struct Labels;

impl<'de> DeserializeSeed<'de> for Labels {
    type Value = BTreeMap<LabelKey, BTreeSet<LabelValue>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Labels {
    type Value = BTreeMap<LabelKey, BTreeSet<LabelValue>>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as { disk: \"ssd\", zone: [\"a\", \"b\"] }")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut labels = BTreeMap::new();
        while let Some(key) = map.next_key_seed(ParsedText(parsed(LabelKey::parse)))? {
            let values = map.next_value_seed(ParsedTexts(parsed(LabelValue::parse)))?;
            if values.is_empty() {
                return Err(M::Error::custom(format!("label {key} has no value")));
            }
            labels.insert(key, values);
            if labels.len() > LIST_MAX {
                return Err(M::Error::custom(format!("more than {LIST_MAX} labels")));
            }
        }
        Ok(labels)
    }
}

/// A text with a parser.
struct ParsedText<F>(F);

impl<'de, T, F: Fn(&str) -> Result<T, SettingError>> DeserializeSeed<'de> for ParsedText<F> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(Text(self.0))
    }
}

/// A text or a list of texts, with a parser.
struct ParsedTexts<F>(F);

impl<'de, T: Ord, F: Fn(&str) -> Result<T, SettingError> + Copy> DeserializeSeed<'de> for ParsedTexts<F> {
    type Value = BTreeSet<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<BTreeSet<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Ord, F: Fn(&str) -> Result<T, SettingError> + Copy> Visitor<'de> for ParsedTexts<F> {
    type Value = BTreeSet<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or a list of texts")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<BTreeSet<T>, E> {
        (self.0)(text).map(|value| BTreeSet::from([value])).map_err(E::custom)
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<BTreeSet<T>, S::Error> {
        let mut values = BTreeSet::new();
        while let Some(value) = list.next_element_seed(ParsedText(self.0))? {
            values.insert(value);
            if values.len() > LIST_MAX {
                return Err(S::Error::custom(format!("more than {LIST_MAX} values")));
            }
        }
        Ok(values)
    }
}
