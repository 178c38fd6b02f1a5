//! Replication of real parts between a sender and a receiver, and between versions that differ.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_control::update::Items;
use gantry_control::{
    MachineReport, Receipt, Replicated, RouterReport, Update, UpdateReceiver, UpdateSender, version_one,
};
use gantry_model::role::{AppProtocol, RoleCommand};
use gantry_model::{
    AllocationId, AppName, AppNames, Assignment, Digest, Endpoint, FailureRun, Generation, HostName, InstanceGoal,
    InstancePhase, InstanceSpec, MachineAddress, MachineName, MachinePlan, Moment, ObservedInstance, RequestCounts,
    RequestFailure, RequestTimeouts, Role, Route, RoutingTable,
};
use proptest::prelude::*;
use serde_json::json;

fn id(index: u32) -> AllocationId {
    AllocationId::parse(&format!("shop.v1.web-{}", index + 1)).expect("an instance")
}

fn app(index: u32) -> AppName {
    AppName::parse(&format!("app-{index}")).expect("a name")
}

fn assignment(kind: u32) -> Assignment {
    let spec = InstanceSpec {
        image: Digest::from_hex(&"a".repeat(64)).expect("a digest"),
        commit: None,
        config: BTreeMap::from([("KIND".to_owned(), (kind / 3).to_string())]).into(),
        role: Role::new(RoleCommand::Shell("run".to_owned())),
        volumes_of: None,
    };
    let goal = match kind % 3 {
        0 => InstanceGoal::Run,
        1 => InstanceGoal::Stop,
        _ => InstanceGoal::Retire { removed_in: Generation(u64::from(kind)), since: Moment(7) },
    };
    Assignment { spec: Arc::new(spec), goal }
}

fn status(kind: u32) -> ObservedInstance {
    let phases = [InstancePhase::Preparing, InstancePhase::Ready, InstancePhase::Exited];
    ObservedInstance {
        phase: phases[kind as usize % 3],
        since: Moment(u64::from(kind)),
        address: Some(Ipv4Addr::new(10, 0, 0, 1)),
        restarts: kind,
        exit: None,
        probe: None,
        failure: None,
        warning: None,
        started: None,
        failed_checks: 0,
        limit_hits: Vec::new(),
        unpacked: 7 << 20,
        last_output: None,
    }
}

fn plan(kinds: &BTreeMap<u32, u32>, generation: u64) -> MachinePlan {
    let instances = kinds.iter().map(|(index, kind)| (id(*index), assignment(*kind))).collect();
    MachinePlan { generation: Generation(generation), instances }
}

fn machine_name(index: u32) -> MachineName {
    MachineName::parse(&format!("m{index}")).expect("a name")
}

fn table(kinds: &BTreeMap<u32, u32>, generation: u64) -> RoutingTable {
    let route = |(index, kind): (&u32, &u32)| {
        let endpoint = Endpoint {
            allocation: id(*kind),
            at: MachineAddress::new(MachineName::parse("m").expect("a name"), Ipv4Addr::new(10, 0, 0, 2)),
            port: 80,
            protocol: AppProtocol::Http1,
        };
        let route = Route {
            app: app(*index),
            release: gantry_model::ReleaseNumber(1),
            held: false,
            endpoints: vec![endpoint],
            traffic: Default::default(),
            timeouts: RequestTimeouts::default(),
        };
        (HostName::parse(&format!("a{index}.example")).expect("a host"), route)
    };
    let tunnel = |(index, _): (&u32, &u32)| {
        let address = format!("10.0.0.7:{}", 7000 + index).parse().expect("an address");
        (machine_name(*index), vec![address])
    };
    RoutingTable {
        generation: Generation(generation),
        routes: kinds.iter().map(route).collect(),
        names: kinds.keys().map(|index| (app(*index), AppNames::default())).collect(),
        tunnels: kinds.iter().map(tunnel).collect::<BTreeMap<_, _>>().into(),
        lost: kinds.iter().filter(|(_, kind)| **kind == 1).map(|(index, _)| machine_name(*index)).collect(),
        ..RoutingTable::default()
    }
}

