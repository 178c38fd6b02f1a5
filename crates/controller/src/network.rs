//! What is wrong with the networks of the machines that run an app. Pure.

use gantry_api::types::Explanation;
use gantry_model::AppName;

use crate::core::View;

/// A line for each fault that keeps an app's instances from something now.
pub(crate) fn faults(view: &View, app: &AppName) -> Vec<String> {
    let runs = |report: &gantry_model::ObservedMachine| report.instances.keys().any(|id| &id.app == app);
    let machines = view.observed.machines.iter().filter(|(_, report)| runs(report));
    machines
        .flat_map(|(machine, report)| report.network.iter().map(move |fault| (machine, fault)))
        .filter(|(_, fault)| fault.is_acute())
        .map(|(machine, fault)| format!("machine {machine}: {fault}"))
        .collect()
}

/// The same as an answer, where nothing worse is known.
pub(crate) fn explain(view: &View, app: &AppName) -> Option<Explanation> {
    let mut faults = faults(view, app).into_iter();
    Some(Explanation { subject: String::new(), headline: faults.next()?, evidence: faults.collect() })
}
