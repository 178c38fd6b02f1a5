use std::collections::BTreeMap;

use gantry_api::types::{ChangeHosts, CreateApp};
use gantry_model::deploy::DeployOrder;
use gantry_model::{
    App, AppName, Deploy, DeployCause, DeployNumber, DeployState, Digest, HostName, Moment, Reason, Release,
    ReleaseNumber,
};

use super::*;

fn shop() -> AppName {
    AppName::parse("shop").expect("a name")
}

fn digest() -> Digest {
    Digest::from_hex(&"ab".repeat(32)).expect("a digest")
}

/// Returns an app with one release per cause. All releases have served, and the last one serves now.
fn released(causes: &[DeployCause]) -> RecordIndex {
    let mut records = RecordIndex::default();
    let mut app = App::new(shop(), Moment(0));
    for (number, cause) in (1..).zip(causes) {
        let release = Release {
            app: shop(),
            number: ReleaseNumber(number),
            image: digest(),
            commit: None,
            config: BTreeMap::new(),
            roles: BTreeMap::new(),
            deploy: DeployNumber(number),
            created: Moment(0),
            by: "test".into(),
            cause: cause.clone(),
        };
        let mut deploy = Deploy::new(shop(), release.deploy, cause.clone(), "test".into(), false, Moment(0));
        (deploy.release, deploy.state) = (Some(release.number), DeployState::Done);
        records.apply(StoreRecord::Deploy(deploy).into());
        records.apply(StoreRecord::Release(release).into());
        (app.current, app.last_release, app.last_deploy) = (Some(ReleaseNumber(number)), number, number);
    }
    records.apply(StoreRecord::App(app).into());
    records
}

fn push(commit: &str) -> DeployCause {
    DeployCause::Push { commit: commit.to_owned(), source: digest() }
}

fn apply<T>(records: &mut RecordIndex, changes: Changes<T>) -> T {
    let (changes, answer) = changes.unwrap_or_else(|problem| panic!("{}", problem.message));
    changes.into_iter().for_each(|change| records.apply(change));
    answer
}

#[test]
fn going_back_again_goes_further_back() {
    let back = |to| DeployCause::Rollback { to: ReleaseNumber(to) };
    let pushes = [push("a"), push("b"), push("c")];
    let target = |more: &[DeployCause]| {
        let records = released(&[&pushes[..], more].concat());
        rollback_target(&records, &shop(), None).map(|number| number.0).map_err(|problem| problem.message)
    };
    assert_eq!(target(&[]), Ok(2));
    assert_eq!(target(&[back(2)]), Ok(1));
    assert_eq!(target(&[back(2), back(1)]), Err("shop has no good release before v5".to_owned()));
    // A push after the rollbacks starts a new chain.
    assert_eq!(target(&[back(1), push("d")]), Ok(4));
}

#[test]
fn configuration_that_failed_is_deployed_when_it_is_set_again() {
    let mut records = released(&[push("a")]);
    let set = |records: &mut RecordIndex| {
        let wanted = BTreeMap::from([("COLOR".to_owned(), Some("blue".to_owned()))]);
        let changes = change_config(records, Moment(1), "test", &shop(), wanted, &[]);
        apply(records, changes)
    };
    let first = set(&mut records).expect("a deploy");
    assert_eq!(set(&mut records), None, "the deploy under way has it");
    let mut deploy = (*records.deploys[&shop()][&first]).clone();
    deploy.state = DeployState::Reverted;
    records.apply(StoreRecord::Deploy(deploy).into());
    assert!(set(&mut records).is_some(), "nothing that serves has it");
}