fn machine_report(kinds: &BTreeMap<u32, u32>, generation: u64) -> MachineReport {
    let instances = kinds.iter().map(|(index, kind)| (id(*index), status(*kind))).collect();
    MachineReport { generation: Generation(generation), instances, network: Vec::new() }
}

fn router_report(kinds: &BTreeMap<u32, u32>, generation: u64) -> RouterReport {
    let run = FailureRun { count: 1, of: 2, since: Moment(1), last: Moment(2), status: 502, instance: None };
    RouterReport {
        generation: Generation(generation),
        active: kinds.iter().map(|(index, kind)| (id(*index), u64::from(*kind))).collect(),
        counts: kinds
            .iter()
            .map(|(index, kind)| (app(*index), RequestCounts { waiting: u64::from(*kind), ..RequestCounts::default() }))
            .collect(),
        failures: kinds
            .keys()
            .map(|index| (app(*index), BTreeMap::from([(RequestFailure::Broken, run.clone())])))
            .collect(),
        ..RouterReport::default()
    }
}

/// Fate of an update on its way, and of the receiver.
#[derive(Debug, Clone)]
enum Fate {
    Arrives,
    /// The connection breaks with the update: both sides begin again from the revision that the receiver names.
    Lost,
    /// The update arrives twice.
    Doubled,
}

fn fates() -> impl Strategy<Value = Vec<(BTreeMap<u32, u32>, Fate)>> {
    let kinds = proptest::collection::btree_map(0u32..6, 0u32..9, 0..6);
    let fate = prop_oneof![4 => Just(Fate::Arrives), 1 => Just(Fate::Lost), 1 => Just(Fate::Doubled)];
    proptest::collection::vec((kinds, fate), 1..12)
}

/// Replicates each state in turn; after each update that arrives, the receiver has the sender's part.
fn replicates<T: Replicated + PartialEq + std::fmt::Debug>(
    states: Vec<(BTreeMap<u32, u32>, Fate)>,
    make: impl Fn(&BTreeMap<u32, u32>, u64) -> T,
) -> Result<(), TestCaseError> {
    let mut receiver = UpdateReceiver::<T>::new(None);
    let mut sender = UpdateSender::new(receiver.revision());
    for (revision, (kinds, fate)) in (1..).zip(states) {
        let part = make(&kinds, revision);
        let update = sender.next(revision, &part).expect("a newer revision");
        prop_assert!(sender.next(revision, &part).is_none(), "nothing is sent twice");
        let text = serde_json::to_vec(&update).expect("written");
        let update: Update = serde_json::from_slice(&text).expect("read");
        match fate {
            Fate::Lost => {
                sender = UpdateSender::new(receiver.revision());
                continue;
            }
            Fate::Arrives => prop_assert_eq!(receiver.receive(&update), Receipt::Applied(Vec::new())),
            Fate::Doubled => {
                prop_assert_eq!(receiver.receive(&update), Receipt::Applied(Vec::new()));
                prop_assert_eq!(receiver.receive(&update), Receipt::Old);
            }
        }
        prop_assert_eq!(receiver.part(), Some(&part));
        prop_assert_eq!(receiver.revision(), Some(revision));
    }
    Ok(())
}

proptest! {
    #[test]
    fn replicates_plans(states in fates()) {
        replicates(states, plan)?;
    }

    #[test]
    fn replicates_tables(states in fates()) {
        replicates(states, table)?;
    }

    #[test]
    fn replicates_machine_reports(states in fates()) {
        replicates(states, machine_report)?;
    }

    #[test]
    fn replicates_router_reports(states in fates()) {
        replicates(states, router_report)?;
    }
}

fn of<const N: usize>(kinds: [(u32, u32); N]) -> BTreeMap<u32, u32> {
    BTreeMap::from(kinds)
}

