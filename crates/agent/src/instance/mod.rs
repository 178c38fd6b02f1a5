//! One instance, from its image to its removal: the task that owns the instance.
//!
//! ```text
//!            ┌──────────────── backoff ────────────────┐
//!            ▼                                         │
//! preparing ─► starting ─► ready ◄─► unhealthy ─► exited / failed
//!     └────────────┴─────────┴───────────┴─────────────┴─► stopping ─► gone
//! ```

mod check;
mod end;
mod error;
mod start;

use std::sync::Arc;
use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_linux::cgroup::GroupUsage;
use gantry_model::{AllocationId, Assignment, InstanceGoal, InstancePhase, ObservedInstance, Seconds, StopReason};
use gantry_sandbox::Container;
use gantry_supervision::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;

use self::check::MonitorEnd;
pub(crate) use self::error::InstanceError;
use crate::AgentContext;
use crate::records::{ContainerPaths, InstanceRecord};
use crate::status::{new_status, now};
use crate::workload::{KindPolicy, Workload};

/// Shortest and longest pause before a restart.
const RESTART_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// An instance that lived this long restarts with the shortest pause.
const STEADY_UPTIME: Duration = Duration::from_secs(600);

/// The assignment that the supervisor sends to an instance's task. `None`: the instance is in no plan any more.
pub(crate) type DesiredAssignment = Option<Assignment>;

/// The task of one instance.
pub(crate) struct Instance {
    agent: Arc<AgentContext>,
    id: AllocationId,
    desired: watch::Receiver<DesiredAssignment>,
    workload: Workload,
    record: InstanceRecord,
    status: ObservedInstance,
    backoff: Backoff,
    /// Resource usage at the last two checks, older first.
    used: [GroupUsage; 2],
    /// Resource usage at the last poll of the limits.
    looked: GroupUsage,
    /// The stop timeout, if the instance exceeded it and was killed.
    killed_after: Option<Seconds>,
    /// True if a record existed. A container that runs without a record has an unknown address, and is started again.
    known: bool,
}

/// Returns once the instance has to stop.
pub(crate) async fn stop_requested(desired: &mut watch::Receiver<DesiredAssignment>) {
    let stops =
        |desired: &DesiredAssignment| desired.as_ref().is_none_or(|assignment| assignment.goal == InstanceGoal::Stop);
    if desired.wait_for(stops).await.is_err() {
        // The agent is shutting down.
        std::future::pending::<()>().await;
    }
}

impl Instance {
    /// Adopts an instance: writes its record if there is none, and sets its status.
    pub(crate) fn new(
        agent: &Arc<AgentContext>,
        id: AllocationId,
        desired: watch::Receiver<DesiredAssignment>,
    ) -> Result<Self, InstanceError> {
        let paths = ContainerPaths::of(&agent.settings, &id);
        let kept = paths.read_record();
        let known = kept.is_some();
        let record = match (kept, &*desired.borrow()) {
            (Some(record), _) => record,
            (None, Some(assignment)) => {
                let address = agent.allocate_address().ok_or(InstanceError::NoAddress)?;
                let record = InstanceRecord {
                    spec: (*assignment.spec).clone(),
                    address,
                    gateway: Some(agent.settings.gateway),
                    ready: false,
                    restarts: 0,
                    started: false,
                    exit: None,
                    begun: None,
                    ready_since: None,
                    stop: None,
                };
                if let Err(error) = paths.write_record(&record) {
                    agent.addresses.release(address);
                    return Err(InstanceError::Record(error));
                }
                gantry_failpoint::failpoint!("instance.recorded");
                record
            }
            // A removal was interrupted; the supervisor finishes it.
            (None, None) => return Err(InstanceError::Unknown),
        };
        agent.addresses.reserve(record.address);
        agent.addresses.own(record.address, &id.slot.app);
        let mut status = new_status();
        status.address = Some(record.address);
        status.restarts = record.restarts;
        status.exit.clone_from(&record.exit);
        status.started = record.begun;
        let mut instance = Self {
            workload: Workload::of_instance(&agent.settings, &id, &record.spec),
            agent: Arc::clone(agent),
            id,
            desired,
            record,
            status,
            backoff: Backoff::new(RESTART_PAUSES[0], RESTART_PAUSES[1]),
            used: Default::default(),
            looked: GroupUsage::default(),
            killed_after: None,
            known,
        };
        let phase = match (instance.left_running(), instance.record.ready) {
            (Some(container), true) if container.is_running() && !instance.is_on_old_network() => InstancePhase::Ready,
            (Some(container), _) if container.is_running() => InstancePhase::Starting,
            _ if instance.is_over() => InstancePhase::Exited,
            _ => InstancePhase::Preparing,
        };
        // The phase began before this agent started.
        let known_since =
            if phase == InstancePhase::Ready { instance.record.ready_since } else { instance.record.begun };
        if let Some(since) = known_since.filter(|_| phase != InstancePhase::Preparing) {
            (instance.status.phase, instance.status.since) = (phase, since);
        }
        instance.enter_phase(phase);
        Ok(instance)
    }

