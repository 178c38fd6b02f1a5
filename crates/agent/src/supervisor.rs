//! The supervisor: follows the plan and keeps one task for each instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::types::PlanAnswer;
use gantry_model::{InstanceId, MachinePlan, ObservedInstance, Phase};
use gantry_sandbox::Container;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::instance::{Instance, STUCK, Wanted, told_to_stop};
use crate::records::{self, Places};
use crate::{Agent, once};

/// Retry interval while the server does not answer.
const RETRY: Duration = Duration::from_millis(250);

/// Retry interval for an instance that could not be adopted, for lack of an address or of disk space for its record.
const LATER: Duration = Duration::from_secs(2);

struct Task {
    wanted: watch::Sender<Wanted>,
    handle: JoinHandle<()>,
}

/// The tasks of all instances.
pub(crate) struct Supervisor {
    agent: Arc<Agent>,
    plan: Option<MachinePlan>,
    tasks: BTreeMap<InstanceId, Task>,
}

impl Supervisor {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent, plan: None, tasks: BTreeMap::new() }
    }

    /// Adopts the plan and the instances that the previous agent left, and removes leftover one-offs.
    pub(crate) async fn adopt(&mut self) {
        self.plan = records::read_plan(&self.agent.settings);
        for name in records::others(&self.agent.settings) {
            let places = Places::named(&self.agent.settings, &name, self.agent.settings.data.join("logs"));
            let address = once::noted(&places).map(|note| note.address);
            address.into_iter().for_each(|address| self.agent.addresses.take(address));
            let agent = Arc::clone(&self.agent);
            tokio::spawn(async move {
                clear(&agent, &name, |_| {}).await;
                address.into_iter().for_each(|address| agent.addresses.release(address));
            });
        }
        // Reserve all known addresses first, so that a new instance does not get an address in use.
        let known = records::all(&self.agent.settings);
        for id in &known {
            if let Some(record) = Places::of(&self.agent.settings, id).read() {
                self.agent.addresses.take(record.address);
            }
        }
        if let Some(plan) = self.plan.clone() {
            for id in known.iter().filter(|id| !plan.instances.contains_key(*id)) {
                self.ensure(id, None);
            }
            self.apply(&plan);
        }
    }

    /// Follows the plan for ever. An unreachable or silent server changes nothing.
    pub(crate) async fn follow(&mut self) {
        let machine = self.agent.settings.machine.clone();
        loop {
            let after = match records::generation(self.plan.as_ref()) {
                Some(generation) => format!("?after={}", generation.0),
                None => String::new(),
            };
            let path = format!("/internal/v1/machines/{machine}/plan{after}");
            match self.agent.client.get::<PlanAnswer>(&path).await {
                Ok(Some(plan)) => self.take_on(plan).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "no plan");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn take_on(&mut self, plan: MachinePlan) {
        if records::generation(self.plan.as_ref()).is_some_and(|known| plan.generation <= known) {
            return;
        }
        gantry_linux::step!("plan.received");
        if let Err(error) = records::write_plan(&self.agent.settings, &plan) {
            tracing::error!(%error, "the plan cannot be kept on disk and is not taken on");
            tokio::time::sleep(RETRY).await;
            return;
        }
        gantry_linux::step!("plan.kept");
        if self.plan.is_none() {
            // The previous plan cannot be read, but its instances still exist.
            let known = records::all(&self.agent.settings);
            known.iter().filter(|id| !plan.instances.contains_key(*id)).for_each(|id| self.ensure(id, None));
        }
        self.apply(&plan);
        gantry_linux::step!("plan.applied");
        self.plan = Some(plan);
    }

    /// Gives each instance of the plan a task with its assignment, and tells all other tasks to remove their instances.
    fn apply(&mut self, plan: &MachinePlan) {
        self.tasks.retain(|_, task| !task.handle.is_finished());
        for (id, assignment) in &plan.instances {
            self.ensure(id, Some(assignment.clone()));
        }
        for (id, task) in &self.tasks {
            if !plan.instances.contains_key(id) {
                task.wanted.send_replace(None);
            }
        }
        self.agent.status.taken_on(plan.generation);
    }

    fn ensure(&mut self, id: &InstanceId, wanted: Wanted) {
        // A task that no longer listens has removed its instance. A new instance of that name may follow.
        if let Some(task) = self.tasks.get(id).filter(|task| !task.handle.is_finished() && !task.wanted.is_closed()) {
            task.wanted.send_if_modified(|known| {
                let changed = *known != wanted;
                known.clone_from(&wanted);
                changed
            });
            return;
        }
        // An instance without a record and with the goal "stop" has already stopped.
        let to_stop = wanted.as_ref().is_none_or(|assignment| assignment.goal == gantry_model::Goal::Stop);
        let places = Places::of(&self.agent.settings, id);
        if to_stop && places.read().is_none() {
            if !places.state.exists() && !places.folder.exists() {
                self.agent.status.remove(id);
                return;
            }
            // Either the record cannot be read, or a removal was interrupted. Whatever runs under this name ends first.
            // The status must be in the first report: the server takes an instance without a status for removed.
            self.agent.status.set(id, ObservedInstance { phase: Phase::Stopping, ..crate::status::fresh() });
            let (agent, gone) = (Arc::clone(&self.agent), id.clone());
            let (sender, receiver) = watch::channel(wanted);
            let handle = tokio::spawn(async move {
                clear(&agent, &gone.to_string(), |why| tell(&agent, &gone, Phase::Stopping, why)).await;
                drop(receiver);
                agent.status.remove(&gone);
            });
            self.tasks.insert(id.clone(), Task { wanted: sender, handle });
            return;
        }
        let (sender, receiver) = watch::channel(wanted);
        let handle = match Instance::new(&self.agent, id.clone(), receiver.clone()) {
            Ok(instance) => tokio::spawn(instance.run()),
            Err(message) => {
                tell(&self.agent, id, Phase::Failed, message);
                tokio::spawn(take_on_later(Arc::clone(&self.agent), id.clone(), receiver))
            }
        };
        self.tasks.insert(id.clone(), Task { wanted: sender, handle });
    }
}

/// Retries to adopt an instance that could not be adopted when the plan arrived, until the adoption succeeds or the
/// goal is "stop".
async fn take_on_later(agent: Arc<Agent>, id: InstanceId, mut wanted: watch::Receiver<Wanted>) {
    let mut told = String::new();
    while tokio::time::timeout(LATER, told_to_stop(&mut wanted)).await.is_err() {
        match Instance::new(&agent, id.clone(), wanted.clone()) {
            Ok(instance) => {
                drop(wanted);
                return instance.run().await;
            }
            Err(message) if message != told => {
                told.clone_from(&message);
                tell(&agent, &id, Phase::Failed, message);
            }
            Err(_) => {}
        }
    }
    clear(&agent, &id.to_string(), |_| {}).await;
    drop(wanted);
    agent.status.remove(&id);
}

/// Reports a failure of an instance that has no task of its own.
fn tell(agent: &Agent, id: &InstanceId, phase: Phase, why: String) {
    tracing::error!(instance = %id, why, "cannot be minded");
    agent.status.set(id, ObservedInstance { phase, failure: Some(why), ..crate::status::fresh() });
}

/// Removes a container without a record, however long the removal takes. Retries while the kernel does not release the
/// container, and passes each failure to `told`.
pub(crate) async fn clear(agent: &Agent, name: &str, told: impl Fn(String)) {
    let places = Places::named(&agent.settings, name, agent.settings.data.join("logs"));
    loop {
        let ended = match Container::adopt(&places.state, &places.cgroup) {
            Some(container) => container.destroy().await,
            None => gantry_sandbox::end_rest(&places.cgroup).await,
        };
        let removed = match ended {
            Ok(()) => places.remove().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let Err(why) = removed else { return };
        tracing::error!(name, why, "what was left over cannot be removed; trying again");
        told(format!("cannot be removed, and is tried again: {why}"));
        tokio::time::sleep(STUCK).await;
    }
}
