//! Tests of the commands, by tables and properties.

mod apps;
mod builds;
mod clock;
mod codes;
mod config;
mod deploys;
mod events;
mod identity;
mod images;
mod machines;
mod members;
mod policy;
mod properties;
mod push;
mod refusals;
mod rename;
mod scale;
mod tokens;
mod traffic;

use std::collections::BTreeMap;

use gantry_model::{
    App, AppName, AuditAction, BaseName, Deploy, DeployCause, DeployNumber, DeployState, Digest, HostName, Moment,
    Release, ReleaseConfig, ReleaseNumber, Role, RoleCommand, RoleName,
};
use gantry_records::{BaseRecord, RecordChange, RecordIndex, StoreRecord};

use crate::{Actor, Admitted, Refusal};

/// Time of every command of these tests.
pub(super) const NOW: Moment = Moment(1_000_000);

pub(super) fn app_name(text: &str) -> AppName {
    AppName::parse(text).expect("a name")
}

pub(super) fn shop() -> AppName {
    app_name("shop")
}

pub(super) fn role_name(text: &str) -> RoleName {
    RoleName::parse(text).expect("a name")
}

pub(super) fn base_name(text: &str) -> BaseName {
    BaseName::parse(text).expect("a name")
}

pub(super) fn host(text: &str) -> HostName {
    HostName::parse(text).expect("a host")
}

pub(super) fn hosts(texts: &[&str]) -> Vec<HostName> {
    texts.iter().map(|text| host(text)).collect()
}

pub(super) fn digest(byte: &str) -> Digest {
    Digest::from_hex(&byte.repeat(32)).expect("a digest")
}

pub(super) fn push_of(commit: &str) -> DeployCause {
    DeployCause::Push { commit: commit.to_owned(), source: digest("ab") }
}

pub(super) fn back_to(number: u64) -> DeployCause {
    DeployCause::Rollback { to: ReleaseNumber(number) }
}

/// Returns the records of an app named `shop` without a release, and of a base named `debian`.
pub(super) fn with_app() -> RecordIndex {
    let mut records = RecordIndex::default();
    put(&mut records, StoreRecord::App(App::new(shop(), Moment(0))));
    put(&mut records, StoreRecord::Base(base_record("debian")));
    records
}

pub(super) fn base_record(name: &str) -> BaseRecord {
    BaseRecord {
        name: base_name(name),
        image: digest("ba"),
        from: "a test".to_owned(),
        created: Moment(0),
        stack: false,
    }
}

pub(super) fn put(records: &mut RecordIndex, record: StoreRecord) {
    records.apply(record.into());
}

/// Changes the app `shop`.
pub(super) fn edit_app(records: &mut RecordIndex, edit: impl FnOnce(&mut App)) {
    let mut app = (*records.apps[&shop()]).clone();
    edit(&mut app);
    put(records, StoreRecord::App(app));
}

/// Changes a deploy of the app `shop`.
pub(super) fn edit_deploy(records: &mut RecordIndex, number: DeployNumber, edit: impl FnOnce(&mut Deploy)) {
    let mut deploy = (*records.deploys[&shop()][&number]).clone();
    edit(&mut deploy);
    put(records, StoreRecord::Deploy(deploy));
}

/// Changes the first release of the app `shop`.
pub(super) fn edit_release(records: &mut RecordIndex, edit: impl FnOnce(&mut Release)) {
    let mut release = (*records.releases[&shop()][&ReleaseNumber(1)]).clone();
    edit(&mut release);
    put(records, StoreRecord::Release(release));
}

/// Returns an app with one release per cause. All releases have served, and the last one serves now.
pub(super) fn released(causes: &[DeployCause]) -> RecordIndex {
    let mut records = with_app();
    for (number, cause) in (1..).zip(causes) {
        let release = Release {
            app: shop(),
            number: ReleaseNumber(number),
            image: digest("ab"),
            commit: None,
            config: ReleaseConfig::default(),
            roles: BTreeMap::from([(role_name("web"), Role::new(RoleCommand::Shell("serve".into())))]),
            deploy: DeployNumber(number),
            created: Moment(0),
            by: "test".into(),
            cause: cause.clone(),
        };
        let mut deploy = Deploy::new(shop(), release.deploy, cause.clone(), "test".into(), false, Moment(0));
        (deploy.release, deploy.state) = (Some(release.number), DeployState::Done);
        put(&mut records, StoreRecord::Deploy(deploy));
        put(&mut records, StoreRecord::Release(release));
        edit_app(&mut records, |app| {
            (app.current, app.last_release, app.last_deploy) = (Some(ReleaseNumber(number)), number, number);
        });
    }
    records
}

/// Returns the actor named `alice`.
pub(super) fn alice(records: &RecordIndex) -> Actor<'_> {
    Actor::new(records, NOW, "alice")
}

/// Applies an admitted command, and returns its value.
pub(super) fn apply<T>(records: &mut RecordIndex, admitted: Admitted<T>) -> T {
    let (changes, value) = admitted.unwrap_or_else(|refusal| panic!("{refusal}"));
    changes.into_iter().for_each(|change| records.apply(change));
    value
}

/// Applies a command of `alice`, and returns its value or the refusal. A refused command changes nothing.
pub(super) fn run<T>(records: &mut RecordIndex, command: impl FnOnce(Actor<'_>) -> Admitted<T>) -> Result<T, Refusal> {
    let admitted = command(alice(records));
    let (changes, value) = admitted?;
    check_event(&changes);
    changes.into_iter().for_each(|change| records.apply(change));
    Ok(value)
}

/// A change comes with exactly one event of the actor, at the command's time.
fn check_event(changes: &[RecordChange]) {
    let events: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            RecordChange::Put(record) => Some(&**record),
            RecordChange::Remove(_) => None,
        })
        .filter_map(|record| match record {
            StoreRecord::Event(event) => Some(event),
            _ => None,
        })
        .collect();
    assert_eq!(events.len(), usize::from(!changes.is_empty()), "{changes:?}");
    for event in events {
        assert_eq!((event.by.as_str(), event.at), ("alice", NOW));
        assert_eq!(event.action.as_ref().map(ToString::to_string).as_deref(), Some(event.what.as_str()));
    }
}

/// Returns the newest action of the audit trail.
pub(super) fn newest_action(records: &RecordIndex) -> AuditAction {
    let event = records.events.values().next_back().expect("an event");
    event.action.clone().expect("an action")
}
