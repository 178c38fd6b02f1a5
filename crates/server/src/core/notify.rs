//! Wakes those whose part changed: one watch per machine, one for the routes, one for apps and deploys, one
//! for the cluster policy, one for the members of the cluster.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use gantry_cluster::{ChangedParts, ClusterView};
use gantry_model::{Generation, MachineName};
use tokio::sync::watch;

/// The notification channels. A channel carries only a number: a task that wakes reads the view.
#[derive(Debug)]
pub(super) struct Notifier {
    /// Created at the first subscription; only machines with a token subscribe.
    machines: Mutex<BTreeMap<MachineName, watch::Sender<Generation>>>,
    routes: watch::Sender<Generation>,
    deploys: watch::Sender<u64>,
    policy: watch::Sender<u64>,
    members: watch::Sender<u64>,
}

impl Default for Notifier {
    fn default() -> Self {
        Self {
            machines: Mutex::default(),
            routes: watch::Sender::new(Generation::default()),
            deploys: watch::Sender::new(0),
            policy: watch::Sender::new(0),
            members: watch::Sender::new(0),
        }
    }
}

impl Notifier {
    pub(super) fn machine(&self, machine: &MachineName) -> watch::Receiver<Generation> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || watch::Sender::new(Generation::default());
        machines.entry(machine.clone()).or_insert_with(new).subscribe()
    }

    pub(super) fn routes(&self) -> watch::Receiver<Generation> {
        self.routes.subscribe()
    }

    pub(super) fn deploys(&self) -> watch::Receiver<u64> {
        self.deploys.subscribe()
    }

    pub(super) fn policy(&self) -> watch::Receiver<u64> {
        self.policy.subscribe()
    }

    pub(super) fn members(&self) -> watch::Receiver<u64> {
        self.members.subscribe()
    }

    /// Wakes the subscribers of the changed parts.
    pub(super) fn notify(&self, view: &ClusterView, changed: ChangedParts) {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        for machine in &changed.machines {
            if let (Some(sender), Some(part)) = (machines.get(machine), view.records.plan.machines.get(machine)) {
                sender.send_replace(part.generation);
            }
        }
        drop(machines);
        if changed.routes {
            self.routes.send_replace(view.records.plan.routing.revision);
        }
        if changed.deploys {
            self.deploys.send_modify(|count| *count += 1);
        }
        if changed.policy {
            self.policy.send_modify(|count| *count += 1);
        }
        if changed.members {
            self.members.send_modify(|count| *count += 1);
        }
    }
}
