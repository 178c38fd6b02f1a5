use gantry_records::DestroyedApp;

use super::*;
use crate::{HostChange, NewApp, find_app};

fn new_app(name: &str) -> NewApp {
    NewApp { name: app_name(name), base: None, branch: None, hosts: Vec::new(), newest_job: None }
}

fn create(records: &mut RecordIndex, new: NewApp) -> Result<(), Refusal> {
    run(records, |actor| actor.create_app(new))
}

#[test]
fn an_app_is_created_with_its_settings() {
    let mut records = with_app();
    let new = NewApp {
        base: Some(base_name("debian")),
        branch: Some("release/2.x".to_owned()),
        hosts: hosts(&["blog.test"]),
        ..new_app("blog")
    };
    assert_eq!(create(&mut records, new), Ok(()));
    let app = &records.apps[&app_name("blog")];
    assert_eq!(app.base, Some(base_name("debian")));
    assert_eq!((app.branch.as_str(), &app.hosts, app.created), ("release/2.x", &hosts(&["blog.test"]), NOW));
    assert_eq!(newest_action(&records), AuditAction::AppCreated { app: app_name("blog") });
    assert_eq!(create(&mut records, new_app("plain")), Ok(()));
    assert_eq!(records.apps[&app_name("plain")].branch, "main");
}

#[test]
fn refuses_invalid_apps() {
    let mut records = with_app();
    edit_app(&mut records, |app| app.hosts = hosts(&["shop.test"]));
    let (blog, domain) = (|| new_app("blog"), host("localhost"));
    let host_taken = Refusal::HostTaken { host: host("shop.test"), app: shop() };
    for (new, expected) in [
        (new_app("shop"), Refusal::AppExists { app: shop() }),
        (NewApp { hosts: hosts(&["a.test", "shop.test"]), ..blog() }, host_taken),
        (
            NewApp { hosts: hosts(&["x.localhost"]), ..blog() },
            Refusal::HostReserved { host: host("x.localhost"), domain },
        ),
        (NewApp { base: Some(base_name("suse")), ..blog() }, Refusal::BaseNotFound { base: base_name("suse") }),
        (NewApp { branch: Some("a..b".to_owned()), ..blog() }, Refusal::InvalidBranch { branch: "a..b".to_owned() }),
    ] {
        let before = records.clone();
        assert_eq!(create(&mut records, new), Err(expected));
        assert_eq!(records, before, "a refused command changes nothing");
    }
}

#[test]
fn the_release_numbers_of_a_destroyed_app_are_not_used_again() {
    let mut records = with_app();
    let destroyed = DestroyedApp { app: app_name("blog"), at: Moment(0), last_release: 7 };
    put(&mut records, StoreRecord::Destroyed(destroyed));
    let numbers = |records: &RecordIndex, name: &str| {
        let app = &records.apps[&app_name(name)];
        (app.last_release, app.earlier_releases)
    };
    assert_eq!(create(&mut records, new_app("plain")), Ok(()));
    assert_eq!(numbers(&records, "plain"), (0, 0));
    assert!(records.destroyed.contains_key(&app_name("blog")), "another name");
    assert_eq!(create(&mut records, new_app("blog")), Ok(()));
    assert_eq!(numbers(&records, "blog"), (7, 7));
    assert!(records.destroyed.is_empty(), "the app has the number");
}

#[test]
fn an_app_knows_the_newest_job_of_its_creation() {
    for newest_job in [None, Some(0), Some(41)] {
        let mut records = with_app();
        assert_eq!(create(&mut records, NewApp { newest_job, ..new_app("blog") }), Ok(()));
        assert_eq!(records.apps[&app_name("blog")].earlier_jobs, newest_job);
    }
}

