use gantry_model::app::Rename;
use gantry_records::DestroyedApp;

use super::*;
use crate::{HostChange, NewApp, decided_renames, finish_rename, undo_rename};

fn store() -> AppName {
    app_name("store")
}

fn begin(records: &mut RecordIndex) -> Result<Option<DeployNumber>, Refusal> {
    run(records, |actor| actor.begin_rename(&shop(), &store(), None))
}

fn apply_all(records: &mut RecordIndex, changes: Vec<RecordChange>) {
    changes.into_iter().for_each(|change| records.apply(change));
}

/// Returns an app with two releases, whose rename has begun, and the rename's deploy in this state.
fn renamed(state: DeployState) -> RecordIndex {
    let mut records = released(&[push_of("a"), push_of("b")]);
    edit_app(&mut records, |app| app.hosts = hosts(&["www.example.com"]));
    let number = begin(&mut records).expect("begun").expect("a deploy");
    let mut deploy = (*records.deploys[&store()][&number]).clone();
    (deploy.state, deploy.release) = (state, Some(ReleaseNumber(3)));
    put(&mut records, StoreRecord::Deploy(deploy));
    records
}

#[test]
fn a_rename_moves_every_record_and_repeats_an_interrupted_move() {
    let mut records = renamed(DeployState::Done);
    let refused = alice(&records).start_deploy(&shop(), push_of("c"), false).map(drop);
    assert_eq!(refused, Err(Refusal::RenameInProgress { from: shop(), to: store() }));
    let [rename] = <[_; 1]>::try_from(decided_renames(&records)).expect("one rename");
    assert!(rename.good);
    // A server that is killed has written only the first part of the move.
    let changes = finish_rename(&records, NOW, &rename);
    changes.iter().take(2).for_each(|change| records.apply(change.clone()));
    assert_eq!(decided_renames(&records), std::slice::from_ref(&rename));
    let changes = finish_rename(&records, NOW, &rename);
    apply_all(&mut records, changes);
    let app = &records.apps[&store()];
    assert_eq!(app.hosts, hosts(&["www.example.com", "shop.localhost"]));
    assert_eq!((app.rename.as_ref(), app.volume_folder()), (None, &shop()));
    assert_eq!(records.releases[&store()].keys().map(|number| number.0).collect::<Vec<_>>(), [1, 2]);
    assert!(records.releases[&store()].values().all(|release| release.app == store()));
    assert_eq!(records.deploys[&store()].len(), 3);
    assert!(records.apps[&shop()].destroying && records.apps[&shop()].hosts.is_empty());
    assert_eq!(newest_action(&records), AuditAction::Renamed { from: shop(), to: store() });
    assert_eq!(decided_renames(&records), []);
    assert_eq!(finish_rename(&records, NOW, &rename).len(), 0, "once is enough");
}

#[test]
fn a_former_name_is_free_without_its_address_and_volumes() {
    let mut records = renamed(DeployState::Done);
    let rename = decided_renames(&records).remove(0);
    let changes = finish_rename(&records, NOW, &rename);
    apply_all(&mut records, changes);
    records.apply(RecordChange::Remove("apps/shop".to_owned()));
    let create = |records: &mut RecordIndex| {
        let new = NewApp { name: shop(), base: None, branch: None, hosts: Vec::new(), newest_job: None };
        run(records, |actor| actor.create_app(new))
    };
    let in_use = Refusal::FormerNameInUse { address: "shop.localhost".to_owned(), app: store(), name: shop() };
    assert_eq!(create(&mut records), Err(in_use.clone()));
    assert_eq!(in_use.hint().as_deref(), Some("`gantry app host store --rm shop.localhost` frees the address"));
    let change = HostChange { add: Vec::new(), remove: hosts(&["shop.localhost"]) };
    run(&mut records, |actor| actor.change_hosts(&store(), &change)).expect("changed");
    assert_eq!(create(&mut records), Ok(()));
    assert_eq!(records.apps[&shop()].volume_folder(), &app_name("shop-2"));
}

