//! Explains requests by the app's owners that keep traffic away from the app.

use gantry_api::types::{CauseCode, CauseObject, ObjectKind};
use gantry_model::{AppName, AuditAction};

use super::{FoundCause, app_object, current, requested_by};
use crate::core::ClusterView;

/// Reports that the app is being destroyed, is in maintenance, is paused, or has no copies of its web role.
pub(super) fn requested(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let app = view.records.apps.get(name)?;
    if app.destroying {
        let left = view.records.plan.assignments_of(name);
        let evidence =
            left.map(|(_, id, _)| format!("{id} is still there; `gantry why {name} {id}`")).take(5).collect();
        let cause = format!("{name} is being destroyed");
        return Some(FoundCause::new(CauseCode::AppDestroyed, app_object(name), cause).evidence(evidence));
    }
    let is_such = |action: &AuditAction| match action {
        AuditAction::TrafficChanged { traffic, .. } => {
            (&traffic.maintenance, traffic.paused) == (&app.traffic.maintenance, app.traffic.paused)
        }
        _ => false,
    };
    let (code, cause, remedy) = match (&app.traffic.maintenance, app.traffic.paused) {
        (Some(message), _) => (
            CauseCode::InMaintenance,
            format!("in maintenance, clients get the message {message:?}"),
            format!("`gantry maintenance off {name}` ends the maintenance"),
        ),
        (None, true) => {
            (CauseCode::Paused, "paused, requests wait".to_owned(), format!("`gantry resume {name}` releases them"))
        }
        (None, false) => return no_copies(view, name),
    };
    let evidence = requested_by(view, name, is_such).into_iter().collect();
    Some(FoundCause::new(code, app_object(name), cause).remedy(remedy).evidence(evidence))
}

/// Reports that the web role is scaled to 0. In an app without a web role: that all its services are.
fn no_copies(view: &ClusterView, name: &AppName) -> Option<FoundCause> {
    let app = view.records.apps.get(name)?;
    let release = current(view, name)?;
    let serving = release.web().map_or_else(|| release.services().collect(), |web| vec![web]);
    let (role, _) = serving.first()?;
    if serving.iter().any(|(role, settings)| *app.scale.get(*role).unwrap_or(&settings.instances) > 0) {
        return None;
    }
    let cause = format!("{role} is scaled to 0, so no copy runs");
    let cause = FoundCause::new(CauseCode::ScaledToZero, CauseObject::new(ObjectKind::Role, *role), cause);
    let is_scaled = |action: &AuditAction| matches!(action, AuditAction::Scaled { roles } if roles.contains_key(*role));
    let scaled = app.scale.get(*role);
    let evidence = scaled.and_then(|_| requested_by(view, name, is_scaled)).into_iter().collect();
    Some(cause.remedy(format!("`gantry scale {name} {role}=1` starts one")).evidence(evidence))
}
