//! Changes of the cluster policy.

use std::collections::BTreeMap;

use gantry_model::{AuditAction, ClusterPolicy, Moment, PolicyKey};
use gantry_records::{RecordChange, RecordIndex, StoreRecord};

use crate::{Actor, Admitted, Refusal};

/// A change of the cluster policy: the new value of each rule as people write it; `None` gives the rule its default
/// again. Rules that are not named stay.
pub type PolicyChange = BTreeMap<PolicyKey, Option<String>>;

impl Actor<'_> {
    /// Changes the cluster policy, and returns the policy from now on.
    ///
    /// # Errors
    /// When a value is invalid, or the domain gives an app an address that another app has.
    pub fn change_policy(&self, change: &PolicyChange) -> Admitted<ClusterPolicy> {
        if change.is_empty() {
            return Ok((Vec::new(), self.records.policy.clone()));
        }
        let mut policy = self.records.policy.clone();
        let mut rules = BTreeMap::new();
        for (&rule, text) in change {
            match text {
                Some(text) => policy.set(rule, text).map_err(|error| Refusal::InvalidPolicyValue { rule, error })?,
                None => policy.unset(rule),
            }
            rules.insert(rule.to_string(), text.is_some().then(|| policy.value(rule).to_string()));
        }
        if change.contains_key(&PolicyKey::Domain) {
            self.check_domain(&policy)?;
        }
        let event = self.event(None, AuditAction::ClusterPolicyChanged { rules });
        Ok((vec![event, StoreRecord::Policy(policy.clone()).into()], policy))
    }

    /// Refuses a domain that gives an app an address which is a host name of another app.
    fn check_domain(&self, policy: &ClusterPolicy) -> Result<(), Refusal> {
        let domain = policy.domain();
        for app in self.records.apps.values() {
            let address = format!("{}.{domain}", app.name);
            let has_it = |other: &&std::sync::Arc<_>| owns(other, app, &address);
            if let Some(other) = self.records.apps.values().find(has_it) {
                let (app, other) = (app.name.clone(), other.name.clone());
                return Err(Refusal::DomainTaken { address, app, other });
            }
        }
        Ok(())
    }
}

/// Takes over the settings of a server as the first cluster policy. Returns no change once the policy is adopted.
#[must_use]
pub fn adopt_policy(records: &RecordIndex, now: Moment, settings: &ClusterPolicy) -> Vec<RecordChange> {
    let before = &records.policy;
    if before.has_adopted_all() {
        return Vec::new();
    }
    let policy = before.adopt(settings);
    let adopted = policy.set_rules().filter(|key| !before.is_set(*key));
    let rules: BTreeMap<_, _> = adopted.map(|key| (key.to_string(), Some(policy.value(key).to_string()))).collect();
    let action = AuditAction::ClusterPolicyChanged { rules: rules.clone() };
    let event = (!rules.is_empty()).then(|| Actor::new(records, now, "gantry").event(None, action));
    event.into_iter().chain([StoreRecord::Policy(policy).into()]).collect()
}

/// Reports whether another app than `app` has the address as a host name.
fn owns(other: &gantry_model::App, app: &gantry_model::App, address: &str) -> bool {
    other.name != app.name && other.hosts.iter().any(|host| host.as_str() == address)
}
