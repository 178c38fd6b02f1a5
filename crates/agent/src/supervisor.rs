//! The supervisor: follows the plan and keeps one task for each instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_model::{AllocationId, InstancePhase, MachinePlan, ObservedInstance};
use gantry_supervision::{Backoff, ReconcileLoop};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::AgentContext;
use crate::instance::{DesiredAssignment, Instance, stop_requested};
use crate::jobs;
use crate::records::{self, ContainerPaths};
use crate::tasks::{INSTANCE, REMOVAL};
use crate::workload::{TransientWorkload, Workload};

/// Retry interval while the plan cannot be written.
const RETRY: Duration = Duration::from_millis(250);

/// Retry interval for an instance that could not be adopted, for lack of an address or of disk space for its record.
const ADOPTION_RETRY: Duration = Duration::from_secs(2);

struct InstanceTask {
    desired: watch::Sender<DesiredAssignment>,
    handle: JoinHandle<()>,
}

/// Reason why a new plan was not adopted. The previous plan stays in force.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the plan to disk; the previous plan stays in force")]
struct PlanWriteError(#[source] std::io::Error);

/// The tasks of all instances.
pub(crate) struct InstanceSupervisor {
    agent: Arc<AgentContext>,
    plan: Option<MachinePlan>,
    tasks: BTreeMap<AllocationId, InstanceTask>,
}

impl InstanceSupervisor {
    pub(crate) fn new(agent: Arc<AgentContext>) -> Self {
        Self { agent, plan: None, tasks: BTreeMap::new() }
    }

    /// Adopts the plan and the instances that the previous agent left, and removes leftover transient workloads.
    pub(crate) async fn adopt(&mut self) {
        self.plan = records::read_plan(&self.agent.settings);
        let transient = records::transient_names(&self.agent.settings).into_iter();
        for name in transient.filter(|name| !jobs::continues(&self.agent, name)) {
            let (workload, address) = TransientWorkload::leftover(&self.agent, &name);
            address.into_iter().for_each(|address| self.agent.addresses.reserve(address));
            let agent = Arc::clone(&self.agent);
            self.agent.tasks.spawn(REMOVAL, async move {
                workload.discard(&agent, |_| {}).await;
                address.into_iter().for_each(|address| agent.addresses.release(address));
            });
        }
        // Reserve all known addresses first, so that a new instance does not get an address in use.
        let known = records::instance_ids(&self.agent.settings);
        for id in &known {
            if let Some(record) = ContainerPaths::of(&self.agent.settings, id).read_record() {
                self.agent.addresses.reserve(record.address);
            }
        }
        if let Some(plan) = self.plan.clone() {
            for id in known.iter().filter(|id| !plan.instances.contains_key(*id)) {
                self.ensure_task(id, None);
            }
            self.apply(&plan);
        }
    }

    /// The plan in force.
    pub(crate) fn plan(&self) -> Option<&MachinePlan> {
        self.plan.as_ref()
    }

    /// Adopts each plan that arrives, for ever. An unreachable or silent server changes nothing.
    pub(crate) async fn follow(&mut self, mut plans: watch::Receiver<Option<MachinePlan>>) {
        let pass = async || {
            let next = plans.borrow_and_update().clone();
            next.map_or(Ok(()), |plan| self.adopt_plan(plan))?;
            // The sender lives as long as the agent.
            let _ = plans.changed().await;
            Ok::<_, PlanWriteError>(())
        };
        ReconcileLoop::new("plan", Duration::ZERO, Backoff::constant(RETRY)).run(pass).await;
    }

    fn adopt_plan(&mut self, plan: MachinePlan) -> Result<(), PlanWriteError> {
        if records::plan_generation(self.plan.as_ref()).is_some_and(|known| plan.generation <= known) {
            return Ok(());
        }
        gantry_failpoint::failpoint!("plan.received");
        records::write_plan(&self.agent.settings, &plan).map_err(PlanWriteError)?;
        gantry_failpoint::failpoint!("plan.kept");
        if self.plan.is_none() {
            // The previous plan cannot be read, but its instances still exist.
            let known = records::instance_ids(&self.agent.settings);
            known.iter().filter(|id| !plan.instances.contains_key(*id)).for_each(|id| self.ensure_task(id, None));
        }
        self.apply(&plan);
        gantry_failpoint::failpoint!("plan.applied");
        self.plan = Some(plan);
        Ok(())
    }

    /// Gives each instance of the plan a task with its assignment, and tells all other tasks to remove their instances.
    fn apply(&mut self, plan: &MachinePlan) {
        self.tasks.retain(|_, task| !task.handle.is_finished());
        for (id, assignment) in &plan.instances {
            self.ensure_task(id, Some(assignment.clone()));
        }
        for (id, task) in &self.tasks {
            if !plan.instances.contains_key(id) {
                task.desired.send_replace(None);
            }
        }
        self.agent.status.taken_on(plan.generation);
    }

    fn ensure_task(&mut self, id: &AllocationId, desired: DesiredAssignment) {
        // A task that no longer listens has removed its instance. A new instance of that name may follow.
        if let Some(task) = self.tasks.get(id).filter(|task| !task.handle.is_finished() && !task.desired.is_closed()) {
            task.desired.send_if_modified(|known| {
                let changed = *known != desired;
                known.clone_from(&desired);
                changed
            });
            return;
        }
        // An instance without a record and with the goal "stop" has already stopped.
        let to_stop = desired.as_ref().is_none_or(|assignment| assignment.goal == gantry_model::InstanceGoal::Stop);
        let paths = ContainerPaths::of(&self.agent.settings, id);
        if to_stop && paths.read_record().is_none() {
            if !paths.state.exists() && !paths.folder.exists() {
                self.agent.status.remove(id);
                return;
            }
            // Either the record cannot be read, or a removal was interrupted. Whatever runs under this name ends first.
            // The status must be in the first report: the server takes an instance without a status for removed.
            self.agent
                .status
                .set(id, ObservedInstance { phase: InstancePhase::Stopping, ..crate::status::new_status() });
            let (agent, gone) = (Arc::clone(&self.agent), id.clone());
            let (sender, receiver) = watch::channel(desired);
            let handle = self.agent.tasks.spawn(REMOVAL, async move {
                let leftover = Workload::leftover(&agent.settings, &gone.to_string());
                leftover.discard(&agent, |why| report_failure(&agent, &gone, InstancePhase::Stopping, why)).await;
                drop(receiver);
                agent.status.remove(&gone);
            });
            self.tasks.insert(id.clone(), InstanceTask { desired: sender, handle });
            return;
        }
        let (sender, receiver) = watch::channel(desired);
        let handle = match Instance::new(&self.agent, id.clone(), receiver.clone()) {
            Ok(instance) => self.agent.tasks.spawn(INSTANCE, instance.run()),
            Err(error) => {
                report_failure(&self.agent, id, InstancePhase::Failed, ErrorChain(&error).to_string());
                self.agent.tasks.spawn(INSTANCE, retry_adoption(Arc::clone(&self.agent), id.clone(), receiver))
            }
        };
        self.tasks.insert(id.clone(), InstanceTask { desired: sender, handle });
    }
}

/// Retries to adopt an instance that could not be adopted when the plan arrived, until the adoption succeeds or the
/// goal is "stop".
async fn retry_adoption(agent: Arc<AgentContext>, id: AllocationId, mut desired: watch::Receiver<DesiredAssignment>) {
    let mut told = String::new();
    while tokio::time::timeout(ADOPTION_RETRY, stop_requested(&mut desired)).await.is_err() {
        match Instance::new(&agent, id.clone(), desired.clone()) {
            Ok(instance) => {
                drop(desired);
                return instance.run().await;
            }
            Err(error) => {
                let why = ErrorChain(&error).to_string();
                if why != told {
                    told.clone_from(&why);
                    report_failure(&agent, &id, InstancePhase::Failed, why);
                }
            }
        }
    }
    Workload::leftover(&agent.settings, &id.to_string()).discard(&agent, |_| {}).await;
    drop(desired);
    agent.status.remove(&id);
}

/// Reports a failure of an instance that has no task of its own.
fn report_failure(agent: &AgentContext, id: &AllocationId, phase: InstancePhase, why: String) {
    tracing::error!(instance = %id, why, "cannot manage the instance");
    agent.status.set(id, ObservedInstance { phase, failure: Some(why), ..crate::status::new_status() });
}