#[test]
fn values_that_no_process_could_be_given_are_refused_by_name() {
    let mut records = released(&[push("a")]);
    let set = |records: &RecordIndex, values: &[(&str, usize)], image: &[String]| {
        let wanted = values.iter().map(|(name, length)| ((*name).to_owned(), Some("a".repeat(*length)))).collect();
        change_config(records, Moment(1), "test", &shop(), wanted, image).map(drop).map_err(|problem| problem.message)
    };
    assert_eq!(set(&records, &[("CA", 131_060)], &[]), Ok(()));
    assert_eq!(set(&records, &[("CA", 131_068)], &[]), Ok(()));
    for length in [131_069, 140_000] {
        let refused = set(&records, &[("OK", 1), ("CA", length)], &[]).expect_err("too long");
        assert!(refused.starts_with(&format!("CA is too long: {} bytes", length + 3)), "{refused}");
    }
    // With the environment of the serving release's image.
    let mut release = (*records.releases[&shop()][&ReleaseNumber(1)]).clone();
    let role = gantry_model::Role::new(gantry_model::RoleCommand::Shell("x".into()));
    release.roles.insert(gantry_model::RoleName::parse("web").expect("a name"), role);
    records.apply(StoreRecord::Release(release).into());
    let image: Vec<String> = (0..15).map(|number| format!("I{number}={}", "a".repeat(130_000))).collect();
    assert_eq!(set(&records, &[("CA", 100_000)], &image), Ok(()));
    let refused = set(&records, &[("CA", 130_000), ("CB", 120_000)], &image).expect_err("too long");
    assert!(refused.starts_with("the environment and command of web are too long"), "{refused}");
}

#[test]
fn what_app_json_brings_is_known_and_a_new_secret_is_not_part_of_it() {
    let mut records = released(&[push("a")]);
    let requests = BTreeMap::from([
        ("COLOR".to_owned(), gantry_build::EnvRequest::Default("blue".into())),
        ("KEY".to_owned(), gantry_build::EnvRequest::Secret),
    ]);
    let app = records.apps[&shop()].clone();
    let defaults = requested_config(&app, &requests, || "secret".to_owned()).expect("asked for");
    let long = BTreeMap::from([("LONG".to_owned(), gantry_build::EnvRequest::Default("a".repeat(140_000)))]);
    let refused = requested_config(&app, &long, String::new).expect_err("too long");
    assert!(refused.starts_with("in app.json, LONG is too long: 140005 bytes"), "{refused}");
    let asked = start_deploy(&records, Moment(1), "test", &shop(), push("b"), false);
    let number = apply(&mut records, asked);
    let mut deploy = (*records.deploys[&shop()][&number]).clone();
    deploy.state = DeployState::Building;
    records.apply(StoreRecord::Deploy(deploy.clone()).into());
    let made =
        Made { image: digest(), commit: None, roles: BTreeMap::new(), config: None, defaults, base: None, build: None };
    let changes = release_made(&records, Moment(2), &deploy, made);
    apply(&mut records, changes);
    let app = &records.apps[&shop()];
    assert_eq!(app.config.keys().collect::<Vec<_>>(), ["COLOR", "KEY"]);
    let brought = &records.deploys[&shop()][&number].brought;
    assert_eq!(brought.iter().collect::<Vec<_>>(), ["COLOR"]);
}

