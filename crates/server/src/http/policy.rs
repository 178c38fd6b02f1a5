//! Endpoints of the cluster policy.

use std::str::FromStr;

use gantry_admission::PolicyChange;
use gantry_api::endpoints::cluster;
use gantry_api::policy::PolicyInfo;
use gantry_api::{ErrorCode, Problem};
use gantry_model::PolicyKey;

use super::HttpResult;
use super::call::{Call, Routes};

/// Adds the endpoints of the cluster policy.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(show).endpoint(change)
}

async fn show(Call { server, .. }: Call<cluster::Policy>) -> HttpResult<PolicyInfo> {
    Ok(PolicyInfo::from(&server.core.view().records.policy))
}

async fn change(Call { server, caller, body, .. }: Call<cluster::ChangeRules>) -> HttpResult<PolicyInfo> {
    let mut rules = PolicyChange::new();
    for (name, value) in body.rules {
        let key = PolicyKey::from_str(&name)
            .map_err(|unknown| Problem::new(ErrorCode::PolicyRuleNotFound, unknown.to_string()))?;
        rules.insert(key, value.map(|value| value.to_string()));
    }
    let policy = caller.mutate(&server, move |actor| actor.change_policy(&rules)).await?;
    Ok(PolicyInfo::from(&policy))
}
