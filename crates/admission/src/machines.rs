//! Registration of machines.

use gantry_model::{AuditAction, Machine, MachineState};
use gantry_records::StoreRecord;

use crate::{Actor, Admitted, Refusal};

impl Actor<'_> {
    /// Registers a machine whose agent has connected. `state` is the state of the machine that has the name now. A new
    /// machine may take the name of one that is lost, as after a restore on new hardware.
    ///
    /// # Errors
    /// When another machine with the name is not lost.
    pub fn register_machine(&self, mut machine: Machine, state: MachineState) -> Admitted<()> {
        let name = machine.name.clone();
        let action = match self.records.machines.get(&name) {
            None => AuditAction::MachineRegistered { machine: name, id: machine.id.clone() },
            Some(known) if known.id == machine.id => {
                machine.registered = known.registered;
                if **known == machine {
                    return Ok((Vec::new(), ()));
                }
                AuditAction::MachineUpdated { machine: name, program: machine.program.clone() }
            }
            Some(known) if state == MachineState::Lost => {
                AuditAction::MachineReplaced { machine: name, id: machine.id.clone(), before: known.id.clone() }
            }
            Some(known) => {
                return Err(Refusal::MachineNameTaken { name, known: known.id.clone(), id: machine.id });
            }
        };
        Ok((vec![self.event(None, action), StoreRecord::Registered(machine).into()], ()))
    }
}
