//! Types of the cluster policy.

use std::collections::BTreeMap;
use std::fmt;

use gantry_model::{Bytes, ClusterPolicy, PolicyKey, RuleValue, Seconds};
use serde::{Deserialize, Serialize};

/// Response of `GET` and `PATCH /v1/cluster/policy`: every rule by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// The rules.
    pub rules: BTreeMap<String, RuleInfo>,
}

/// A rule of the cluster policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// The value in force.
    pub value: PolicyValue,
    /// The value in the form in which people write it: `10m`.
    pub text: String,
    /// True if the rule is set; false if the value is the default.
    pub set: bool,
}

/// The value of a rule: seconds, bytes or another number; a word; or a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PolicyValue {
    /// Seconds, bytes, or another number.
    Number(u64),
    /// A word, a name, or any value as people write it.
    Text(String),
    /// A list.
    List(Vec<String>),
}

/// Body of `PATCH /v1/cluster/policy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangePolicy {
    /// New values by rule; null gives a rule its default again. Rules that are not named stay.
    pub rules: BTreeMap<String, Option<PolicyValue>>,
}

impl From<&ClusterPolicy> for PolicyInfo {
    fn from(policy: &ClusterPolicy) -> Self {
        let rule = |key: PolicyKey| {
            let value = policy.value(key);
            let info = RuleInfo { text: value.to_string(), set: policy.is_set(key), value: value.into() };
            (key.to_string(), info)
        };
        Self { rules: PolicyKey::ALL.iter().copied().map(rule).collect() }
    }
}

impl From<RuleValue> for PolicyValue {
    fn from(value: RuleValue) -> Self {
        match value {
            RuleValue::Time(Seconds(seconds)) => Self::Number(seconds.into()),
            RuleValue::Size(Bytes(bytes)) => Self::Number(bytes),
            RuleValue::Count(count) => Self::Number(count.into()),
            RuleValue::Text(text) => Self::Text(text),
            RuleValue::Proxies(proxies) => {
                let text = RuleValue::Proxies(proxies).to_string();
                Self::List(text.split(',').filter(|range| !range.is_empty()).map(str::to_owned).collect())
            }
        }
    }
}

/// The form in which people write the value.
impl fmt::Display for PolicyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::List(list) => list.join(",").fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_can_be_sent_back() {
        let mut policy = ClusterPolicy::default();
        for (key, text) in [
            (PolicyKey::CollectEvery, "10m"),
            (PolicyKey::Reserve, "1536M"),
            (PolicyKey::TrustedProxies, "10.0.0.0/8,::1"),
            (PolicyKey::Domain, "apps.example"),
        ] {
            policy.set(key, text).expect("a value");
        }
        let info = PolicyInfo::from(&policy);
        assert_eq!(info.rules.len(), PolicyKey::ALL.len());
        let mut copy = ClusterPolicy::default();
        for (name, rule) in info.rules.iter().filter(|(_, rule)| rule.set) {
            copy.set(name.parse().expect("a rule"), &rule.value.to_string()).expect("a value");
        }
        assert_eq!(copy, policy);
    }

    #[test]
    fn a_rule_has_a_value_for_programs_and_a_text_for_people() {
        let info = PolicyInfo::from(&ClusterPolicy::default());
        let text = serde_json::to_value(&info).expect("JSON");
        assert_eq!(text["rules"]["collect-every"], serde_json::json!({ "value": 600, "text": "10m", "set": false }));
        assert_eq!(text["rules"]["trusted-proxies"], serde_json::json!({ "value": [], "text": "", "set": false }));
        let change = r#"{"rules":{"drain":60,"domain":"a.example","reserve":null,"trusted-proxies":["::1"]}}"#;
        let change: ChangePolicy = serde_json::from_str(change).expect("a change");
        assert_eq!(change.rules["drain"], Some(PolicyValue::Number(60)));
        assert_eq!(change.rules["reserve"], None);
        assert!(serde_json::from_str::<ChangePolicy>(r#"{"trusted_proxies":[]}"#).is_err());
    }
}
