//! Copies that no machine takes, judged from the records alone. An operator may close the machine that has the data of a
//! volume: the copy with the volume then waits until the machine is open again.

use std::collections::BTreeMap;

use gantry_model::{
    App, Machine, MachineAvailability, MachineName, MachineRefusal, PlacementRefusal, Reason, Role, Slot,
};
use gantry_records::RecordIndex;

use crate::simulation::Simulation;

/// Number of machines by the reason why they do not take a copy.
type Refusals = BTreeMap<MachineRefusal, u32>;

impl Simulation {
    /// Returns why a slot without a copy is wrong; none if no machine takes the copy and the leading server says so.
    pub(crate) fn wrongly_missing(&self, app: &App, slot: &Slot, role: &Role) -> Option<String> {
        let refusals = match refusals(&self.store.records, app, role) {
            Ok(refusals) => refusals,
            Err(machine) => return Some(format!("{slot} has no copy, and {machine} has room")),
        };
        let stated = self.stated_refusal(slot);
        let is_stated = stated.as_ref().is_some_and(|stated| counted(stated) == refusals);
        (!is_stated).then(|| format!("{slot} has no copy: the server states {stated:?}, and not {refusals:?}"))
    }

    /// The leading server's reason why no machine takes a slot.
    fn stated_refusal(&self, slot: &Slot) -> Option<PlacementRefusal> {
        let leader = self.servers.iter().find(|server| server.answers())?.leader.as_ref()?;
        let report = leader.core.view().report;
        report.waits.get(&slot.app)?.iter().find_map(|reason| match reason {
            Reason::NoRoom { instance, refusal } if instance == slot => Some(refusal.clone()),
            _ => None,
        })
    }
}

fn counted(refusal: &PlacementRefusal) -> Refusals {
    refusal.0.iter().map(|refusing| (refusing.why.clone(), refusing.machines)).collect()
}

/// Counts the machines that do not take a copy of a role, by reason. All machines are alive at the end of a run.
///
/// # Errors
/// The first machine that takes the copy.
fn refusals(records: &RecordIndex, app: &App, role: &Role) -> Result<Refusals, MachineName> {
    let mut refusals = Refusals::new();
    let is_present = |machine: &&Machine| machine.availability != MachineAvailability::Removed;
    for machine in records.machines.values().map(AsRef::as_ref).filter(is_present) {
        let refusal = refusal(records, machine, app, role).ok_or_else(|| machine.name.clone())?;
        *refusals.entry(refusal).or_default() += 1;
    }
    Ok(refusals)
}

fn refusal(records: &RecordIndex, machine: &Machine, app: &App, role: &Role) -> Option<MachineRefusal> {
    match machine.availability {
        MachineAvailability::Draining { .. } => return Some(MachineRefusal::Draining),
        MachineAvailability::Cordoned { .. } => return Some(MachineRefusal::Cordoned),
        _ => {}
    }
    // The data on a removed machine is gone.
    let is_kept = |name: &&MachineName| {
        records.machines.get(*name).is_some_and(|machine| machine.availability != MachineAvailability::Removed)
    };
    let mut data = role.volumes.keys().filter_map(|volume| app.data.get(volume)).filter(is_kept);
    if let Some(elsewhere) = data.find(|name| **name != machine.name) {
        return Some(MachineRefusal::DataElsewhere { machine: elsewhere.clone() });
    }
    let reserved = |role: &Role| role.placement.reserve_memory.map_or(0, |memory| memory.0);
    let part = records.plan.machines.get(&machine.name);
    let copies = part.into_iter().flat_map(|part| part.instances.values());
    let used: u64 = copies.map(|assignment| reserved(&assignment.spec.role)).sum();
    let usable = machine.capacity.memory.0.saturating_sub(records.policy.system_memory().0);
    (used + reserved(role) > usable).then_some(MachineRefusal::ShortOfMemory)
}

#[cfg(test)]
mod tests {
    use gantry_model::{Bytes, MachineCapacity, MachineId, MilliCpu, Moment, RoleCommand};
    use gantry_records::{RecordChange, StoreRecord};

    use super::*;
    use crate::shapes::machine_name;

    const CORDONED: MachineAvailability = MachineAvailability::Cordoned { reason: None };

    fn records(availabilities: [MachineAvailability; 2]) -> RecordIndex {
        let mut records = RecordIndex::default();
        for (number, availability) in availabilities.into_iter().enumerate() {
            let machine = Machine {
                id: MachineId::from_random(number as u128),
                name: machine_name(number),
                capacity: MachineCapacity { cpu: MilliCpu(4000), memory: Bytes::mebi(4096) },
                program: "simulated".to_owned(),
                protocol: gantry_control::version::SUPPORTED_VERSIONS.newest.0,
                registered: Moment(0),
                addresses: Vec::new(),
                subnet: None,
                architecture: None,
                labels: Default::default(),
                availability,
            };
            records.apply(RecordChange::from(StoreRecord::Registered(machine)));
        }
        records
    }

    /// An app with data on the first machine, and the role that has the data.
    fn database() -> (App, Role) {
        let mut app = App::new(gantry_model::AppName::parse("shop").expect("a name"), Moment(0));
        app.data.insert("data".into(), machine_name(0));
        let mut role = Role::new(RoleCommand::Shell("serve".into()));
        role.volumes.insert("data".into(), "/data".into());
        (app, role)
    }

    #[test]
    fn a_copy_waits_for_the_closed_machine_that_has_its_data() {
        let (app, role) = database();
        let elsewhere = MachineRefusal::DataElsewhere { machine: machine_name(0) };
        let expected = Refusals::from([(MachineRefusal::Cordoned, 1), (elsewhere, 1)]);
        assert_eq!(refusals(&records([CORDONED, MachineAvailability::Schedulable]), &app, &role), Ok(expected));
    }

    #[test]
    fn a_copy_may_not_wait_while_a_machine_takes_it() {
        let (app, role) = database();
        let (open, removed) = (MachineAvailability::Schedulable, MachineAvailability::Removed);
        assert_eq!(refusals(&records([open.clone(), CORDONED]), &app, &role), Err(machine_name(0)));
        assert_eq!(refusals(&records([removed, open.clone()]), &app, &role), Err(machine_name(1)), "the data is gone");
        let without_data = Role::new(RoleCommand::Shell("serve".into()));
        assert_eq!(refusals(&records([CORDONED, open]), &app, &without_data), Err(machine_name(1)));
    }

    #[test]
    fn a_copy_waits_for_the_memory_that_it_reserves() {
        let (app, mut role) = (database().0, Role::new(RoleCommand::Shell("serve".into())));
        role.placement.reserve_memory = Some(Bytes::mebi(4097));
        let (open, short) = (MachineAvailability::Schedulable, MachineRefusal::ShortOfMemory);
        assert_eq!(refusals(&records([open.clone(), open]), &app, &role), Ok(Refusals::from([(short, 2)])));
    }
}
