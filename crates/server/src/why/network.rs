//! Network faults of the machines that run an app. Pure.

use gantry_api::types::CauseCode;
use gantry_model::{AppName, MachineName, NetworkFault};

use super::{FoundCause, machine_object};
use crate::core::ClusterView;

/// Returns a line for each network fault that affects the app's instances now.
pub(super) fn faults(view: &ClusterView, app: &AppName) -> Vec<String> {
    acute(view, app).map(line).collect()
}

fn line((machine, fault): (&MachineName, &NetworkFault)) -> String {
    format!("machine {machine}: {fault}")
}

/// The network faults that affect the app's instances now.
fn acute<'a>(view: &'a ClusterView, app: &'a AppName) -> impl Iterator<Item = (&'a MachineName, &'a NetworkFault)> {
    let runs = move |report: &gantry_model::ObservedMachine| report.instances.keys().any(|id| &id.slot.app == app);
    let machines = view.observed.machines.iter().filter(move |(_, report)| runs(report));
    machines
        .flat_map(|(machine, report)| report.network.iter().map(move |fault| (machine, fault)))
        .filter(|(_, fault)| fault.is_acute())
}

/// Explains an app's state by its network faults, for use when no worse cause is known.
pub(super) fn explain(view: &ClusterView, app: &AppName) -> Option<FoundCause> {
    let mut faults = acute(view, app);
    let first = faults.next()?;
    let cause = FoundCause::new(CauseCode::NetworkFault, machine_object(first.0), line(first));
    Some(cause.evidence(faults.map(line).collect()))
}
