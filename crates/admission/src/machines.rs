//! Machines: registration, labels, and whether a machine takes copies.

use std::collections::BTreeMap;

use gantry_model::{
    AuditAction, LabelKey, LabelValue, Machine, MachineAvailability, MachineName, MachineState, Moment,
};
use gantry_records::{EventRecord, RecordChange, RecordIndex, StoreRecord, member_key, part_key};

use crate::{Actor, Admitted, Refusal};

impl Actor<'_> {
    /// Registers a machine whose agent has connected. `state` is the state of the machine that has the name now. A new
    /// machine may take the name of one that is lost, as after a restore on new hardware.
    ///
    /// # Errors
    /// When another machine with the name is not lost, or this machine has left the cluster.
    pub fn register_machine(&self, mut machine: Machine, state: MachineState) -> Admitted<()> {
        let name = machine.name.clone();
        if let Some(member) = self.records.members.get(&name).filter(|member| member.id == machine.id) {
            machine.labels = member.labels.clone();
        }
        let action = match self.records.machines.get(&name) {
            None => AuditAction::MachineRegistered { machine: name, id: machine.id.clone() },
            Some(known) if known.id == machine.id => {
                machine.registered = known.registered;
                if known.availability != MachineAvailability::Removed {
                    machine.labels = known.labels.clone();
                    machine.availability = known.availability.clone();
                } else if self.records.members.get(&name).is_none_or(|member| member.id != machine.id) {
                    return Err(Refusal::MachineRemoved { machine: name });
                }
                if **known == machine {
                    return Ok((Vec::new(), ()));
                }
                AuditAction::MachineUpdated { machine: name, program: machine.program.clone() }
            }
            Some(known) if state == MachineState::Lost || known.availability == MachineAvailability::Removed => {
                AuditAction::MachineReplaced { machine: name, id: machine.id.clone(), before: known.id.clone() }
            }
            Some(known) => {
                return Err(Refusal::MachineNameTaken { name, known: known.id.clone(), id: machine.id });
            }
        };
        Ok((vec![self.event(None, action), StoreRecord::Registered(machine).into()], ()))
    }

    /// Changes labels of a machine, and returns the machine from now on. A label without a value is removed.
    ///
    /// # Errors
    /// When there is no such machine, or it would have too many labels.
    pub fn label_machine(
        &self,
        name: &MachineName,
        labels: &BTreeMap<LabelKey, Option<LabelValue>>,
    ) -> Admitted<Machine> {
        let mut machine = self.find_machine(name)?.clone();
        for (key, value) in labels {
            match value {
                Some(value) => drop(machine.labels.insert(key.clone(), value.clone())),
                None => drop(machine.labels.remove(key)),
            }
        }
        if machine.labels.len() > LABELS_MAX {
            return Err(Refusal::TooManyLabels { count: machine.labels.len(), most: LABELS_MAX });
        }
        let action = AuditAction::MachineLabelled { machine: name.clone(), labels: machine.labels.clone() };
        self.machine_changed(machine, action)
    }

    /// Makes a machine take copies, take no new ones, or lose all of its own, and returns the machine from now on.
    ///
    /// # Errors
    /// When there is no such machine, or the reason is no short line.
    pub fn make_machine(&self, name: &MachineName, availability: MachineAvailability) -> Admitted<Machine> {
        if let Some(reason) = availability.reason()
            && (reason.len() > REASON_MAX || reason.contains(char::is_control))
        {
            return Err(Refusal::InvalidMachineReason { bytes: reason.len(), most: REASON_MAX });
        }
        let machine = Machine { availability, ..self.find_machine(name)?.clone() };
        let availability = machine.availability.clone();
        self.machine_changed(machine, AuditAction::MachineAvailabilityChanged { machine: name.clone(), availability })
    }

    /// Removes a machine from the cluster. Its record stays, so that the machine is refused from now on. `force` removes
    /// a lost machine, and gives up what was on it.
    ///
    /// # Errors
    /// When there is no such machine, or something runs on it and it is not both lost and forced.
    pub fn remove_machine(&self, name: &MachineName, state: MachineState, force: bool) -> Admitted<Machine> {
        let machine = self.find_machine(name)?.clone();
        let copies = self.records.plan.machines.get(name).map_or(0, |part| part.instances.len());
        if copies > 0 && !(force && state == MachineState::Lost) {
            return Err(Refusal::MachineInUse { machine: name.clone(), copies, is_lost: state == MachineState::Lost });
        }
        let machine = Machine { availability: MachineAvailability::Removed, ..machine };
        let availability = machine.availability.clone();
        let action = AuditAction::MachineAvailabilityChanged { machine: name.clone(), availability };
        let (mut changes, machine) = self.machine_changed(machine, action)?;
        changes.push(RecordChange::Remove(part_key(name)));
        // Its certificates no longer count. A new join token lets the machine in again.
        changes.extend(self.records.members.get(name).map(|_| RecordChange::Remove(member_key(name))));
        Ok((changes, machine))
    }

    /// Returns a machine of the cluster.
    fn find_machine(&self, name: &MachineName) -> Result<&Machine, Refusal> {
        let machine = self.records.machines.get(name);
        let present = machine.filter(|machine| machine.availability != MachineAvailability::Removed);
        present.map(AsRef::as_ref).ok_or_else(|| Refusal::MachineNotFound { machine: name.clone() })
    }

    /// Writes a machine together with an event.
    fn machine_changed(&self, machine: Machine, action: AuditAction) -> Admitted<Machine> {
        if self.records.machines.get(&machine.name).is_some_and(|known| **known == machine) {
            return Ok((Vec::new(), machine));
        }
        Ok((vec![self.event(None, action), StoreRecord::Registered(machine.clone()).into()], machine))
    }
}

/// Maximum number of labels of a machine.
const LABELS_MAX: usize = 64;

/// Longest reason for a machine's availability, in bytes.
const REASON_MAX: usize = 300;

/// Returns the events for machines that were lost or came back.
#[must_use]
pub fn events_of_machines<'a>(
    records: &RecordIndex,
    now: Moment,
    changes: impl IntoIterator<Item = (&'a MachineName, MachineState)>,
) -> Vec<RecordChange> {
    let action = |(machine, state): (&MachineName, MachineState)| match state {
        MachineState::Lost => AuditAction::MachineLost { machine: machine.clone() },
        _ => AuditAction::MachineReturned { machine: machine.clone() },
    };
    let numbered = changes.into_iter().map(action).zip(records.next_event()..);
    let event = |(action, number)| StoreRecord::Event(EventRecord::new(number, now, "gantry", None, action)).into();
    numbered.map(event).collect()
}