#[test]
fn a_branch_is_a_name_that_git_allows() {
    let mut records = with_app();
    for good in ["main", "a", "release/2.x", "a-b_c", &"x".repeat(100)] {
        assert_eq!(run(&mut records, |actor| actor.change_branch(&shop(), good.to_owned())), Ok(()), "{good}");
        assert_eq!(records.apps[&shop()].branch, good);
        let action = AuditAction::AppBranchChanged { app: shop(), branch: good.to_owned() };
        assert_eq!(newest_action(&records), action);
    }
    for bad in
        ["", "--upload-pack=x", "-a", ".a", "/a", "a/", "a.", "a..b", "a//b", "a b", "ä", "a\nb", &"x".repeat(101)]
    {
        let refused = run(&mut records, |actor| actor.change_branch(&shop(), bad.to_owned()));
        assert_eq!(refused, Err(Refusal::InvalidBranch { branch: bad.to_owned() }));
    }
    assert_eq!(records.apps[&shop()].branch, "x".repeat(100), "a refused branch changes nothing");
}

fn change_hosts(records: &mut RecordIndex, app: &str, add: &[&str], remove: &[&str]) -> Result<Vec<HostName>, Refusal> {
    let (app, change) = (app_name(app), HostChange { add: hosts(add), remove: hosts(remove) });
    run(records, |actor| actor.change_hosts(&app, &change))?;
    Ok(records.apps[&app].hosts.clone())
}

#[test]
fn hosts_are_added_and_removed() {
    let mut records = with_app();
    put(&mut records, StoreRecord::App(App::new(app_name("other"), Moment(0))));
    let mut change = |app: &str, add: &[&str], remove: &[&str]| change_hosts(&mut records, app, add, remove);
    assert_eq!(change("shop", &["a.test", "b.test", "a.test"], &[]), Ok(hosts(&["a.test", "b.test"])));
    assert_eq!(change("shop", &["a.test"], &["b.test"]), Ok(hosts(&["a.test"])));
    assert_eq!(change("shop", &["a.test"], &["a.test"]), Ok(hosts(&["a.test"])), "removed, then added");
    assert_eq!(change("shop", &[], &["a.test"]), Ok(Vec::new()));
    assert_eq!(change("other", &["a.test"], &[]), Ok(hosts(&["a.test"])), "a removed host is free again");
}

#[test]
fn hosts_that_cannot_be_changed_are_refused() {
    let mut records = with_app();
    put(&mut records, StoreRecord::App(App::new(app_name("other"), Moment(0))));
    edit_app(&mut records, |app| app.hosts = hosts(&["a.test"]));
    let reserved = Refusal::HostReserved { host: host("x.localhost"), domain: host("localhost") };
    let unknown = Refusal::HostNotFound { app: shop(), host: host("b.test") };
    let taken = Refusal::HostTaken { host: host("a.test"), app: shop() };
    for (app, add, remove, expected) in [
        ("other", &["a.test"][..], &[][..], taken),
        ("shop", &[], &["a.test", "b.test"], unknown),
        ("shop", &["x.localhost"], &[], reserved),
        ("shop", &[], &[], Refusal::NoHostChange),
        ("ghost", &["c.test"], &[], Refusal::AppNotFound { app: app_name("ghost") }),
    ] {
        let before = records.clone();
        assert_eq!(change_hosts(&mut records, app, add, remove), Err(expected));
        assert_eq!(records, before);
    }
}

