//! Tests of previews: a preview says what the deploy would do, and writes nothing.

use gantry_model::{Kind, MachineRefusal, MachineState, Reason, Slot};

use super::*;
use crate::preview::{DeployPreview, preview};

/// The copies with their machines in order, `shop.v2.web-1 on a`.
fn placed<'a>(copies: impl IntoIterator<Item = (&'a Slot, &'a MachineName)>) -> Vec<String> {
    let mut placed: Vec<String> = copies.into_iter().map(|(slot, machine)| format!("{slot} on {machine}")).collect();
    placed.sort();
    placed
}

fn starts(preview: &DeployPreview) -> Vec<String> {
    placed(&preview.starts)
}

fn stops(preview: &DeployPreview) -> Vec<String> {
    placed(preview.stops.iter().map(|(slot, machine)| (slot, machine)))
}

/// The copies of a release in the plan.
fn assigned(cluster: &SimulatedCluster, number: u64) -> Vec<String> {
    let view = cluster.state.view();
    let of_release = |id: &AllocationId| id.slot.release == ReleaseNumber(number);
    let assigned = view.records.plan.assignments().filter(|(_, id, _)| of_release(id));
    placed(assigned.map(|(machine, id, _)| (&id.slot, machine)))
}

/// Begins a deploy of a release.
fn begin(cluster: &mut SimulatedCluster, release: Release) {
    let records = deploy_of(&cluster.state.view().records, release, cluster.now);
    let changes = records.map(RecordChange::from).to_vec();
    cluster.state.apply(CoreEvent::Committed(changes), Moment(cluster.now));
}

#[test]
fn a_preview_names_the_copies_that_the_deploy_starts_and_stops() {
    let mut cluster = three_machines();
    let before = cluster.state.view();
    let previewed = preview(&before, release(2));
    assert!(*cluster.state.view().records == *before.records, "a preview changes no record");
    assert_eq!(stops(&previewed), assigned(&cluster, 1));
    assert_eq!((previewed.starts.len(), &previewed.waits), (3, &Vec::new()));
    begin(&mut cluster, release(2));
    cluster.run(false);
    assert_eq!(starts(&previewed), assigned(&cluster, 2), "the deploy does what the preview said");
    assert_eq!(assigned(&cluster, 1), [""; 0]);
}

#[test]
fn a_preview_of_the_first_release_stops_nothing() {
    let mut records = RecordIndex::default();
    records.apply(StoreRecord::App(App::new(app_name("shop"), Moment(0))).into());
    ["a", "b"].into_iter().for_each(|name| records.apply(StoreRecord::Registered(registered(name)).into()));
    let cluster = SimulatedCluster::new(records, START);
    let previewed = preview(&cluster.state.view(), release(1));
    assert_eq!((previewed.starts.len(), previewed.stops, previewed.waits), (3, vec![], vec![]));
}

#[test]
fn a_preview_of_an_unknown_app_is_empty() {
    let cluster = SimulatedCluster::new(RecordIndex::default(), START);
    assert_eq!(preview(&cluster.state.view(), release(1)), DeployPreview::default());
}

#[test]
fn a_preview_ignores_a_deploy_under_way() {
    let mut cluster = three_machines();
    begin(&mut cluster, release(2));
    let previewed = preview(&cluster.state.view(), release(3));
    assert_eq!(previewed.starts.len(), 3, "{previewed:?}");
    assert!(starts(&previewed).iter().all(|copy| copy.starts_with("shop.v3.web-")), "{previewed:?}");
    assert_eq!((stops(&previewed), previewed.waits), (assigned(&cluster, 1), vec![]));
}

#[test]
fn a_preview_names_the_copies_without_a_machine() {
    let cluster = three_machines();
    let mut large = release(2);
    // The machines have no record, so their capacity is unknown.
    let role = large.roles.get_mut(&role_name("web")).expect("the role");
    role.placement.reserve_memory = Some(Bytes::mebi(1));
    let previewed = preview(&cluster.state.view(), large);
    assert_eq!(starts(&previewed), [""; 0]);
    let lacks = |reason: &Reason| match reason {
        Reason::NoRoom { refusal, .. } => {
            refusal.0.iter().all(|refusing| refusing.why == MachineRefusal::ShortOfMemory)
        }
        _ => false,
    };
    assert!(previewed.waits.iter().any(lacks), "{:?}", previewed.waits);
}

#[test]
fn a_preview_leaves_out_the_release_step() {
    let cluster = three_machines();
    let mut with_step = release(2);
    let step = Role { kind: Kind::Job, ..Role::new(RoleCommand::Shell("migrate".into())) };
    with_step.roles.insert(role_name("release"), step);
    let previewed = preview(&cluster.state.view(), with_step);
    assert_eq!(starts(&previewed), starts(&preview(&cluster.state.view(), release(2))));
}

#[test]
fn a_preview_starts_nothing_on_machines_that_take_no_copies() {
    let mut cluster = three_machines();
    cluster.machines = vec!["a", "b"];
    cluster.pass(4_000);
    let draining = MachineAvailability::Draining { reason: None, deadline: None };
    let draining = StoreRecord::Registered(Machine { availability: draining, ..registered("b") });
    cluster.state.apply(CoreEvent::Committed(vec![draining.into()]), Moment(cluster.now));
    let view = cluster.state.view();
    assert_eq!(view.states[&machine_name("c")], MachineState::Lost);
    let previewed = preview(&view, release(2));
    assert!(previewed.starts.values().all(|machine| *machine == machine_name("a")), "{previewed:?}");
    assert_eq!(previewed.starts.len(), 3);
}
