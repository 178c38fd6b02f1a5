//! The containers of a machine, and the agent's work on them: start, restart, stop, remove.

use std::net::Ipv4Addr;

use gantry_model::{AllocationId, AppName, Assignment, ExitStatus, InstanceGoal, InstancePhase, ObservedInstance};

use crate::events::Event;
use crate::shapes::Behaviour;
use crate::simulation::Simulation;

/// Number of times that a container with the behaviour `ExitsLater` exits.
const LATER_EXITS: u32 = 3;

/// A container.
pub(crate) struct SimulatedContainer {
    pub(crate) status: ObservedInstance,
    /// Number of the next step. Steps of other numbers are void.
    step: u64,
    behaviour: Behaviour,
    runs_once: bool,
    /// Present if the container is the only copy of its role.
    is_single_writer: bool,
    /// A lease fences the container.
    is_fenced: bool,
    /// The application's process runs.
    runs: bool,
}

impl SimulatedContainer {
    /// Reports whether the container is ready and stays so.
    pub(crate) fn is_steady(&self) -> bool {
        let will_exit = self.behaviour == Behaviour::ExitsLater && self.status.restarts < LATER_EXITS;
        self.status.phase == InstancePhase::Ready && !will_exit
    }

    fn enter(&mut self, phase: InstancePhase, now: gantry_model::Moment) {
        self.status.phase = phase;
        self.status.since = now;
        self.step += 1;
    }
}

impl Simulation {
    /// Makes a machine's containers match its part of the plan, as far as that takes no time.
    pub(crate) fn reconcile(&mut self, machine: usize) {
        let agent = &self.agents[machine];
        let Some(plan) = agent.plans.part().filter(|_| agent.is_up) else { return };
        let is_wanted =
            |id: &AllocationId| plan.instances.get(id).is_some_and(|wanted| wanted.goal != InstanceGoal::Stop);
        let stopping = |(id, container): (&AllocationId, &SimulatedContainer)| {
            (!is_wanted(id) && container.status.phase != InstancePhase::Stopping).then(|| id.clone())
        };
        let stops: Vec<AllocationId> = agent.containers.iter().filter_map(stopping).collect();
        let missing = |(id, wanted): (&AllocationId, &Assignment)| {
            (is_wanted(id) && !agent.containers.contains_key(id)).then(|| (id.clone(), wanted.clone()))
        };
        let starts: Vec<(AllocationId, Assignment)> = plan.instances.iter().filter_map(missing).collect();
        for id in stops {
            self.enter(machine, &id, InstancePhase::Stopping, (100, 4_000));
        }
        for (id, assignment) in starts {
            self.create(machine, &id, &assignment);
        }
    }

    /// Creates a container.
    fn create(&mut self, machine: usize, id: &AllocationId, assignment: &Assignment) {
        let role = &assignment.spec.role;
        if !role.single {
            self.assert_single_writer(machine, id, role.stop_first());
        }
        let container = SimulatedContainer {
            status: ObservedInstance::new(InstancePhase::Preparing, self.timeline.now),
            step: 0,
            behaviour: Behaviour::of(role),
            runs_once: !role.is_service(),
            is_single_writer: role.stop_first(),
            is_fenced: role.single,
            runs: false,
        };
        self.agents[machine].containers.insert(id.clone(), container);
        self.enter(machine, id, InstancePhase::Preparing, (50, 2_000));
    }

    /// Lets a container enter a phase, and take its next step after a while.
    fn enter(&mut self, machine: usize, id: &AllocationId, phase: InstancePhase, (low, high): (u64, u64)) {
        let now = self.timeline.now;
        let Some(container) = self.agents[machine].containers.get_mut(id) else { return };
        container.enter(phase, now);
        let step = container.step;
        let pause = self.random.between(low, high);
        self.timeline.after(pause, Event::Container { machine, id: id.clone(), step });
    }

