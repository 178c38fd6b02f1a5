//! Choice of the machines for requests that are not part of the plan: builds, one-offs, logs, volumes. Pure.

use std::collections::BTreeSet;

use gantry_blobs::DigestHasher;
use gantry_model::{AppName, MachineName, MachineState};

use crate::core::ClusterView;

/// The machines of the cluster, by whether they can be asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AskedMachines {
    /// Machines whose agents report.
    pub(crate) reporting: Vec<MachineName>,
    /// Machines whose agents are silent, or have not reported yet.
    pub(crate) silent: Vec<MachineName>,
}

/// Divides the known machines by whether their agents report.
pub(crate) fn asked_machines(view: &ClusterView) -> AskedMachines {
    // A machine whose registration could not be written reports all the same.
    let known: BTreeSet<&MachineName> = view.records.machines.keys().chain(view.observed.machines.keys()).collect();
    let (reporting, silent) = known.into_iter().cloned().partition(|name| is_reporting(view, name));
    AskedMachines { reporting, silent }
}

fn is_reporting(view: &ClusterView, name: &MachineName) -> bool {
    let seen = view.observed.machines.get(name).map(|report| report.seen);
    MachineState::of(seen, view.observed.began, view.now) == MachineState::Ready
}

/// The machine for a one-off: the one with the fewest instances. Without a machine that reports, one that has reported:
/// its agent may be back in a moment.
pub(crate) fn least_used(view: &ClusterView) -> Option<MachineName> {
    let count = |name: &MachineName| view.records.plan.machines.get(name).map_or(0, |part| part.instances.len());
    candidates(view).into_iter().min_by_key(count)
}

/// The machine for a build of an app. As long as the machine reports, all builds of the app get the same one, because
/// the build cache is there. `avoided` machines did not take the order before.
pub(crate) fn for_build(view: &ClusterView, app: Option<&AppName>, avoided: &[MachineName]) -> Option<MachineName> {
    let app = app.map(AppName::as_str).unwrap_or_default();
    // The highest hash of app and machine: a machine that comes or goes changes only its own apps' builders.
    let weight = |name: &MachineName| DigestHasher::of(format!("{app} {name}").as_bytes()).hex().to_owned();
    let (refused, others): (Vec<_>, Vec<_>) = candidates(view).into_iter().partition(|name| avoided.contains(name));
    others.into_iter().max_by_key(weight).or_else(|| refused.into_iter().max_by_key(weight))
}

/// The machines that report; if there is none, those that have reported.
fn candidates(view: &ClusterView) -> Vec<MachineName> {
    let all = || view.observed.machines.keys();
    let reporting: Vec<MachineName> = all().filter(|name| is_reporting(view, name)).cloned().collect();
    if reporting.is_empty() { all().cloned().collect() } else { reporting }
}
