//! The operators' commands: machines are cordoned, drained, taken back into use, and removed once they are empty.

use gantry_admission::Actor;
use gantry_model::{Bytes, Machine, MachineAvailability, MachineCapacity, MachineId, MachineState, MilliCpu};

use crate::events::Event;
use crate::servers::Leader;
use crate::shapes::machine_name;
use crate::simulation::Simulation;
use crate::writes::WriteError;

/// Name of the operators in the audit trail.
const OPERATOR: &str = "operator";

impl Simulation {
    /// Schedules the operators' commands.
    pub(crate) fn schedule_operations(&mut self) {
        for _ in 0..self.settings.operations() {
            let at = self.random.between(5_000, self.settings.seconds * 1000);
            self.timeline.after(at, Event::Operate);
        }
    }

    /// Registers the machine of an agent that connects.
    pub(crate) fn register(&mut self, leader: &mut Leader, machine: usize) -> Result<(), WriteError> {
        let record = |now| Machine {
            id: MachineId::from_random(machine as u128),
            name: machine_name(machine),
            capacity: MachineCapacity { cpu: MilliCpu(4000), memory: Bytes::mebi(4096) },
            program: "simulated".to_owned(),
            protocol: gantry_control::version::SUPPORTED_VERSIONS.newest.0,
            registered: now,
            addresses: Vec::new(),
            subnet: None,
            architecture: None,
            labels: Default::default(),
            availability: MachineAvailability::Schedulable,
        };
        let registered = self.mutate(leader, |records, now| {
            Actor::new(records, now, "gantry").register_machine(record(now), MachineState::Ready)
        });
        match registered {
            // The agent goes on without a record, as the product's does.
            Err(WriteError::Refused | WriteError::Unknown) => Ok(()),
            registered => registered.map(drop),
        }
    }

    /// An operator gives a command. At any time, most machines take copies.
    pub(crate) fn operate(&mut self) {
        let machine = self.random.index(self.settings.machines);
        let choice = self.random.between(0, 9);
        let chosen_availability = match choice {
            0..4 => MachineAvailability::Draining { reason: None, deadline: None },
            4..6 => MachineAvailability::Cordoned { reason: None },
            _ => MachineAvailability::Schedulable,
        };
        let machines = self.store.records.machines.values();
        let closed: Vec<_> =
            machines.filter(|machine| machine.availability != MachineAvailability::Schedulable).collect();
        let (name, closed_count) = (machine_name(machine), closed.len());
        let draining =
            closed.iter().find(|machine| matches!(machine.availability, MachineAvailability::Draining { .. }));
        let drained = draining.map(|machine| machine.name.clone()).filter(|_| choice == 9);
        if chosen_availability != MachineAvailability::Schedulable && closed_count >= self.settings.machines / 5 {
            return;
        }
        self.on_answering_server(|simulation, leader| match drained {
            Some(name) => simulation
                .mutate(leader, |records, now| {
                    Actor::new(records, now, OPERATOR).remove_machine(&name, MachineState::Ready, false)
                })
                .map(drop),
            None => simulation
                .mutate(leader, |records, now| {
                    Actor::new(records, now, OPERATOR).make_machine(&name, chosen_availability)
                })
                .map(drop),
        });
    }

    /// Reports whether a machine has left the cluster, so that the server refuses its peers.
    pub(crate) fn is_removed(&self, machine: usize) -> bool {
        self.availability(machine) == MachineAvailability::Removed
    }

    /// The recorded availability of a machine.
    pub(crate) fn availability(&self, machine: usize) -> MachineAvailability {
        let record = self.store.records.machines.get(&machine_name(machine));
        record.map(|machine| machine.availability.clone()).unwrap_or_default()
    }

    /// A copy that could move and is on a machine that is being drained, if there is one.
    pub(crate) fn undrained(&self) -> Option<String> {
        let is_draining = |machine: usize| matches!(self.availability(machine), MachineAvailability::Draining { .. });
        let draining = (0..self.settings.machines).filter(|machine| is_draining(*machine));
        draining.map(machine_name).find_map(|name| {
            let part = self.store.records.plan.machines.get(&name)?;
            let (id, _) = part.instances.iter().find(|(_, assignment)| assignment.spec.role.volumes.is_empty())?;
            Some(format!("{id} is still on {name}, which is being drained"))
        })
    }
}