#[test]
fn a_push_that_would_take_another_one_off_the_branch_is_refused() {
    let mut records = released(&[push("a")]);
    let asked = start_deploy(&records, Moment(1), "alice", &shop(), push("b"), false);
    let number = apply(&mut records, asked);
    let judged_from = |records: &RecordIndex, asked: &[(&str, bool)], old: &str| {
        let asked = asked.iter().map(|(commit, contained)| ((*commit).to_owned(), *contained)).collect();
        let base = PushBase { new: "c".to_owned(), old: old.to_owned(), asked };
        check_history(records, &shop(), &base).map_err(|problem| problem.message)
    };
    let judged = |records: &RecordIndex, asked: &[(&str, bool)]| judged_from(records, asked, "a");
    let question = |accepted| Ok(vec![AncestorQuestion { commit: "b".to_owned(), accepted }]);
    assert_eq!(judged(&records, &[]), question(false));
    assert_eq!(judged(&records, &[("b", true)]), Ok(vec![]));
    let refused = judged(&records, &[("b", false)]).expect_err("b is lost");
    assert_eq!(refused, "deploy #2 of alice is under way with b, which this is not built on");
    let ended = |state, order| {
        let mut deploy = (*records.deploys[&shop()][&number]).clone();
        (deploy.state, deploy.order) = (state, order);
        let mut records = records.clone();
        records.apply(StoreRecord::Deploy(deploy).into());
        records
    };
    // The commit of this deploy does not reach the branch.
    for (state, order) in [(DeployState::Reverting, None), (DeployState::Verifying, Some(DeployOrder::Abort))] {
        assert_eq!(judged(&ended(state, order), &[]), Ok(vec![]), "{state}");
    }
    // The deploy serves, and its push has a verdict or waits for one. Only a client that knows the commit may remove
    // that commit.
    let draining = ended(DeployState::Draining, None);
    assert_eq!(judged(&draining, &[]), question(false));
    assert!(judged(&draining, &[("b", false)]).is_err());
    assert_eq!(judged_from(&draining, &[], "b"), Ok(vec![]));
    // The push was accepted: the hook compares the branch once more, when the branch has moved.
    for state in [DeployState::Held, DeployState::Done] {
        let accepted = ended(state, None);
        assert_eq!(judged(&accepted, &[]), question(true));
        assert_eq!(judged(&accepted, &[("b", true)]), Ok(vec![]));
        assert_eq!(judged(&accepted, &[("b", false)]), Ok(vec![]), "the branch never moved to b");
        assert_eq!(judged_from(&accepted, &[], "b"), Ok(vec![]), "a client that knows the commit may remove it");
    }
    // A second push of the same commit needs no answer.
    let asked = start_deploy(&records, Moment(2), "alice", &shop(), push("c"), false);
    apply(&mut records, asked);
    assert_eq!(judged(&records, &[("b", true)]), Ok(vec![]));
}

#[test]
fn a_clock_that_jumps_takes_the_stamps_with_it() {
    let mut records = released(&[push("a")]);
    let asked = start_deploy(&records, Moment(10_000_000), "alice", &shop(), push("b"), false);
    let open = apply(&mut records, asked);
    let done = *records.deploys[&shop()].keys().next().expect("the first");
    for by in [-3_600_000i64, 3_600_000] {
        let now = Moment(10_005_000).moved(by);
        let jump = gantry_model::clock::ClockJump { at: now, by, suspended: 0 };
        let mut jumped = records.clone();
        clock_jumped(&records, jump, now).into_iter().for_each(|change| jumped.apply(change));
        let stamps = |records: &RecordIndex, number| {
            let deploy = &records.deploys[&shop()][&number];
            (deploy.entered, deploy.progressed, deploy.created)
        };
        let moved = Moment(10_000_000).moved(by);
        assert_eq!(stamps(&jumped, open), (moved, moved, Moment(10_000_000)), "{by}");
        assert_eq!(stamps(&jumped, done), stamps(&records, done), "history stays");
        let told = jumped.events.values().next_back().expect("an event");
        assert!(told.at == now && told.what.starts_with("the clock of the machine went "), "{told:?}");
        let numbers: Vec<u64> = jumped.events.keys().copied().collect();
        assert!(numbers.is_sorted(), "the trail keeps its order");
    }
    // The clock went back while no server ran: the newest event lies in the future.
    let mut trail = records.clone();
    trail.apply(event(&records, Moment(10_000_000), "test", None, "x".into()));
    assert_eq!(clock_went_back(&trail, Moment(10_000_000)), None);
    let jump = clock_went_back(&trail, Moment(9_990_000)).expect("10 s");
    assert_eq!((jump.by, jump.at), (-10_000, Moment(9_990_000)));
}