#[test]
fn a_rename_to_the_name_of_a_destroyed_app_uses_higher_release_numbers() {
    for (destroyed, last_release) in [(1, 2), (9, 9)] {
        let mut records = released(&[push_of("a"), push_of("b")]);
        edit_app(&mut records, |app| app.earlier_releases = 1);
        let record = DestroyedApp { app: store(), at: Moment(0), last_release: destroyed };
        put(&mut records, StoreRecord::Destroyed(record));
        begin(&mut records).expect("begun");
        let app = &records.apps[&store()];
        assert_eq!((app.last_release, app.earlier_releases), (last_release, destroyed));
        assert!(records.destroyed.is_empty());
    }
    let mut records = released(&[push_of("a")]);
    edit_app(&mut records, |app| app.earlier_releases = 1);
    begin(&mut records).expect("begun");
    assert_eq!(records.apps[&store()].earlier_releases, 0, "no app had the new name");
}

#[test]
fn a_renamed_app_has_no_job_of_an_earlier_app_of_its_new_name() {
    for newest_job in [None, Some(41)] {
        let mut records = released(&[push_of("a")]);
        edit_app(&mut records, |app| app.earlier_jobs = Some(7));
        run(&mut records, |actor| actor.begin_rename(&shop(), &store(), newest_job)).expect("begun");
        assert_eq!(records.apps[&store()].earlier_jobs, newest_job);
        assert_eq!(records.apps[&shop()].earlier_jobs, Some(7), "the former name has its own jobs");
    }
}

#[test]
fn a_rename_whose_deploy_failed_is_undone() {
    assert_eq!(decided_renames(&renamed(DeployState::Verifying)), []);
    let mut records = renamed(DeployState::Reverted);
    let rename = decided_renames(&records).remove(0);
    assert!(!rename.good);
    let changes = undo_rename(&records, NOW, &rename);
    apply_all(&mut records, changes);
    let old = &records.apps[&shop()];
    assert!(old.rename.is_none() && !old.destroying && records.apps[&store()].destroying);
    assert_eq!(undo_rename(&records, NOW, &rename).len(), 0, "once is enough");
}

#[test]
fn an_app_that_is_busy_or_a_name_that_is_taken_is_refused() {
    let begin = |edit: fn(&mut App)| {
        let mut records = released(&[push_of("a")]);
        edit_app(&mut records, edit);
        begin(&mut records)
    };
    let paused = Err(Refusal::RenameWhilePaused { app: shop() });
    assert_eq!(begin(|app| app.traffic.paused = true), paused);
    assert_eq!(begin(|app| app.traffic.maintenance = Some("noon".to_owned())), paused);
    assert_eq!(begin(|app| app.destroying = true), Err(Refusal::AppBeingDestroyed { app: shop() }));
    let full = |app: &mut App| app.hosts = (0..100).map(|number| host(&format!("h{number}.test"))).collect();
    assert_eq!(begin(full), Err(Refusal::TooManyHosts { most: 100 }));
    assert_eq!(begin(|_| {}), Ok(Some(DeployNumber(2))));
    assert_eq!(begin(|app| app.current = None), Ok(None), "an app without a release needs no deploy");
    let mut records = released(&[push_of("a")]);
    put(&mut records, StoreRecord::App(App::new(store(), Moment(0))));
    let rename = |records: &RecordIndex| alice(records).begin_rename(&shop(), &store(), None).map(drop);
    assert_eq!(rename(&records), Err(Refusal::AppExists { app: store() }));
    let mut records = released(&[push_of("a")]);
    let deploy = run(&mut records, |actor| actor.start_deploy(&shop(), push_of("b"), false)).expect("a deploy");
    assert_eq!(rename(&records), Err(Refusal::RenameDuringDeploy { app: shop(), deploy }));
}

#[test]
fn both_apps_refuse_changes_meanwhile() {
    let records = renamed(DeployState::Verifying);
    assert_eq!(records.apps[&shop()].rename, Some(Rename::To { name: store() }));
    let renaming = Err(Refusal::RenameInProgress { from: shop(), to: store() });
    for app in [shop(), store()] {
        assert_eq!(alice(&records).change_branch(&app, "live".to_owned()).map(drop), renaming);
        assert_eq!(alice(&records).destroy_app(&app).map(drop), renaming);
    }
}