    /// A container takes its next step.
    pub(crate) fn container_step(&mut self, machine: usize, id: &AllocationId, step: u64) {
        let now = self.timeline.now;
        let agent = &mut self.agents[machine];
        let has_lease = agent.has_lease(now);
        let Some(container) = agent.containers.get_mut(id).filter(|container| container.step == step) else { return };
        if !agent.is_up {
            self.timeline.after(300, Event::Container { machine, id: id.clone(), step });
            return;
        }
        let (behaviour, restarts, runs_once) = (container.behaviour, container.status.restarts, container.runs_once);
        match container.status.phase {
            InstancePhase::Stopping => {
                agent.containers.remove(id);
                self.reconcile(machine);
            }
            InstancePhase::Preparing if container.is_fenced && !has_lease => {
                self.timeline.after(100, Event::Container { machine, id: id.clone(), step });
                return;
            }
            InstancePhase::Preparing => {
                container.runs = true;
                container.status.started = Some(now);
                if container.status.address.is_none() {
                    agent.addresses += 1;
                    let host = u32::try_from(machine).expect("small") << 12 | agent.addresses;
                    container.status.address = Some(Ipv4Addr::from(0x0a00_0000 | host));
                }
                self.assert_single_writer(machine, id, self.agents[machine].containers[id].is_single_writer);
                let slow = if behaviour == Behaviour::Slow { 9_000 } else { 0 };
                self.enter(machine, id, InstancePhase::Starting, (200 + slow, 3_000 + slow));
            }
            InstancePhase::Starting if runs_once || behaviour == Behaviour::Exits => {
                self.exit(machine, id, i32::from(behaviour == Behaviour::Exits));
            }
            InstancePhase::Starting if behaviour == Behaviour::NeverReady => return,
            InstancePhase::Starting | InstancePhase::Unhealthy => {
                self.enter(machine, id, InstancePhase::Ready, (2_000, 9_000));
            }
            InstancePhase::Ready if behaviour == Behaviour::ExitsLater && restarts < LATER_EXITS => {
                self.exit(machine, id, 1);
            }
            InstancePhase::Exited if !runs_once => {
                container.status.restarts += 1;
                let next = if container.is_fenced { InstancePhase::Preparing } else { InstancePhase::Starting };
                self.enter(machine, id, next, (200, 3_000));
            }
            _ => return,
        }
        self.report_agent(machine);
    }

    fn exit(&mut self, machine: usize, id: &AllocationId, code: i32) {
        let at = self.timeline.now;
        self.enter(machine, id, InstancePhase::Exited, (1_000, 2_000));
        if let Some(container) = self.agents[machine].containers.get_mut(id) {
            container.runs = false;
            container.status.exit = Some(ExitStatus { code: Some(code), at, ..ExitStatus::default() });
        }
    }

    /// A container that runs crashes, or fails its checks for a while.
    pub(crate) fn disturb_container(&mut self, machine: usize, crashes: bool) {
        let is_ready = |container: &SimulatedContainer| container.status.phase == InstancePhase::Ready;
        let containers = &self.agents[machine].containers;
        let ready: Vec<AllocationId> =
            containers.iter().filter(|(_, c)| is_ready(c)).map(|(id, _)| id.clone()).collect();
        if ready.is_empty() || !self.agents[machine].is_up {
            return;
        }
        let id = self.random.pick(&ready).clone();
        if crashes {
            self.exit(machine, &id, 139);
        } else {
            self.enter(machine, &id, InstancePhase::Unhealthy, (1_000, 15_000));
        }
        self.report_agent(machine);
    }

    /// A machine's containers end without notice, as in a loss of power.
    pub(crate) fn lose_containers(&mut self, machine: usize) {
        let ids: Vec<AllocationId> = self.agents[machine].containers.keys().cloned().collect();
        for id in ids {
            self.kill(machine, &id);
            match self.agents[machine].containers[&id].status.phase {
                InstancePhase::Stopping => drop(self.agents[machine].containers.remove(&id)),
                _ => self.enter(machine, &id, InstancePhase::Preparing, (50, 2_000)),
            }
        }
    }

    fn kill(&mut self, machine: usize, id: &AllocationId) {
        self.agents[machine].containers.get_mut(id).into_iter().for_each(|container| container.runs = false);
    }

    /// Ends a machine's single copies once their lease is over, whether or not the agent runs.
    pub(crate) fn fence(&mut self, machine: usize) {
        let agent = &self.agents[machine];
        if self.timeline.now < agent.fence {
            return;
        }
        let is_over = |(_, container): &(&AllocationId, &SimulatedContainer)| container.is_fenced && container.runs;
        let ids: Vec<AllocationId> = agent.containers.iter().filter(is_over).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.kill(machine, &id);
            if self.agents[machine].containers[&id].status.phase != InstancePhase::Stopping {
                self.enter(machine, &id, InstancePhase::Preparing, (50, 2_000));
            }
        }
        if self.agents[machine].is_up {
            self.report_agent(machine);
        }
    }

    /// The container that has the volume of an instance's role, if it is another one.
    pub(crate) fn other_writer(&self, id: &AllocationId) -> Option<(usize, AllocationId)> {
        // An app keeps its volumes when it gets another name.
        let named = |name: &AppName| self.apps.iter().position(|app| app.has_had(name));
        let app = named(&id.slot.app);
        let is_other = |other: &AllocationId| {
            other != id
                && other.slot.role == id.slot.role
                && (other.slot.app == id.slot.app || named(&other.slot.app) == app)
        };
        let of_machine = |(machine, agent): (usize, &crate::agents::SimulatedAgent)| {
            let mut others = agent.containers.iter();
            let found = others.find(|(other, container)| {
                container.is_single_writer && (container.runs || !container.is_fenced) && is_other(other)
            });
            found.map(|(other, _)| (machine, other.clone()))
        };
        self.agents.iter().enumerate().find_map(of_machine)
    }
}