#[test]
fn a_build_of_an_app_that_was_destroyed_is_not_the_new_one_s() {
    let mut records = released(&[]);
    let asked = start_deploy(&records, Moment(1), "test", &shop(), push("a"), false);
    let number = apply(&mut records, asked);
    let mut deploy = (*records.deploys[&shop()][&number]).clone();
    deploy.state = DeployState::Building;
    records.apply(StoreRecord::Deploy(deploy.clone()).into());
    let old = Deploy { created: Moment(0), ..deploy.clone() };
    let failed =
        |begun: &Deploy| build_failed(&records, Moment(2), begun, Reason::Aborted).map(|(changes, ())| changes);
    assert_eq!(failed(&old).map(|changes| changes.len()).ok(), Some(0));
    assert_eq!(failed(&deploy).map(|changes| changes.len()).ok(), Some(1));
}

#[test]
fn hosts_and_branch_of_an_app_change_and_no_host_is_taken_twice() {
    let mut records = released(&[push("a")]);
    records.apply(StoreRecord::App(App::new(AppName::parse("other").expect("a name"), Moment(0))).into());
    let host = |text: &str| HostName::parse(text).expect("a host");
    let hosts = |texts: &[&str]| texts.iter().map(|text| host(text)).collect::<Vec<_>>();
    let change = |records: &mut RecordIndex, app: &str, add: &[&str], remove: &[&str]| {
        let app = AppName::parse(app).expect("a name");
        let change = ChangeHosts { add: hosts(add), remove: hosts(remove) };
        let (changes, ()) = change_hosts(records, Moment(1), "test", &app, change, &host("localhost"))?;
        changes.into_iter().for_each(|change| records.apply(change));
        Ok::<_, Problem>(records.apps[&app].hosts.clone())
    };
    assert_eq!(change(&mut records, "shop", &["a.test", "b.test", "a.test"], &[]), Ok(hosts(&["a.test", "b.test"])));
    assert_eq!(change(&mut records, "shop", &["a.test"], &["b.test"]), Ok(hosts(&["a.test"])));
    for (app, add, remove, wanted) in [
        ("other", &["a.test"][..], &[][..], "belongs to app shop"),
        ("shop", &[], &["b.test"], "has no host b.test"),
        ("shop", &["x.localhost"], &[], "cannot be taken"),
        ("ghost", &["c.test"], &[], "no app ghost"),
    ] {
        let why = change(&mut records, app, add, remove).expect_err(wanted).message;
        assert!(why.contains(wanted), "{why}");
    }
    assert_eq!(change(&mut records, "shop", &[], &["a.test"]), Ok(Vec::new()));
    assert_eq!(change(&mut records, "other", &["a.test"], &[]), Ok(hosts(&["a.test"])));
    let branch =
        |records: &RecordIndex, text: &str| change_branch(records, Moment(1), "test", &shop(), text.to_owned());
    let changes = branch(&records, "live");
    apply(&mut records, changes);
    assert_eq!(records.apps[&shop()].branch, "live");
    assert!(branch(&records, "--upload-pack=x").is_err());
}

fn store() -> AppName {
    AppName::parse("store").expect("a name")
}

fn domain() -> HostName {
    HostName::parse("localhost").expect("a name")
}

/// An app with two releases, whose rename has begun, and the rename's deploy in this state.
fn renamed(state: DeployState) -> RecordIndex {
    let mut records = released(&[push("a"), push("b")]);
    let mut app = (*records.apps[&shop()]).clone();
    app.hosts = vec![HostName::parse("www.example.com").expect("a name")];
    records.apply(StoreRecord::App(app).into());
    let changes = begin_rename(&records, Moment(1), "test", &shop(), &store(), &domain());
    let number = apply(&mut records, changes).expect("a deploy");
    let mut deploy = (*records.deploys[&store()][&number]).clone();
    (deploy.state, deploy.release) = (state, Some(ReleaseNumber(3)));
    records.apply(StoreRecord::Deploy(deploy).into());
    records
}