#[test]
fn sends_only_changed_items() {
    let mut sender = UpdateSender::new(None);
    let complete = sender.next(1, &plan(&of([(0, 0), (1, 0), (2, 3)]), 1)).expect("complete");
    // Two copies share a spec.
    let count = |kind: &str| complete.set.keys().filter(|key| key.starts_with(kind)).count();
    assert_eq!((count("spec/"), count("config/")), (2, 2));
    assert_eq!(complete.base, None);
    // Another goal sends no spec.
    let goal = sender.next(2, &plan(&of([(0, 1), (1, 0), (2, 3)]), 2)).expect("a difference");
    assert_eq!(
        (goal.base, goal.set.keys().map(String::as_str).collect::<Vec<_>>()),
        (Some(1), vec!["allocation/shop.v1.web-1"])
    );
    let gone = sender.next(3, &plan(&of([(0, 1), (2, 3)]), 3)).expect("a difference");
    assert_eq!((gone.set, gone.removed), (Items::new(), vec!["allocation/shop.v1.web-2".to_owned()]));
}

#[test]
fn continues_from_the_revision_of_a_receiver_that_comes_back() {
    let mut sender = UpdateSender::new(Some(4));
    assert_eq!(sender.next(4, &plan(&of([(0, 0)]), 4)), None);
    let next = sender.next(5, &plan(&of([(0, 0), (1, 1)]), 5)).expect("a difference");
    let keys: Vec<&str> = next.set.keys().map(|key| key.split('/').next().expect("a kind")).collect();
    assert_eq!((next.base, keys), (Some(4), vec!["allocation", "config", "spec"]));
}

#[test]
fn a_receiver_asks_for_the_complete_part_after_a_gap_and_never_goes_back() {
    let mut receiver = UpdateReceiver::new(Some((4, plan(&of([(0, 0)]), 4))));
    let gap = Update { base: Some(5), revision: 6, ..Update::default() };
    assert_eq!(receiver.receive(&gap), Receipt::Gap);
    let old = Update { base: None, revision: 3, ..Update::default() };
    assert_eq!(receiver.receive(&old), Receipt::Old);
    assert_eq!(receiver.part(), Some(&plan(&of([(0, 0)]), 4)));
    let mut sender = UpdateSender::new(None);
    sender.resend();
    let complete = sender.next(6, &plan(&of([(1, 0)]), 6)).expect("complete");
    assert_eq!(receiver.receive(&complete), Receipt::Applied(Vec::new()));
    assert_eq!(receiver.part(), Some(&plan(&of([(1, 0)]), 6)));
}

#[test]
fn an_update_changes_the_part_in_place_unless_others_have_it() {
    let (mut receiver, mut sender) = (UpdateReceiver::new(None), UpdateSender::new(None));
    let mut receive = |receiver: &mut UpdateReceiver<MachinePlan>, revision: u64| {
        let update = sender.next(revision, &plan(&of([(0, 0)]), revision)).expect("a newer revision");
        assert_eq!(receiver.receive(&update), Receipt::Applied(Vec::new()));
        Arc::as_ptr(receiver.shared().expect("a part"))
    };
    let first = receive(&mut receiver, 1);
    assert_eq!(receive(&mut receiver, 2), first, "no copy");
    let shared = Arc::clone(receiver.shared().expect("a part"));
    assert_ne!(receive(&mut receiver, 3), first);
    assert_eq!((shared.generation, receiver.part().map(|part| part.generation)), (Generation(2), Some(Generation(3))));
}

#[test]
fn a_sender_leaves_a_newer_receiver_alone() {
    let mut sender = UpdateSender::new(Some(9));
    assert_eq!(sender.next(8, &plan(&of([(0, 0)]), 8)), None);
    let next = sender.next(10, &plan(&of([(0, 0)]), 10)).expect("complete");
    assert_eq!(next.base, None);
}

