//! Network faults of the machines that run an app. Pure.

use gantry_api::types::Explanation;
use gantry_model::AppName;

use crate::core::ClusterView;

/// Returns a line for each network fault that affects the app's instances now.
pub(super) fn faults(view: &ClusterView, app: &AppName) -> Vec<String> {
    let runs = |report: &gantry_model::ObservedMachine| report.instances.keys().any(|id| &id.slot.app == app);
    let machines = view.observed.machines.iter().filter(|(_, report)| runs(report));
    machines
        .flat_map(|(machine, report)| report.network.iter().map(move |fault| (machine, fault)))
        .filter(|(_, fault)| fault.is_acute())
        .map(|(machine, fault)| format!("machine {machine}: {fault}"))
        .collect()
}

/// Explains an app's state by its network faults, for use when no worse cause is known.
pub(super) fn explain(view: &ClusterView, app: &AppName) -> Option<Explanation> {
    let mut faults = faults(view, app).into_iter();
    Some(Explanation { subject: String::new(), headline: faults.next()?, evidence: faults.collect() })
}
