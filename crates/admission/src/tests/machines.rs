use gantry_model::{
    AllocationId, Assignment, Bytes, Generation, InstanceGoal, InstanceSpec, LabelKey, LabelValue, Machine,
    MachineAvailability, MachineCapacity, MachineId, MachineName, MachinePlan, MachineState, MilliCpu, ReleaseConfig,
    Role, RoleCommand,
};

use super::*;

fn machine(id: u128) -> Machine {
    Machine {
        id: MachineId::from_random(id),
        name: MachineName::parse("m1").expect("a name"),
        capacity: MachineCapacity { cpu: MilliCpu(4000), memory: Bytes::mebi(4096) },
        program: "1.0.0".to_owned(),
        protocol: 3,
        registered: NOW,
        addresses: Vec::new(),
        subnet: None,
        architecture: None,
        labels: BTreeMap::new(),
        availability: MachineAvailability::Schedulable,
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
fn distinguishes_two_machines_with_one_name() {
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

fn m1() -> MachineName {
    MachineName::parse("m1").expect("a name")
}

fn registered() -> RecordIndex {
    let mut records = RecordIndex::default();
    register(&mut records, machine(1), MachineState::Lost).expect("registered");
    records
}

#[test]
fn labels_are_set_and_removed_one_by_one() {
    let mut records = registered();
    let key = |text: &str| LabelKey::parse(text).expect("a key");
    let value = |text: &str| Some(LabelValue::parse(text).expect("a value"));
    let label = |records: &mut RecordIndex, labels: &[(&str, Option<LabelValue>)]| {
        let labels = labels.iter().map(|(name, value)| (key(name), value.clone())).collect();
        run(records, |actor| actor.label_machine(&m1(), &labels))
    };
    label(&mut records, &[("disk", value("ssd")), ("zone", value("a"))]).expect("labelled");
    label(&mut records, &[("zone", None), ("absent", None)]).expect("labelled");
    assert_eq!(known(&records).labels, BTreeMap::from([(key("disk"), value("ssd").expect("a value"))]));
    assert_eq!(newest_action(&records).to_string(), "machine m1 has the labels disk=ssd");
    let events = records.events.len();
    label(&mut records, &[("disk", value("ssd"))]).expect("no change");
    assert_eq!(records.events.len(), events);
    let many: Vec<String> = (0..70).map(|number| format!("k{number}")).collect();
    let many: Vec<(&str, Option<LabelValue>)> = many.iter().map(|name| (name.as_str(), value("x"))).collect();
    assert_eq!(label(&mut records, &many), Err(Refusal::TooManyLabels { count: 71, most: 64 }));
}

#[test]
fn an_operators_wish_and_labels_outlive_a_new_connection() {
    let mut records = registered();
    let draining = MachineAvailability::Draining { reason: Some("new disk".into()), deadline: Some(Moment(NOW.0 + 9)) };
    run(&mut records, |actor| actor.make_machine(&m1(), draining.clone())).expect("draining");
    assert_eq!(newest_action(&records).to_string(), "machine m1 is draining: new disk");
    let updated = Machine { program: "1.1.0".to_owned(), ..machine(1) };
    register(&mut records, updated, MachineState::Ready).expect("registered");
    assert_eq!(known(&records).availability, draining);
    let long = MachineAvailability::Cordoned { reason: Some("x".repeat(301)) };
    let refused = run(&mut records, |actor| actor.make_machine(&m1(), long));
    assert_eq!(refused, Err(Refusal::InvalidMachineReason { bytes: 301, most: 300 }));
    let lines = MachineAvailability::Cordoned { reason: Some("two\nlines".into()) };
    assert!(run(&mut records, |actor| actor.make_machine(&m1(), lines)).is_err());
    let other = MachineName::parse("m2").expect("a name");
    let missing = run(&mut records, |actor| actor.make_machine(&other, MachineAvailability::Schedulable));
    assert_eq!(missing, Err(Refusal::MachineNotFound { machine: other }));
}

#[test]
fn a_machine_is_removed_when_empty_or_lost_and_forced_and_refused_from_then_on() {
    for (copies, state, force, is_removed) in [
        (0, MachineState::Ready, false, true),
        (1, MachineState::Ready, false, false),
        (1, MachineState::Ready, true, false),
        (1, MachineState::Suspected, true, false),
        (1, MachineState::Lost, false, false),
        (1, MachineState::Lost, true, true),
    ] {
        let mut records = registered();
        let role = Role::new(RoleCommand::Shell("serve".into()));
        let (image, config) = (digest("ab"), ReleaseConfig::default());
        let spec = InstanceSpec { image, commit: None, config, role, volumes_of: None };
        let id = AllocationId::parse("shop.v1.web-1").expect("an id");
        let assignment = Assignment { spec: spec.into(), goal: InstanceGoal::Run };
        let instances = (0..copies).map(|_| (id.clone(), assignment.clone())).collect();
        let part = MachinePlan { generation: Generation(1), instances };
        records.apply(StoreRecord::Machine(m1(), part.into()).into());
        let removed = run(&mut records, |actor| actor.remove_machine(&m1(), state, force));
        assert_eq!(removed.is_ok(), is_removed, "{copies} copies, {state:?}, force: {force}");
        assert_eq!(records.plan.machines.contains_key(&m1()), !is_removed);
        if !is_removed {
            assert_eq!(
                removed,
                Err(Refusal::MachineInUse { machine: m1(), copies, is_lost: state == MachineState::Lost })
            );
            continue;
        }
        let again = register(&mut records, machine(1), MachineState::Ready);
        assert_eq!(again, Err(Refusal::MachineRemoved { machine: m1() }));
        register(&mut records, machine(2), MachineState::Ready).expect("another machine may have the name");
        assert_eq!(known(&records).availability, MachineAvailability::Schedulable);
    }
}