    /// The differences between this kind of workload and others.
    fn policy(&self) -> KindPolicy {
        self.workload.kind().policy()
    }

    /// The container that the previous agent left running.
    fn left_running(&self) -> Option<Container> {
        self.workload.container().filter(|container| self.known && container.was_released())
    }

    /// Reports whether the container may have run: the agent started the container, and the worker released the container
    /// before the worker ended.
    fn may_have_run(&self) -> bool {
        self.record.started && self.workload.container().is_none_or(|container| container.was_released())
    }

    /// Reports whether a run-once instance has ended.
    fn is_over(&self) -> bool {
        !self.policy().restarts && self.record.exit.is_some()
    }

    /// Reports whether the address belongs to a previous network of the machine. A container there has neither a route
    /// out nor name resolution.
    fn is_on_old_network(&self) -> bool {
        let was_another = |gateway| gateway != self.agent.settings.gateway;
        !self.agent.addresses.contains(self.record.address) || self.record.gateway.is_some_and(was_another)
    }

    fn goal(&self) -> InstanceGoal {
        self.desired.borrow().as_ref().map_or(InstanceGoal::Stop, |assignment| assignment.goal)
    }

    fn enter_phase(&mut self, phase: InstancePhase) {
        if self.status.phase != phase {
            self.status.since = now();
        }
        self.status.phase = phase;
        self.agent.status.set(&self.id, self.status.clone());
    }

    fn write_record(&self) {
        if let Err(error) = self.workload.paths().write_record(&self.record) {
            tracing::error!(instance = %self.id, %error, "cannot write the instance's record");
        }
    }

    /// Takes over the container that the previous agent left, if the container may go on running.
    async fn take_over(&mut self) -> Option<Container> {
        let mut container = self.left_running();
        if let Some(container) = &container {
            if self.record.spec.role.single {
                self.agent.fence.enter(&self.id, self.workload.paths().exit());
            }
            self.used = [container.usage(); 2];
            self.looked = container.usage();
        }
        if !self.policy().restarts {
            if self.may_have_run() && self.record.exit.is_none() && container.is_none() {
                // The instance ended while no agent was running.
                self.record_exit(GroupUsage::default(), false);
            }
        } else if self.is_on_old_network()
            && self.goal() != InstanceGoal::Stop
            && let Some(old) = container.take()
        {
            tracing::warn!(instance = %self.id, address = %self.record.address, "instance is on an old network of the machine; restarting it");
            self.stop_container(&old, StopReason::NetworkChanged).await;
        }
        container
    }

    /// Runs until the instance is removed.
    pub(crate) async fn run(mut self) {
        let mut container = self.take_over().await;
        while self.goal() != InstanceGoal::Stop {
            if self.is_over() {
                self.enter_phase(InstancePhase::Exited);
                self.assignment_changed().await;
                continue;
            }
            let running = match container.take() {
                Some(container) => container,
                None => match self.start_with_retry().await {
                    Ok(container) => container,
                    Err(error) => {
                        let why = ErrorChain(&error).to_string();
                        tracing::warn!(instance = %self.id, why, "cannot start the instance");
                        self.status.failure = Some(why);
                        self.enter_phase(InstancePhase::Failed);
                        self.back_off().await;
                        continue;
                    }
                },
            };
            let begun = Instant::now();
            match self.monitor(&running).await {
                MonitorEnd::ToStop => container = Some(running),
                MonitorEnd::Ended => {
                    // First take the instance out of rotation; the exit is reported once it is known.
                    if self.status.phase == InstancePhase::Ready {
                        self.enter_phase(InstancePhase::Starting);
                    }
                    self.finish(&running).await;
                    self.prepare_restart(begun).await;
                }
                MonitorEnd::Unhealthy(stop) => {
                    // This status has already taken the instance out of rotation at the routers.
                    self.stop_container(&running, stop).await;
                    self.finish(&running).await;
                    self.prepare_restart(begun).await;
                }
            }
        }
        self.remove(container).await;
    }

    /// Waits for a change of the assignment.
    async fn assignment_changed(&mut self) {
        if self.desired.changed().await.is_err() {
            // The agent is shutting down.
            std::future::pending::<()>().await;
        }
    }

    async fn back_off(&mut self) {
        let pause = self.backoff.pause();
        let _ = tokio::time::timeout(pause, stop_requested(&mut self.desired)).await;
    }

    async fn prepare_restart(&mut self, begun: Instant) {
        if self.is_over() {
            return;
        }
        if begun.elapsed() >= STEADY_UPTIME {
            self.backoff.reset();
        }
        self.back_off().await;
        if self.goal() != InstanceGoal::Stop {
            self.status.restarts += 1;
            self.record.restarts = self.status.restarts;
            self.write_record();
        }
    }
}
