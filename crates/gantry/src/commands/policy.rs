//! `gantry cluster policy`.

use std::collections::BTreeMap;

use gantry_api::Client;
use gantry_api::endpoints::cluster;
use gantry_api::policy::{ChangePolicy, PolicyValue, RuleInfo};
use gantry_model::PolicyKey;

use crate::args::PolicyCommand;
use crate::coded::{coded, fail};
use crate::exit::{DONE, Exit};
use crate::printer::{json as print_json, out, table};

pub(crate) async fn policy(client: &Client, command: PolicyCommand, json: bool) -> anyhow::Result<Exit> {
    let change = match command {
        PolicyCommand::Get { rule } => return get(client, rule, json).await,
        PolicyCommand::Set { rules } => changes(rules.into_iter().map(|(key, value)| (key, Some(value))))?,
        PolicyCommand::Unset { rules } => changes(rules.into_iter().map(|key| (key, None)))?,
    };
    let policy = client.submit(&cluster::ChangeRules {}, &change).await?;
    if json {
        print_json(&policy)?;
        return Ok(DONE);
    }
    for (name, rule) in policy.rules.iter().filter(|(name, _)| change.rules.contains_key(*name)) {
        out!("{name}={}", rule.text);
    }
    Ok(DONE)
}

/// Collects changes of distinct rules.
fn changes(rules: impl Iterator<Item = (PolicyKey, Option<String>)>) -> anyhow::Result<ChangePolicy> {
    let mut change = BTreeMap::new();
    for (key, value) in rules {
        if change.insert(key.to_string(), value.map(PolicyValue::Text)).is_some() {
            fail!(InvalidArguments, "{key} is given twice");
        }
    }
    Ok(ChangePolicy { rules: change })
}

async fn get(client: &Client, rule: Option<PolicyKey>, json: bool) -> anyhow::Result<Exit> {
    let policy = client.fetch(&cluster::Policy {}).await?;
    match rule {
        Some(key) => {
            let known = policy.rules.get(key.name());
            let rule = known.ok_or_else(|| missing(key))?;
            if json { print_json(rule)? } else { out!("{}", rule.text) }
        }
        None if json => print_json(&policy)?,
        None => table(&["rule", "value", "set", "meaning"], policy.rules.iter().map(|(name, rule)| row(name, rule))),
    }
    Ok(DONE)
}

fn row(name: &str, rule: &RuleInfo) -> Vec<String> {
    let value = if rule.text.is_empty() { "none" } else { &rule.text };
    let set = if rule.set { "yes" } else { "default" };
    let meaning = name.parse::<PolicyKey>().map(PolicyKey::meaning).unwrap_or_default();
    [name, value, set, meaning].map(str::to_owned).to_vec()
}

/// A rule that an older server does not know.
fn missing(key: PolicyKey) -> anyhow::Error {
    coded(
        gantry_error_codes::ErrorCode::PolicyRuleNotFound,
        format!("the server has no rule {key}; upgrade the server"),
    )
}
