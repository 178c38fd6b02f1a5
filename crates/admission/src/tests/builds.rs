use gantry_model::Reason;

use super::*;
use crate::{BuiltRelease, RequestedConfig, build_failed, release_built};

fn built() -> BuiltRelease {
    BuiltRelease {
        image: digest("cd"),
        commit: Some("c".repeat(40)),
        roles: BTreeMap::from([(role_name("web"), Role::new(RoleCommand::Shell("new".into())))]),
        config: None,
        defaults: RequestedConfig::default(),
        base: None,
        build: None,
    }
}

/// Returns records with a deploy that builds, and this deploy.
fn building() -> (RecordIndex, Deploy) {
    let mut records = released(&[push_of("a")]);
    edit_app(&mut records, |app| drop(app.config.insert("SIZE".to_owned(), "1".to_owned())));
    let number = run(&mut records, |actor| actor.start_deploy(&shop(), push_of("b"), false)).expect("a deploy");
    edit_deploy(&mut records, number, |deploy| deploy.state = DeployState::Building);
    let deploy = (*records.deploys[&shop()][&number]).clone();
    (records, deploy)
}

fn apply_all(records: &mut RecordIndex, changes: Vec<RecordChange>) {
    changes.into_iter().for_each(|change| records.apply(change));
}

#[test]
fn a_built_release_takes_the_next_number_and_the_app_s_configuration() {
    let (mut records, deploy) = building();
    let changes = release_built(&records, NOW, &deploy, built());
    apply_all(&mut records, changes);
    let release = &records.releases[&shop()][&ReleaseNumber(2)];
    assert_eq!((release.image.clone(), release.deploy, release.created), (digest("cd"), deploy.number, NOW));
    assert_eq!(*release.config, BTreeMap::from([("SIZE".to_owned(), "1".to_owned())]));
    assert_eq!((release.by.as_str(), &release.cause), ("alice", &deploy.cause));
    assert_eq!(records.apps[&shop()].last_release, 2);
    assert_eq!(records.tags["shop"][&"c".repeat(40)], digest("cd"), "the commit is a tag");
    let deploy = &records.deploys[&shop()][&deploy.number];
    assert_eq!((deploy.state, deploy.release, deploy.entered), (DeployState::Placing, Some(ReleaseNumber(2)), NOW));
}

#[test]
fn a_rollback_repeats_the_configuration_of_its_release() {
    let (mut records, deploy) = building();
    let config = BTreeMap::from([("OLD".to_owned(), "1".to_owned())]);
    let changes = release_built(&records, NOW, &deploy, BuiltRelease { config: Some(config.clone()), ..built() });
    apply_all(&mut records, changes);
    assert_eq!(records.releases[&shop()][&ReleaseNumber(2)].config, config.into());
    assert_eq!(records.apps[&shop()].config.keys().collect::<Vec<_>>(), ["SIZE"], "until the rollback is done");
}

#[test]
fn an_app_records_the_names_that_app_json_added_without_new_secrets() {
    let (mut records, deploy) = building();
    let pair = |key: &str| (key.to_owned(), "requested".to_owned());
    let defaults = RequestedConfig {
        values: BTreeMap::from([pair("COLOR"), pair("KEY"), pair("SIZE")]),
        brought: ["COLOR".to_owned(), "SIZE".to_owned()].into(),
    };
    let changes = release_built(&records, NOW, &deploy, BuiltRelease { defaults, ..built() });
    apply_all(&mut records, changes);
    let config = &records.apps[&shop()].config;
    assert_eq!(config.keys().collect::<Vec<_>>(), ["COLOR", "KEY", "SIZE"]);
    assert_eq!(config["SIZE"], "1", "a person set this one meanwhile");
    let brought = &records.deploys[&shop()][&deploy.number].brought;
    assert_eq!(brought.iter().collect::<Vec<_>>(), ["COLOR"]);
}

#[test]
fn an_app_stays_on_the_base_of_its_first_build() {
    let (records, deploy) = building();
    let base_after = |mut records: RecordIndex, base: &str| {
        let built = BuiltRelease { base: Some(base_name(base)), ..built() };
        let changes = release_built(&records, NOW, &deploy, built);
        apply_all(&mut records, changes);
        records.apps[&shop()].base.clone()
    };
    assert_eq!(base_after(records.clone(), "debian"), Some(base_name("debian")));
    assert_eq!(base_after(records.clone(), "removed"), None, "the base was removed meanwhile");
    let mut chosen = records.clone();
    put(&mut chosen, StoreRecord::Base(base_record("suse")));
    edit_app(&mut chosen, |app| app.base = Some(base_name("suse")));
    assert_eq!(base_after(chosen, "debian"), Some(base_name("suse")));
}

#[test]
fn a_failed_build_takes_its_deploy_back() {
    let (mut records, deploy) = building();
    let changes = build_failed(&records, NOW, &deploy, Reason::Aborted);
    apply_all(&mut records, changes);
    let deploy = &records.deploys[&shop()][&deploy.number];
    assert_eq!((deploy.state, deploy.reason.clone()), (DeployState::Reverting, Some(Reason::Aborted)));
}

#[test]
fn the_outcome_of_a_build_of_an_ended_deploy_changes_nothing() {
    let (records, deploy) = building();
    let outcomes = |records: &RecordIndex, deploy: &Deploy| {
        let failed = build_failed(records, NOW, deploy, Reason::Aborted).len();
        (release_built(records, NOW, deploy, built()).len(), failed)
    };
    assert_eq!(outcomes(&records, &deploy), (5, 1));
    // The app was destroyed and created again: a deploy of the same number is another one.
    let old = Deploy { created: Moment(0), ..deploy.clone() };
    assert_eq!(outcomes(&records, &old), (0, 0));
    let unknown = Deploy { number: DeployNumber(99), ..deploy.clone() };
    assert_eq!(outcomes(&records, &unknown), (0, 0));
    for state in [DeployState::Queued, DeployState::Placing, DeployState::Reverting, DeployState::Done] {
        let mut records = records.clone();
        edit_deploy(&mut records, deploy.number, |deploy| deploy.state = state);
        assert_eq!(outcomes(&records, &deploy), (0, 0), "{state}");
    }
    let mut destroyed = records.clone();
    edit_app(&mut destroyed, |app| app.destroying = true);
    assert_eq!(release_built(&destroyed, NOW, &deploy, built()).len(), 0);
}

#[test]
fn debug_leaves_out_configuration_values() {
    let config = BTreeMap::from([("PASSWORD".to_owned(), "release-secret".to_owned())]);
    let shown = format!("{:?}", BuiltRelease { config: Some(config), ..built() });
    assert!(shown.contains("PASSWORD") && !shown.contains("release-secret"), "{shown}");
}
