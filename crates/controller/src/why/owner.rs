//! Explains requests by the app's owners that keep traffic away from the app.

use gantry_model::{AppName, AuditAction};

use super::{FoundCause, current, requested_by};
use crate::core::ClusterView;

/// Reports that the app is being destroyed, is in maintenance, is paused, or has no copies of its web role.
pub(super) fn requested(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let app = view.records.apps.get(name)?;
    if app.destroying {
        let left = view.records.plan.assignments_of(name);
        let evidence =
            left.map(|(_, id, _)| format!("{id} is still there; `gantry why {name} {id}`")).take(5).collect();
        return Some(FoundCause { headline: format!("{name} is being destroyed"), evidence });
    }
    let is_such = |action: &AuditAction| match action {
        AuditAction::TrafficChanged { traffic, .. } => {
            (&traffic.maintenance, traffic.paused) == (&app.traffic.maintenance, app.traffic.paused)
        }
        _ => false,
    };
    let headline = match (&app.traffic.maintenance, app.traffic.paused) {
        (Some(message), _) => {
            format!(
                "in maintenance, clients get the message {message:?}; `gantry maintenance off {name}` ends the maintenance"
            )
        }
        (None, true) => format!("paused, requests wait; `gantry resume {name}` releases them"),
        (None, false) => return no_copies(view, name),
    };
    let evidence = requested_by(view, name, is_such).into_iter().collect();
    Some(FoundCause { headline, evidence })
}

/// Reports that the web role is scaled to 0.
fn no_copies(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let app = view.records.apps.get(name)?;
    let (role, settings) = current(view, name)?.web()?;
    let scaled = app.scale.get(role);
    if *scaled.unwrap_or(&settings.instances) > 0 {
        return None;
    }
    let headline = format!("{role} is scaled to 0, so no copy runs; `gantry scale {name} {role}=1` starts one");
    let is_scaled = |action: &AuditAction| matches!(action, AuditAction::Scaled { roles } if roles.contains_key(role));
    let evidence = scaled.and_then(|_| requested_by(view, name, is_scaled)).into_iter().collect();
    Some(FoundCause { headline, evidence })
}