/// An older agent: the plan of a newer server has a goal, a kind of item and a field that the agent does not know.
#[test]
fn an_older_agent_keeps_unknown_items_and_applies_the_rest() {
    let mut receiver = UpdateReceiver::<MachinePlan>::new(None);
    let mut sender = UpdateSender::new(None);
    let _ = receiver.receive(&sender.next(1, &plan(&of([(0, 0), (1, 0)]), 1)).expect("complete"));
    let mut update = sender.next(2, &plan(&of([(0, 1), (1, 1)]), 2)).expect("a difference");
    update.set.insert("allocation/shop.v1.web-1".to_owned(), json!({"goal": {"kind": "suspend"}}));
    update.set.insert("quota/shop".to_owned(), json!({"bytes": 7}));
    let other = update.set.get_mut("allocation/shop.v1.web-2").expect("the other");
    other["priority"] = json!(3);
    let Receipt::Applied(unread) = receiver.receive(&update) else { panic!("applied") };
    assert_eq!(unread.iter().map(|item| item.key.as_str()).collect::<Vec<_>>(), ["allocation/shop.v1.web-1"]);
    assert!(unread[0].reason.contains("\"suspend\""), "{}", unread[0].reason);
    assert_eq!(receiver.part(), Some(&plan(&of([(0, 0), (1, 1)]), 2)));
}

/// Even a complete part with an item that cannot be read must not end the workload behind the item.
#[test]
fn a_complete_part_keeps_items_of_an_unknown_format() {
    let mut receiver = UpdateReceiver::<MachinePlan>::new(Some((1, plan(&of([(0, 0), (1, 0)]), 1))));
    let mut complete = UpdateSender::new(None).next(2, &plan(&of([(0, 0)]), 2)).expect("complete");
    complete.set.insert("allocation/shop.v1.web-1".to_owned(), json!({"goal": {"kind": "suspend"}}));
    let Receipt::Applied(unread) = receiver.receive(&complete) else { panic!("applied") };
    assert_eq!(unread.len(), 1);
    assert_eq!(receiver.part(), Some(&plan(&of([(0, 0)]), 2)));
}

#[test]
fn an_older_router_keeps_a_route_that_it_cannot_read() {
    let mut receiver = UpdateReceiver::<RoutingTable>::new(Some((1, table(&of([(0, 0), (1, 1)]), 1))));
    let mut sender = UpdateSender::new(Some(1));
    assert_eq!(sender.next(1, &table(&of([(0, 0), (1, 1)]), 1)), None);
    let mut update = sender.next(2, &table(&of([(0, 2), (1, 2)]), 2)).expect("a difference");
    update.set.get_mut("route/a0.example").expect("a route")["endpoints"][0]["protocol"] = json!("http9");
    let Receipt::Applied(unread) = receiver.receive(&update) else { panic!("applied") };
    assert_eq!(unread.len(), 1);
    assert_eq!(receiver.part(), Some(&table(&of([(0, 0), (1, 2)]), 2)));
}

/// A newer agent: its report has a phase, a reason for an exit and a field that the server does not know.
#[test]
fn an_older_server_reads_the_known_part_of_a_newer_report() {
    let mut update = UpdateSender::new(None).next(1, &machine_report(&of([(0, 1), (1, 1)]), 1)).expect("complete");
    let first = update.set.get_mut("instance/shop.v1.web-1").expect("an instance");
    first["phase"] = json!("hibernating");
    first["temperature"] = json!(40);
    let second = update.set.get_mut("instance/shop.v1.web-2").expect("an instance");
    second["exit"] = json!({"how": "evaporated"});
    second["limit_hits"] = json!([{"limit": {"gpu": 1}}]);
    let mut receiver = UpdateReceiver::<MachineReport>::new(None);
    assert_eq!(receiver.receive(&update), Receipt::Applied(Vec::new()));
    let report = receiver.part().expect("a report");
    assert_eq!(report.instances[&id(0)].phase, InstancePhase::Starting);
    assert_eq!(report.instances[&id(1)], ObservedInstance { exit: None, ..status(1) });
}

