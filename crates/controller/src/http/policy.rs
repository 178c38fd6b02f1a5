//! Endpoints of the cluster policy.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use gantry_admission::PolicyChange;
use gantry_api::policy::{ChangePolicy, PolicyInfo};
use gantry_api::{ErrorCode, Problem};
use gantry_model::PolicyKey;

use super::auth::Caller;
use super::{HttpResult, json, parse_body};
use crate::Server;

pub(crate) async fn show(State(server): State<Arc<Server>>, caller: Caller) -> HttpResult {
    caller.read()?;
    json(&PolicyInfo::from(&server.core.view().records.policy))
}

pub(crate) async fn change(State(server): State<Arc<Server>>, caller: Caller, text: Bytes) -> HttpResult {
    caller.admin()?;
    let change: ChangePolicy = parse_body(&text)?;
    let mut rules = PolicyChange::new();
    for (name, value) in change.rules {
        let key = PolicyKey::from_str(&name)
            .map_err(|unknown| Problem::new(ErrorCode::PolicyRuleNotFound, unknown.to_string()))?;
        rules.insert(key, value.map(|value| value.to_string()));
    }
    let policy = caller.mutate(&server, move |actor| actor.change_policy(&rules)).await?;
    json(&PolicyInfo::from(&policy))
}