#[test]
fn a_rename_moves_every_record_and_repeats_an_interrupted_move() {
    let mut records = renamed(DeployState::Done);
    let refused = start_deploy(&records, Moment(2), "test", &shop(), push("c"), false).expect_err("refused");
    assert!(refused.message.contains("shop is being renamed to store"), "{}", refused.message);
    let [rename] = <[_; 1]>::try_from(decided_renames(&records)).expect("one rename");
    assert!(rename.good);
    // A server that is killed has written only the first part of the move.
    let (changes, ()) = finish_rename(&records, Moment(3), &rename, &domain()).expect("changes");
    changes.iter().take(2).for_each(|change| records.apply(change.clone()));
    assert_eq!(decided_renames(&records), std::slice::from_ref(&rename));
    let changes = finish_rename(&records, Moment(4), &rename, &domain());
    apply(&mut records, changes);
    let app = &records.apps[&store()];
    let hosts: Vec<&str> = app.hosts.iter().map(HostName::as_str).collect();
    assert_eq!(hosts, ["www.example.com", "shop.localhost"]);
    assert_eq!((app.rename.as_ref(), app.volume_folder().as_str()), (None, "shop"));
    assert_eq!(records.releases[&store()].keys().map(|number| number.0).collect::<Vec<_>>(), [1, 2]);
    assert!(records.releases[&store()].values().all(|release| release.app == store()));
    assert_eq!(records.deploys[&store()].len(), 3);
    assert!(records.apps[&shop()].destroying && records.apps[&shop()].hosts.is_empty());
    assert_eq!(decided_renames(&records), []);
}

#[test]
fn a_former_name_is_free_once_its_address_and_its_volumes_are_another_s_no_more() {
    let mut records = renamed(DeployState::Done);
    let rename = decided_renames(&records).remove(0);
    let changes = finish_rename(&records, Moment(3), &rename, &domain());
    apply(&mut records, changes);
    records.apply(RecordChange::Remove("apps/shop".to_owned()));
    let create = |records: &RecordIndex| {
        let request = CreateApp { name: shop(), base: None, branch: None, hosts: Vec::new() };
        create_app(records, Moment(4), "test", request, &domain())
    };
    let refused = create(&records).expect_err("refused");
    assert!(refused.hint.is_some_and(|hint| hint.contains("gantry app host store --rm shop.localhost")));
    let change = ChangeHosts { add: Vec::new(), remove: vec![HostName::parse("shop.localhost").expect("a name")] };
    let changes = change_hosts(&records, Moment(5), "test", &store(), change, &domain());
    apply(&mut records, changes);
    let changes = create(&records);
    apply(&mut records, changes);
    assert_eq!(records.apps[&shop()].volume_folder().as_str(), "shop-2");
}

#[test]
fn a_rename_whose_deploy_failed_is_undone_and_one_beside_a_deploy_is_refused() {
    assert_eq!(decided_renames(&renamed(DeployState::Verifying)), []);
    let mut records = renamed(DeployState::Reverted);
    let rename = decided_renames(&records).remove(0);
    assert!(!rename.good);
    let changes = undo_rename(&records, Moment(3), &rename);
    apply(&mut records, changes);
    let old = &records.apps[&shop()];
    assert!(old.rename.is_none() && !old.destroying && records.apps[&store()].destroying);
    let mut records = released(&[push("a")]);
    let changes = start_deploy(&records, Moment(1), "test", &shop(), push("b"), false);
    apply(&mut records, changes);
    let refused = begin_rename(&records, Moment(1), "test", &shop(), &store(), &domain()).expect_err("refused");
    assert!(refused.message.contains("deploy #2 of shop is under way"), "{}", refused.message);
}
