//! Mutations of scale, traffic policy and cluster policy.

use std::collections::BTreeMap;

use gantry_api::Problem;
use gantry_api::types::{ChangePolicy, ChangeTraffic};
use gantry_model::proxies::PROXIES_MAX;
use gantry_model::{AppName, ClusterPolicy, Moment, RoleName, Subnet, TrustedProxies};

use super::{Changes, changeable, event};
use crate::records::{RecordIndex, StoreRecord};

/// Most roles of an app with a scale. Before the first release, any role can be scaled.
const ROLES_MAX: usize = 100;

/// Changes the number of copies of roles.
pub(crate) fn change_scale(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    name: &AppName,
    wanted: BTreeMap<RoleName, u32>,
) -> Changes<()> {
    let mut app = changeable(records, name)?.clone();
    let release = app.current.and_then(|number| records.release(name, number));
    for (role, count) in &wanted {
        if let Some(release) = release {
            let known: Vec<&str> =
                release.roles.keys().filter(|role| role.is_service()).map(RoleName::as_str).collect();
            let settings = release.roles.get(role).filter(|_| role.is_service()).ok_or_else(|| {
                Problem::missing(format!("{name} has no role {role} to scale"))
                    .hint(format!("it has {}", known.join(", ")))
            })?;
            if settings.stop_first() && *count > 1 {
                return Err(Problem::conflict(format!("{role} has a volume, and a volume has a single writer")));
            }
        }
        if *count > 1000 {
            return Err(Problem::invalid(format!("{role}={count}: at most 1000 copies of a role")));
        }
    }
    let text: Vec<String> = wanted.iter().map(|(role, count)| format!("{role}={count}")).collect();
    app.scale.extend(wanted);
    if app.scale.len() > ROLES_MAX {
        return Err(Problem::invalid(format!("{} roles are scaled: at most {ROLES_MAX}", app.scale.len())));
    }
    let what = format!("scaled {}", text.join(" "));
    Ok((vec![event(records, now, by, Some(name), what), StoreRecord::App(app).into()], ()))
}

/// Longest maintenance message, in bytes.
const MESSAGE_MAX: usize = 500;

/// Changes the traffic policy of an app.
pub(crate) fn change_traffic(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    name: &AppName,
    change: ChangeTraffic,
) -> Changes<()> {
    let mut app = changeable(records, name)?.clone();
    match change {
        ChangeTraffic::Pause => app.traffic.paused = true,
        ChangeTraffic::Resume => app.traffic.paused = false,
        ChangeTraffic::Maintenance { message } => {
            if let Some(text) =
                message.as_ref().filter(|text| text.len() > MESSAGE_MAX || text.contains(char::is_control))
            {
                let why = format!("a message of {} bytes: at most {MESSAGE_MAX}, on one line", text.len());
                return Err(Problem::invalid(why));
            }
            app.traffic.maintenance = message;
        }
        ChangeTraffic::Limit { rate: Some(0), .. } | ChangeTraffic::Limit { concurrent: Some(0), .. } => {
            let hint = "`gantry pause` lets requests wait, `gantry maintenance on` refuses them";
            return Err(Problem::invalid("a limit of 0 lets nothing through").hint(hint));
        }
        ChangeTraffic::Limit { rate, concurrent } => {
            app.traffic.rate = rate;
            app.traffic.concurrent = concurrent;
        }
        ChangeTraffic::TrustedProxies { proxies } => {
            app.traffic.trusted_proxies = trusted(proxies)?;
            let what = format!("trusted proxies of {name}: {}", app.traffic.trusted_proxies);
            return Ok((vec![event(records, now, by, Some(name), what), StoreRecord::App(app).into()], ()));
        }
    }
    let what = format!("requests of {name}: {}", app.traffic);
    Ok((vec![event(records, now, by, Some(name), what), StoreRecord::App(app).into()], ()))
}

/// Changes the cluster policy.
pub(crate) fn change_policy(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    change: ChangePolicy,
) -> Changes<ClusterPolicy> {
    let mut policy = records.policy.clone();
    if let Some(proxies) = change.trusted_proxies {
        policy.trusted_proxies = trusted(proxies)?;
    }
    let what = format!("cluster policy: trusted-proxies={}", policy.trusted_proxies);
    Ok((vec![event(records, now, by, None, what), StoreRecord::Policy(policy.clone()).into()], policy))
}

/// Refuses a list of trusted proxies that is too long.
fn trusted(proxies: Vec<Subnet>) -> Result<TrustedProxies, Problem> {
    let proxies = TrustedProxies::new(proxies);
    if proxies.len() > PROXIES_MAX {
        let hint = "name the ranges that hold these addresses";
        return Err(Problem::invalid(format!("{} trusted proxies: at most {PROXIES_MAX}", proxies.len())).hint(hint));
    }
    Ok(proxies)
}