/// An older agent lacks fields of today's report.
#[test]
fn a_newer_server_reads_an_older_report() {
    let set = Items::from([
        ("instance/shop.v1.web-1".to_owned(), json!({"phase": "ready", "since": 1})),
        ("plan".to_owned(), json!(3)),
    ]);
    let mut receiver = UpdateReceiver::<MachineReport>::new(None);
    let update = Update { base: None, revision: 1, set, removed: Vec::new() };
    assert_eq!(receiver.receive(&update), Receipt::Applied(Vec::new()));
    let report = receiver.part().expect("a report");
    assert_eq!((report.generation, report.instances[&id(0)].phase), (Generation(3), InstancePhase::Ready));
}

#[test]
fn an_older_server_leaves_out_an_unknown_kind_of_failure() {
    let mut update = UpdateSender::new(None).next(1, &router_report(&of([(0, 1)]), 1)).expect("complete");
    let runs = update.set.get_mut("failures/app-0").expect("failures").as_object_mut().expect("runs");
    runs.insert("haunted".to_owned(), json!({"ghosts": 2}));
    let mut receiver = UpdateReceiver::<RouterReport>::new(None);
    assert_eq!(receiver.receive(&update), Receipt::Applied(Vec::new()));
    assert_eq!(receiver.part(), Some(&router_report(&of([(0, 1)]), 1)));
}

/// A later placement of some slots.
fn moved(id: &AllocationId) -> AllocationId {
    id.slot.numbered(id.slot.index % 3 + 1)
}

/// The form of a part after its way through a program of version 1, and back.
fn through_version_one<T: Replicated>(part: &T) -> Update {
    let here = MachineName::parse("m").expect("a name");
    let mut update = UpdateSender::new(None).next(1, part).expect("complete");
    version_one::downgrade(&mut update, &here);
    let text = serde_json::to_string(&update).expect("written");
    assert!(!text.contains("web-1.2") && !text.contains("\"machine\""), "version 1 knows neither: {text}");
    version_one::upgrade(&mut update, &here);
    update
}

proptest! {
    #[test]
    fn version_one_loses_nothing_of_a_cluster_with_one_machine(kinds in proptest::collection::btree_map(0u32..6, 0u32..9, 0..6)) {
        let mut plan = plan(&kinds, 1);
        plan.instances = plan.instances.into_iter().map(|(id, assignment)| (moved(&id), assignment)).collect();
        let mut receiver = UpdateReceiver::new(None);
        prop_assert_eq!(receiver.receive(&through_version_one(&plan)), Receipt::Applied(Vec::new()));
        prop_assert_eq!(receiver.part(), Some(&plan));

        let mut table = table(&kinds, 1);
        let endpoints = table.routes.values_mut().flat_map(|route| &mut route.endpoints);
        endpoints.for_each(|endpoint| endpoint.allocation = moved(&endpoint.allocation));
        let mut receiver = UpdateReceiver::new(None);
        prop_assert_eq!(receiver.receive(&through_version_one(&table)), Receipt::Applied(Vec::new()));
        prop_assert_eq!(receiver.part(), Some(&table));

        let mut report = machine_report(&kinds, 1);
        report.instances = report.instances.into_iter().map(|(id, status)| (moved(&id), status)).collect();
        let mut receiver = UpdateReceiver::new(None);
        prop_assert_eq!(receiver.receive(&through_version_one(&report)), Receipt::Applied(Vec::new()));
        prop_assert_eq!(receiver.part(), Some(&report));
    }
}

/// Agents of version 1 need the field `once` and the values of the configuration in each spec.
#[test]
fn an_agent_of_version_one_gets_specs_that_it_reads() {
    let mut update = UpdateSender::new(None).next(1, &plan(&of([(0, 0), (1, 3)]), 1)).expect("complete");
    version_one::downgrade(&mut update, &MachineName::parse("m").expect("a name"));
    let specs: Vec<&serde_json::Value> =
        update.set.iter().filter(|(key, _)| key.starts_with("spec/")).map(|(_, spec)| spec).collect();
    assert_eq!(specs.len(), 2);
    for spec in specs {
        assert!(spec["config"]["KIND"].is_string() && spec["once"] == json!(false), "{spec}");
    }
    assert!(update.set.keys().all(|key| !key.starts_with("config/")));
}