#[test]
fn the_number_of_hosts_is_limited() {
    let mut records = with_app();
    let many: Vec<String> = (0..101).map(|number| format!("h{number}.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let new = NewApp { hosts: hosts(&many), ..new_app("blog") };
    assert_eq!(create(&mut records, new), Err(Refusal::TooManyHosts { most: 100 }));
    let new = NewApp { hosts: hosts(&["blog.test", "blog.test"]), ..new_app("blog") };
    assert_eq!(create(&mut records, new), Ok(()));
    assert_eq!(records.apps[&app_name("blog")].hosts, hosts(&["blog.test"]), "each host once");
    assert_eq!(change_hosts(&mut records, "shop", &many, &[]), Err(Refusal::TooManyHosts { most: 100 }));
    assert_eq!(change_hosts(&mut records, "shop", &many[..100], &[]).map(|hosts| hosts.len()), Ok(100));
    assert_eq!(change_hosts(&mut records, "shop", &["last.test"], &[]), Err(Refusal::TooManyHosts { most: 100 }));
    assert_eq!(change_hosts(&mut records, "shop", &["last.test"], &many[..1]).map(|hosts| hosts.len()), Ok(100));
}

#[test]
fn a_destroyed_app_takes_no_more_commands() {
    let mut records = released(&[push_of("a"), push_of("b")]);
    assert_eq!(run(&mut records, |actor| actor.destroy_app(&shop())), Ok(()));
    assert!(records.apps[&shop()].destroying);
    assert_eq!(newest_action(&records), AuditAction::AppDestroyed { app: shop() });
    let gone = || Refusal::AppBeingDestroyed { app: shop() };
    let refused = [
        find_app(&records, &shop()).map(drop),
        alice(&records).destroy_app(&shop()).map(drop),
        alice(&records).change_base(&shop(), base_name("debian")).map(drop),
        alice(&records).change_branch(&shop(), "main".to_owned()).map(drop),
        alice(&records).change_hosts(&shop(), &HostChange::default()).map(drop),
        alice(&records).change_config(&shop(), BTreeMap::new(), &[]).map(drop),
        alice(&records).change_scale(&shop(), BTreeMap::new()).map(drop),
        alice(&records).change_traffic(&shop(), crate::TrafficChange::Pause).map(drop),
        alice(&records).start_deploy(&shop(), push_of("c"), false).map(drop),
        alice(&records).order(&shop(), gantry_model::deploy::DeployOrder::Abort).map(drop),
        crate::rollback_target(&records, &shop(), None).map(drop),
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        assert_eq!(refused, Err(gone()), "{at}");
    }
    assert_eq!(create(&mut records, new_app("shop")), Err(gone()), "its records are there");
}

#[test]
fn a_base_in_use_is_not_removed() {
    let mut records = with_app();
    let debian = base_name("debian");
    let remove = |records: &mut RecordIndex, base: &str| run(records, |actor| actor.remove_base(&base_name(base)));
    assert_eq!(remove(&mut records, "suse"), Err(Refusal::BaseNotFound { base: base_name("suse") }));
    assert_eq!(
        run(&mut records, |actor| actor.change_base(&shop(), base_name("suse"))),
        Err(Refusal::BaseNotFound { base: base_name("suse") })
    );
    assert_eq!(run(&mut records, |actor| actor.change_base(&shop(), debian.clone())), Ok(()));
    assert_eq!(records.apps[&shop()].base, Some(debian.clone()));
    let in_use = Refusal::BaseInUse { base: debian.clone(), apps: vec![shop()] };
    assert_eq!(remove(&mut records, "debian"), Err(in_use.clone()));
    assert_eq!(in_use.hint().as_deref(), Some("`gantry app base shop OTHER` puts the app on another base"));
    // An app that goes uses no base any more.
    edit_app(&mut records, |app| app.destroying = true);
    assert_eq!(remove(&mut records, "debian"), Ok(()));
    assert!(records.bases.is_empty());
    assert_eq!(newest_action(&records), AuditAction::BaseRemoved { base: debian });
}

#[test]
fn a_base_that_a_build_may_use_is_not_removed() {
    let mut records = released(&[push_of("a")]);
    let number = run(&mut records, |actor| actor.start_deploy(&shop(), push_of("b"), false)).expect("a deploy");
    let remove = |records: &RecordIndex| alice(records).remove_base(&base_name("debian")).map(drop);
    for (state, expected) in [
        (DeployState::Queued, Ok(())),
        (DeployState::Building, Err(Refusal::BuildInProgress { app: shop() })),
        (DeployState::Placing, Ok(())),
        (DeployState::Done, Ok(())),
    ] {
        edit_deploy(&mut records, number, |deploy| deploy.state = state);
        assert_eq!(remove(&records), expected, "{state}");
    }
}

#[test]
fn a_stored_base_replaces_the_one_of_its_name() {
    use gantry_model::BaseSource;
    let mut records = with_app();
    let source = BaseSource::Registry { reference: "registry.example/debian:12".to_owned() };
    let stored = run(&mut records, |actor| {
        actor.store_base(base_name("debian"), digest("cd"), "registry.example/debian:12".to_owned(), source)
    });
    let stored = stored.expect("stored");
    assert_eq!((stored.image.clone(), stored.created), (digest("cd"), NOW));
    assert_eq!(records.bases[&base_name("debian")], stored);
    assert_eq!(newest_action(&records).to_string(), "imported base debian from registry.example/debian:12");
}
