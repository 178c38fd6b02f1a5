//! Tables of the events with their effects: what becomes dirty, who is woken, and what the audit trail says.
//!
//! Each row starts from a cluster in which `shop` deploys and has a retired instance, `blog` is at rest, and `wiki` waits
//! for room. The machines `m` and `n` report, and so does the router of `m`.

use gantry_model::clock::ClockJump;
use gantry_model::{
    ClusterPolicy, ExitStatus, JoinRole, MachineRefusal, MachineState, PlacementRefusal, Reason, RefusingMachines,
    RolePattern, Slot,
};
use gantry_planner::PlanReport;
use gantry_records::MemberRecord;

use super::*;
use crate::changed::ChangedParts;

/// An event with its effects.
type Row = (&'static str, CoreEvent, DirtySet, ChangedParts, &'static [&'static str]);

/// Changed parts without a reader to wake.
fn no_parts() -> ChangedParts {
    ChangedParts::default()
}

/// A set of apps and machines by their names.
fn dirty(apps: &str, machines: &str) -> DirtySet {
    let apps = apps.split_whitespace().map(app_name).collect();
    let machines = machines.split_whitespace().map(machine_name).collect();
    DirtySet { apps, machines, ..DirtySet::default() }
}

fn woken(machines: &str) -> ChangedParts {
    ChangedParts { machines: machines.split_whitespace().map(machine_name).collect(), ..no_parts() }
}

fn routes_woken() -> ChangedParts {
    ChangedParts { routes: true, ..no_parts() }
}

fn apps_woken(apps: &str) -> ChangedParts {
    ChangedParts { apps: apps.split_whitespace().map(app_name).collect(), ..no_parts() }
}

/// Routes or reasons of apps.
fn statuses_woken(apps: &str) -> ChangedParts {
    ChangedParts { statuses: apps.split_whitespace().map(app_name).collect(), ..no_parts() }
}

fn on_m() -> MachinePlan {
    let run = InstanceGoal::Run;
    part(&[("shop.v1.web-1", run), ("shop.v1.web-2", retire()), ("blog.v1.web-1", run)])
}

fn on_n() -> MachinePlan {
    part(&[("blog.v1.web-2", InstanceGoal::Run)])
}

fn deploy(app: &str) -> Deploy {
    Deploy::new(app_name(app), DeployNumber(1), cause(), "test".into(), false, Moment(START))
}

fn member(machine: &str) -> MemberRecord {
    MemberRecord {
        machine: machine_name(machine),
        id: MachineId::from_random(1),
        role: JoinRole::Agent,
        key: "key".into(),
        subnet: "10.64.0.0/20".parse().expect("a network"),
        advertise: None,
        server: None,
        labels: BTreeMap::new(),
        joined: Moment(0),
    }
}

fn report_of_m() -> MachineReport {
    report(&["shop.v1.web-1", "shop.v1.web-2", "blog.v1.web-1"])
}

/// A report of `m` in which one instance differs.
fn changed(id: &str, change: impl FnOnce(&mut ObservedInstance)) -> MachineReport {
    let mut report = report_of_m();
    change(report.instances.get_mut(&instance_id(id)).expect("there"));
    report
}

/// A wait for a machine, with the reason of one machine.
fn waits(slot: &str, why: MachineRefusal) -> PlanReport {
    let instance = Slot::parse(slot).expect("a slot");
    let refusal = PlacementRefusal(vec![RefusingMachines { why, machines: 2, short: 0 }]);
    PlanReport { waits: [(instance.app.clone(), vec![Reason::NoRoom { instance, refusal }])].into() }
}

fn cluster() -> CoreState {
    let mut records = RecordIndex::default();
    let apps = ["shop", "blog", "wiki"].map(|name| StoreRecord::App(App::new(app_name(name), Moment(0))));
    let machines = ["m", "n"].map(|name| StoreRecord::Registered(registered(name)));
    let parts =
        [("m", on_m()), ("n", on_n())].map(|(name, part)| StoreRecord::Machine(machine_name(name), part.into()));
    let head = RoutingHead { revision: Generation(2), ..RoutingHead::default() };
    let others = [StoreRecord::Deploy(deploy("shop")), StoreRecord::Routing(head)];
    apps.into_iter().chain(machines).chain(parts).chain(others).for_each(|record| records.apply(record.into()));
    let mut state = CoreState::new(records, ClockJumps::default(), Moment(START));
    state.machine(report_of_m(), START);
    state.apply(CoreEvent::Machine(machine_name("n"), report(&["blog.v1.web-2"])), Moment(START));
    state.router(router(2, &[]), START);
    let report = waits("wiki.v1.web-1", MachineRefusal::ShortOfMemory);
    state.apply(CoreEvent::Planned { apps: [app_name("wiki")].into(), report }, Moment(START));
    // The machines that began to take copies are looked at once.
    state.apply(CoreEvent::Tick, Moment(START));
    state
}

fn assert_effects<const N: usize>(rows: [Row; N]) {
    for (name, event, dirty, changed, trail) in rows {
        let mut state = cluster();
        let effects = state.apply(event, Moment(START + 1));
        assert_eq!(effects.dirty, dirty, "dirty after {name}");
        assert_eq!(effects.changed, changed, "woken after {name}");
        assert_eq!(texts(&effects.trail), trail, "trail of {name}");
        assert_eq!(state.view().now, Moment(START + 1), "the time of {name}");
    }
}

fn put(record: StoreRecord) -> CoreEvent {
    CoreEvent::Committed(vec![record.into()])
}

fn remove(key: &str) -> CoreEvent {
    CoreEvent::Committed(vec![RecordChange::Remove(key.to_owned())])
}

#[test]
fn general_events_affect_everything_or_what_waits_for_time() {
    let everything = DirtySet::everything;
    let records = Box::new((*cluster().view().records).clone());
    let all = ChangedParts { routes: true, all_apps: true, policy: true, members: true, ..woken("m n") };
    let jump = ClockJump { at: Moment(START + 1), by: 5_000, suspended: 0 };
    let planned = CoreEvent::Planned { apps: [app_name("wiki")].into(), report: PlanReport::default() };
    let same = waits("wiki.v1.web-1", MachineRefusal::ShortOfMemory);
    let same = CoreEvent::Planned { apps: [app_name("blog"), app_name("wiki")].into(), report: same };
    assert_effects([
        ("records that were read again", CoreEvent::Loaded(records), everything(), all, &[]),
        ("the begin of a term", CoreEvent::TermBegan, everything(), no_parts(), &[]),
        ("reasons", planned, DirtySet::default(), statuses_woken("wiki"), &[]),
        ("the same reasons", same, DirtySet::default(), no_parts(), &[]),
        ("a jump of the clock", CoreEvent::ClockJumped { jump, awake: 7 }, everything(), no_parts(), &[]),
        ("a tick", CoreEvent::Tick, dirty("shop", ""), no_parts(), &[]),
    ]);
}

#[test]
fn a_commit_of_an_app_s_records_affects_the_app() {
    assert_effects([
        (
            "an app",
            put(StoreRecord::App(App::new(app_name("blog"), Moment(1)))),
            dirty("blog", ""),
            apps_woken("blog"),
            &[],
        ),
        (
            "a new app",
            put(StoreRecord::App(App::new(app_name("new"), Moment(1)))),
            dirty("new", ""),
            apps_woken("new"),
            &[],
        ),
        (
            "a release",
            put(StoreRecord::Release(release_of("blog", 2, BTreeMap::new()))),
            dirty("blog", ""),
            apps_woken("blog"),
            &[],
        ),
        ("a deploy", put(StoreRecord::Deploy(deploy("blog"))), dirty("blog", ""), apps_woken("blog"), &[]),
        ("a removed app", remove("apps/blog"), dirty("blog", ""), apps_woken("blog"), &[]),
        ("a removed release", remove("releases/blog/00000001"), dirty("blog", ""), apps_woken("blog"), &[]),
        ("a removed deploy", remove("deploys/shop/00000001"), dirty("shop", ""), apps_woken("shop"), &[]),
        (
            "routes",
            put(StoreRecord::Routes(app_name("blog"), Arc::default())),
            dirty("blog", ""),
            ChangedParts { routes: true, ..statuses_woken("blog") },
            &[],
        ),
        (
            "the head of the routes",
            put(StoreRecord::Routing(RoutingHead::default())),
            dirty("shop", ""),
            routes_woken(),
            &[],
        ),
    ]);
}

#[test]
fn a_commit_of_a_part_affects_the_apps_of_its_differences_and_those_that_wait_for_room() {
    let run = InstanceGoal::Run;
    let on_n = |assigned: &[(&str, InstanceGoal)]| put(StoreRecord::Machine(machine_name("n"), part(assigned).into()));
    let same = || ("blog.v1.web-2", run);
    assert_effects([
        ("the same part", on_n(&[same()]), dirty("", "n"), woken("n"), &[]),
        ("a further copy", on_n(&[same(), ("shop.v1.web-3", run)]), dirty("shop", "n"), woken("n"), &[]),
        ("another goal", on_n(&[("blog.v1.web-2", InstanceGoal::Stop)]), dirty("blog", "n"), woken("n"), &[]),
        ("a copy that is gone", on_n(&[]), dirty("blog wiki", "n"), woken("n"), &[]),
        (
            "a copy in the place of another",
            on_n(&[("shop.v1.web-3", run)]),
            dirty("blog shop wiki", "n"),
            woken("n"),
            &[],
        ),
        ("a removed part", remove("plan/machines/n"), dirty("blog wiki", "n"), woken("n"), &[]),
    ]);
}

#[test]
fn a_commit_of_a_machine_affects_the_apps_there_and_those_that_wait_for_room() {
    let with_tunnel = |name| {
        let addresses = vec!["10.0.0.7:7001".parse().expect("an address")];
        put(StoreRecord::Registered(Machine { addresses, ..registered(name) }))
    };
    let cordoned = MachineAvailability::Cordoned { reason: None };
    let cordoned = put(StoreRecord::Registered(Machine { availability: cordoned, ..registered("m") }));
    assert_effects([
        ("the same machine", put(StoreRecord::Registered(registered("n"))), dirty("blog wiki", ""), no_parts(), &[]),
        ("a cordoned machine", cordoned, dirty("blog shop wiki", ""), no_parts(), &[]),
        ("a further machine", put(StoreRecord::Registered(registered("o"))), dirty("wiki", ""), no_parts(), &[]),
        ("a tunnel, which all routes share", with_tunnel("n"), dirty("blog wiki", "n"), no_parts(), &[]),
        ("a further machine with a tunnel", with_tunnel("o"), dirty("wiki", "o"), no_parts(), &[]),
    ]);
}

#[test]
fn a_commit_of_general_records_affects_everything_or_nothing() {
    let members = || ChangedParts { members: true, ..no_parts() };
    let policy = ChangedParts { policy: true, ..no_parts() };
    let token = TokenRecord { name: "x".into(), scope: Scope::Admin, created: Moment(0), expires: None, server: None };
    let revoked = AuditAction::TokenRevoked { token: "x".to_owned() };
    let event = EventRecord::new(1, Moment(0), "x", None, revoked);
    let tag = StoreRecord::Tag { repository: "blog".into(), tag: "v1".into(), digest: digest() };
    assert_effects([
        ("the policy", put(StoreRecord::Policy(ClusterPolicy::default())), DirtySet::everything(), policy, &[]),
        ("a member", put(StoreRecord::Member(member("n"))), dirty("", ""), members(), &[]),
        ("a removed member", remove("members/n"), dirty("", ""), members(), &[]),
        ("a token", put(StoreRecord::Token { hash: "x".into(), token }), dirty("", ""), no_parts(), &[]),
        ("a removed token", remove("tokens/x"), dirty("", ""), no_parts(), &[]),
        ("an event", put(StoreRecord::Event(event)), dirty("", ""), no_parts(), &[]),
        ("a tag", put(tag), dirty("", ""), no_parts(), &[]),
        ("a configuration", put(StoreRecord::Config(ReleaseConfig::default())), dirty("", ""), no_parts(), &[]),
        ("numbers", put(StoreRecord::Numbers(app_name("blog"), Arc::default())), dirty("", ""), no_parts(), &[]),
        ("no change", CoreEvent::Committed(Vec::new()), dirty("", ""), no_parts(), &[]),
    ]);
}

#[test]
fn a_commit_of_several_changes_has_the_effects_of_all() {
    let changes = vec![
        StoreRecord::App(App::new(app_name("blog"), Moment(1))).into(),
        StoreRecord::Machine(machine_name("m"), part(&[]).into()).into(),
        RecordChange::Remove("members/n".into()),
    ];
    let changed = ChangedParts { members: true, machines: woken("m").machines, ..apps_woken("blog") };
    assert_effects([("a step", CoreEvent::Committed(changes), dirty("blog shop wiki", "m"), changed, &[])]);
}

#[test]
fn a_report_of_a_machine_affects_the_apps_whose_instances_changed() {
    let m = |report| CoreEvent::Machine(machine_name("m"), report);
    let exit = ExitStatus { code: Some(1), at: Moment(START), ..ExitStatus::default() };
    let exited = changed("blog.v1.web-1", |instance| {
        (instance.phase, instance.exit) = (InstancePhase::Exited, Some(exit.clone()));
    });
    let retired = changed("shop.v1.web-2", |instance| instance.exit = Some(exit.clone()));
    let without = |ids: &[&str], generation| MachineReport { generation: Generation(generation), ..report(ids) };
    let unhealthy = changed("blog.v1.web-1", |instance| instance.phase = InstancePhase::Unhealthy);
    let accepted = MachineReport { generation: Generation(2), ..report_of_m() };
    let shorter = without(&["shop.v1.web-1", "shop.v1.web-2"], 1);
    // Both ids are in the part, and the report of a newer generation says that they are absent.
    let absent = without(&["shop.v1.web-1"], 2);
    let further = CoreEvent::Machine(machine_name("o"), report(&["blog.v1.web-3"]));
    assert_effects([
        ("the same report", m(report_of_m()), dirty("", ""), no_parts(), &[]),
        ("another phase", m(unhealthy), dirty("blog", ""), no_parts(), &[]),
        ("an exit", m(exited), dirty("blog", ""), no_parts(), &["blog.v1.web-1 exited with 1"]),
        ("an exit of a retired instance", m(retired), dirty("shop", ""), no_parts(), &[]),
        ("an instance that is gone", m(shorter), dirty("blog", ""), no_parts(), &[]),
        ("an accepted part", m(accepted), dirty("", "m"), no_parts(), &[]),
        ("an accepted part without instances", m(absent), dirty("blog shop", "m"), no_parts(), &[]),
        ("the first report of a machine", further, dirty("blog shop wiki", "o"), no_parts(), &[]),
    ]);
}

#[test]
fn a_report_of_a_router_affects_the_apps_that_wait_for_routers() {
    let m = |report| CoreEvent::Router(machine_name("m"), report);
    let unassigned = DirtySet { revisions: true, ..dirty("shop", "") };
    let gone = |report| RouterReport { gone: true, ..report };
    assert_effects([
        ("the same report", m(router(2, &[])), dirty("", ""), no_parts(), &[]),
        ("requests", m(router(2, &[("shop.v1.web-1", 3)])), dirty("", ""), no_parts(), &[]),
        ("requests of a retired instance", m(router(2, &[("shop.v1.web-2", 3)])), dirty("shop", ""), no_parts(), &[]),
        ("an older revision", m(router(1, &[])), dirty("shop", ""), no_parts(), &[]),
        ("a revision that was never assigned", m(router(3, &[])), unassigned, no_parts(), &[]),
        ("the end of a router", m(gone(router(2, &[]))), dirty("shop", ""), no_parts(), &[]),
        ("a further router", m(RouterReport { number: 2, ..router(2, &[]) }), dirty("shop", ""), no_parts(), &[]),
        (
            "the end of an unknown router",
            m(RouterReport { number: 2, ..gone(router(9, &[])) }),
            dirty("", ""),
            no_parts(),
            &[],
        ),
    ]);
}

#[test]
fn a_jump_of_the_clock_moves_the_stamps_of_reports() {
    for by in [3_600_000, -900_000] {
        let mut state = cluster();
        let at = Moment(START).moved(by);
        let jump = ClockJump { at, by, suspended: 0 };
        state.apply(CoreEvent::ClockJumped { jump, awake: 7 }, at);
        let view = state.view();
        assert_eq!((view.observed.began, view.jumps.last()), (at, Some(jump)));
        assert!(view.observed.machines.values().all(|report| report.seen == at));
        assert!(view.observed.routers.values().all(|router| router.seen == at));
        let ticked = state.apply(CoreEvent::Tick, at.moved(1_000));
        assert_eq!((ticked.dirty, texts(&ticked.trail)), (dirty("shop", ""), vec![]), "no machine was silent");
    }
}

#[test]
fn a_silent_machine_affects_its_apps_once_it_is_lost_and_when_it_returns() {
    let mut state = cluster();
    let mut seen = Vec::new();
    for millis in (500..=4_000).step_by(500) {
        state.machine(report_of_m(), START + millis);
        state.router(router(2, &[]), START + millis);
        let ticked = state.apply(CoreEvent::Tick, Moment(START + millis));
        let is_news = ticked.dirty != dirty("shop", "");
        seen.extend(is_news.then(|| (millis, ticked.dirty, texts(&ticked.trail))));
    }
    let lost = vec!["machine n is lost; its copies move".to_owned()];
    assert_eq!(seen, [(3_500, dirty("blog shop", ""), lost)]);
    assert_eq!(state.view().states[&machine_name("n")], MachineState::Lost);
    let back = CoreEvent::Machine(machine_name("n"), report(&["blog.v1.web-2"]));
    let back = state.apply(back, Moment(START + 4_100));
    assert_eq!(back.dirty, dirty("blog wiki", ""), "the app there, and the app that waits for room");
    assert_eq!(texts(&back.trail), ["machine n is back"]);
    assert_eq!(state.view().states[&machine_name("n")], MachineState::Ready);
}

#[test]
fn a_copy_affects_the_apps_that_wait_for_it_as_a_neighbour() {
    let run = InstanceGoal::Run;
    for (pattern, placed, expected) in [
        ("shop/web", "shop.v1.web-3", "shop wiki"),
        ("*/web", "shop.v1.web-3", "shop wiki"),
        ("shop/worker", "shop.v1.web-3", "shop"),
    ] {
        let mut state = cluster();
        let pattern = RolePattern::parse(pattern).expect("a pattern");
        let report = waits("wiki.v1.web-1", MachineRefusal::LacksNeighbour { pattern });
        state.apply(CoreEvent::Planned { apps: [app_name("wiki")].into(), report }, Moment(START));
        let next = part(&[("blog.v1.web-2", run), (placed, run)]);
        let effects = state.put(StoreRecord::Machine(machine_name("n"), next.into()));
        assert_eq!(effects.dirty, dirty(expected, "n"));
    }
}

#[test]
fn a_copy_that_comes_or_goes_affects_the_apps_with_a_global_role_that_the_copy_concerns() {
    let run = InstanceGoal::Run;
    for (with, apart_from, expected) in [("shop/web", "", true), ("", "shop/*", true), ("shop/worker", "*/db", false)] {
        let mut state = cluster();
        let pattern = |text: &str| RolePattern::parse(text).into_iter().collect();
        let mut role = web_role(1);
        role.placement.global = true;
        (role.placement.with, role.placement.apart_from) = (pattern(with), pattern(apart_from));
        state.put(StoreRecord::Release(release_of("guard", 1, [(role_name("watch"), role)].into())));
        let current = Some(ReleaseNumber(1));
        state.put(StoreRecord::App(App { current, ..App::new(app_name("guard"), Moment(0)) }));
        let with_copy = part(&[("blog.v1.web-2", run), ("shop.v1.web-3", run)]);
        let stopping = part(&[("blog.v1.web-2", run), ("shop.v1.web-3", InstanceGoal::Stop)]);
        for (name, next, is_related) in [
            ("a copy that comes", with_copy, true),
            ("a copy that is told to stop", stopping, false),
            ("a copy that goes", on_n(), true),
        ] {
            let effects = state.put(StoreRecord::Machine(machine_name("n"), next.into()));
            let is_dirty = effects.dirty.apps.contains(&app_name("guard"));
            assert_eq!(is_dirty, is_related && expected, "{name}, with {with:?}, apart from {apart_from:?}");
        }
    }
}

#[test]
fn reasons_replace_those_of_the_planned_apps_alone() {
    let mut state = cluster();
    let blog = waits("blog.v1.web-9", MachineRefusal::HasCopy);
    state.apply(CoreEvent::Planned { apps: [app_name("blog")].into(), report: blog }, Moment(START));
    let waiting = |state: &CoreState| state.view().report.waits.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(waiting(&state), ["blog", "wiki"]);
    let apps = [app_name("wiki"), app_name("shop")].into();
    state.apply(CoreEvent::Planned { apps, report: PlanReport::default() }, Moment(START));
    assert_eq!(waiting(&state), ["blog"]);
}

#[test]
fn merged_effects_contain_both() {
    let mut sum = dirty("blog", "m");
    sum.merge(dirty("blog shop", "n"));
    assert_eq!(sum, dirty("blog shop", "m n"));
    sum.merge(DirtySet::default());
    assert_eq!(sum, dirty("blog shop", "m n"));
    sum.merge(DirtySet { revisions: true, ..DirtySet::everything() });
    assert_eq!(sum, DirtySet { revisions: true, everything: true, ..dirty("blog shop", "m n") });
    for single in
        [dirty("blog", ""), dirty("", "m"), DirtySet::everything(), DirtySet { revisions: true, ..dirty("", "") }]
    {
        let mut sum = DirtySet::default();
        assert!(sum.is_empty() && !single.is_empty());
        sum.merge(single.clone());
        assert_eq!(sum, single);
    }
    let all = ChangedParts {
        machines: woken("m n").machines,
        routes: true,
        apps: apps_woken("blog shop").apps,
        all_apps: true,
        statuses: statuses_woken("wiki").statuses,
        policy: true,
        members: true,
    };
    let mut sum = ChangedParts::default();
    for single in [
        woken("m"),
        woken("m n"),
        routes_woken(),
        apps_woken("blog"),
        apps_woken("blog shop"),
        ChangedParts { all_apps: true, ..no_parts() },
        statuses_woken("wiki"),
        ChangedParts { policy: true, ..no_parts() },
        ChangedParts { members: true, ..no_parts() },
    ] {
        assert_ne!(sum, all);
        sum.merge(single);
    }
    assert_eq!(sum, all);
}
