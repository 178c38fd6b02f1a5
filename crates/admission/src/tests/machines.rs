use gantry_model::{Bytes, Machine, MachineCapacity, MachineId, MachineName, MachineState, MilliCpu};

use super::*;
fn machine(id: u128) -> Machine {
    Machine {
        id: MachineId::from_random(id),
        name: MachineName::parse("m1").expect("a name"),
        capacity: MachineCapacity { cpu: MilliCpu(4000), memory: Bytes::mebi(4096) },
        program: "1.0.0".to_owned(),
        protocol: 2,
        registered: NOW,
        addresses: Vec::new(),
        subnet: None,
    }
}

fn known(records: &RecordIndex) -> Machine {
    Machine::clone(records.machines.values().next().expect("a machine"))
}

fn register(records: &mut RecordIndex, machine: Machine, state: MachineState) -> Result<(), Refusal> {
    run(records, |actor| actor.register_machine(machine, state))
}

#[test]
fn a_machine_is_written_once_and_again_when_it_changed() {
    let mut records = RecordIndex::default();
    register(&mut records, machine(1), MachineState::Lost).expect("registered");
    assert_eq!((known(&records), records.events.len()), (machine(1), 1));
    let again = Machine { registered: Moment(NOW.0 + 5), ..machine(1) };
    let (changes, ()) =
        Actor::new(&records, NOW, "gantry").register_machine(again, MachineState::Ready).expect("known");
    assert!(changes.is_empty(), "a heartbeat is no write: {changes:?}");
    let updated = Machine { program: "1.1.0".to_owned(), registered: Moment(NOW.0 + 5), ..machine(1) };
    register(&mut records, updated.clone(), MachineState::Ready).expect("registered");
    assert_eq!(known(&records), Machine { registered: NOW, ..updated });
    assert_eq!(newest_action(&records).to_string(), "machine m1 runs gantry 1.1.0");
}

#[test]
fn two_machines_with_one_name_are_told_apart() {
    for (state, taken) in [(MachineState::Ready, false), (MachineState::Joining, false), (MachineState::Lost, true)] {
        let mut records = RecordIndex::default();
        register(&mut records, machine(1), MachineState::Lost).expect("registered");
        let refused = register(&mut records, machine(2), state);
        assert_eq!(refused.is_ok(), taken, "{state:?}");
        assert_eq!(known(&records).id, MachineId::from_random(if taken { 2 } else { 1 }));
        if let Err(refusal) = refused {
            let text = refusal.to_string();
            assert!(text.contains(&machine(1).id.to_string()) && text.contains(&machine(2).id.to_string()), "{text}");
            assert!(refusal.hint().expect("a hint").contains("--machine"));
        }
    }
}
