//! Properties of all commands: a sequence of random commands keeps the records consistent.

use gantry_model::Scope;
use gantry_model::deploy::DeployOrder;
use proptest::prelude::*;

use super::*;
use crate::{HostChange, NewApp, NewManifest, NewToken, TrafficChange};

/// A random command. Names come from small sets, so that commands meet.
#[derive(Debug, Clone)]
enum Step {
    CreateApp(u8, Vec<u8>),
    DestroyApp(u8),
    Hosts(u8, Vec<u8>, Vec<u8>),
    Branch(u8, String),
    Config(u8, Vec<(u8, Option<String>)>),
    Scale(u8, u8, u32),
    Traffic(u8, u32),
    Deploy(u8, bool),
    Order(u8, bool),
    Token(u8, Option<u64>),
    Revoke(u8),
    Push(u8, u8, Vec<u8>),
    RemoveImage(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let few = || 0..4u8;
    prop_oneof![
        (few(), prop::collection::vec(few(), 0..3)).prop_map(|(app, hosts)| Step::CreateApp(app, hosts)),
        few().prop_map(Step::DestroyApp),
        (few(), prop::collection::vec(few(), 0..3), prop::collection::vec(few(), 0..3))
            .prop_map(|(app, add, remove)| Step::Hosts(app, add, remove)),
        (few(), "[a-z./-]{0,6}").prop_map(|(app, branch)| Step::Branch(app, branch)),
        (few(), prop::collection::vec((few(), prop::option::of("[a-z\0]{0,3}")), 0..4))
            .prop_map(|(app, values)| Step::Config(app, values)),
        (few(), few(), 0..1500u32).prop_map(|(app, role, count)| Step::Scale(app, role, count)),
        (few(), 0..3u32).prop_map(|(app, rate)| Step::Traffic(app, rate)),
        (few(), any::<bool>()).prop_map(|(app, hold)| Step::Deploy(app, hold)),
        (few(), any::<bool>()).prop_map(|(app, promote)| Step::Order(app, promote)),
        (few(), prop::option::of(0..3u64)).prop_map(|(token, lifetime)| Step::Token(token, lifetime)),
        few().prop_map(Step::Revoke),
        (few(), few(), prop::collection::vec(few(), 0..3)).prop_map(|(app, image, tags)| Step::Push(app, image, tags)),
        (few(), few()).prop_map(|(app, tag)| Step::RemoveImage(app, tag)),
    ]
}

fn named(number: u8) -> AppName {
    app_name(&format!("app-{number}"))
}

fn host_names(numbers: &[u8]) -> Vec<HostName> {
    numbers.iter().map(|number| host(&format!("h{number}.test"))).collect()
}

/// Decides a step, and returns its changes.
fn decide(actor: Actor<'_>, step: Step) -> Result<Vec<RecordChange>, Refusal> {
    fn changes<T>(admitted: Admitted<T>) -> Result<Vec<RecordChange>, Refusal> {
        admitted.map(|(changes, _)| changes)
    }
    match step {
        Step::CreateApp(app, hosts) => {
            let new =
                NewApp { name: named(app), base: None, branch: None, hosts: host_names(&hosts), newest_job: None };
            changes(actor.create_app(new))
        }
        Step::DestroyApp(app) => changes(actor.destroy_app(&named(app))),
        Step::Hosts(app, add, remove) => {
            let change = HostChange { add: host_names(&add), remove: host_names(&remove) };
            changes(actor.change_hosts(&named(app), &change))
        }
        Step::Branch(app, branch) => changes(actor.change_branch(&named(app), branch)),
        Step::Config(app, values) => {
            let config_changes = values.into_iter().map(|(key, value)| (format!("K{key}"), value)).collect();
            changes(actor.change_config(&named(app), config_changes, &[]))
        }
        Step::Scale(app, role, count) => {
            changes(actor.change_scale(&named(app), [(role_name(&format!("r{role}")), count)].into()))
        }
        Step::Traffic(app, rate) => {
            changes(actor.change_traffic(&named(app), TrafficChange::Limit { rate: Some(rate), concurrent: None }))
        }
        Step::Deploy(app, hold) => changes(actor.start_deploy(&named(app), push_of("a"), hold)),
        Step::Order(app, promote) => {
            changes(actor.order(&named(app), if promote { DeployOrder::Promote } else { DeployOrder::Abort }))
        }
        Step::Token(token, lifetime) => {
            let hash = format!("hash {token}");
            changes(actor.create_token(NewToken { name: format!("t{token}"), scope: Scope::Read, lifetime, hash }))
        }
        Step::Revoke(token) => changes(actor.revoke_token(&format!("t{token}"))),
        Step::Push(app, image, tags) => {
            let tags = tags.into_iter().map(|tag| format!("t{tag}")).collect();
            let (repository, digest) = (named(app).to_string(), digest(&format!("0{image}")));
            changes(actor.push_manifest(NewManifest { repository, digest, subject: None, tags }))
        }
        Step::RemoveImage(app, tag) => changes(actor.remove_image(named(app).as_str(), &format!("t{tag}"))),
    }
}

/// Checks what holds after any sequence of commands.
fn check(records: &RecordIndex) {
    let mut hosts = Vec::new();
    for app in records.apps.values() {
        hosts.extend(app.hosts.iter());
        assert!(!app.branch.is_empty() && !app.branch.starts_with('-'), "{}", app.branch);
        assert!(app.config.values().all(|value| !value.contains('\0')));
        assert!(app.scale.values().all(|count| *count <= 1000));
        assert_ne!(app.traffic.rate, Some(0));
        let numbers = records.deploys.get(&app.name).into_iter().flat_map(|deploys| deploys.keys());
        assert!(numbers.copied().all(|number| number.0 <= app.last_deploy));
    }
    let all = hosts.len();
    hosts.sort();
    hosts.dedup();
    assert_eq!(hosts.len(), all, "a host leads to one app");
    let mut names: Vec<&str> = records.tokens.values().map(|token| token.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), records.tokens.len(), "names of tokens are unique");
    for (repository, tags) in &records.tags {
        for digest in tags.values() {
            assert!(records.has_image(repository, digest), "a tag names an image of its repository");
        }
    }
    let numbers: Vec<u64> = records.events.keys().copied().collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "events are numbered without gaps");
}

/// Returns the keys that changes write or remove.
fn keys(changes: &[RecordChange]) -> Vec<String> {
    changes.iter().map(|change| change.entry().expect("an entry").0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_keeps_the_records_consistent(steps in prop::collection::vec(step(), 0..60)) {
        let mut records = RecordIndex::default();
        for step in steps {
            let first = decide(alice(&records), step.clone());
            let again = decide(alice(&records), step.clone());
            prop_assert_eq!(first.is_ok(), again.is_ok(), "the same question has the same answer");
            let Ok(changes) = first else { continue };
            let keys = keys(&changes);
            let mut unique = keys.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), keys.len(), "a transaction writes a key once: {:?}", step);
            changes.into_iter().for_each(|change| records.apply(change));
            check(&records);
        }
    }

    #[test]
    fn records_read_from_the_store_are_those_that_were_applied(steps in prop::collection::vec(step(), 0..30)) {
        let (mut records, mut store) = (RecordIndex::default(), BTreeMap::new());
        for step in steps {
            let Ok(changes) = decide(alice(&records), step) else { continue };
            for change in changes {
                match change.entry().expect("an entry") {
                    (key, Some(value)) => drop(store.insert(key, value)),
                    (key, None) => drop(store.remove(&key)),
                }
                records.apply(change);
            }
        }
        let entries = store.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        let mut read = RecordIndex::load(entries).expect("records");
        // An index that saw a removal may keep an empty list.
        let without_empty = |records: &mut RecordIndex| {
            records.tags.retain(|_, tags| !tags.is_empty());
            records.manifests.retain(|_, manifests| !manifests.is_empty());
        };
        without_empty(&mut records);
        without_empty(&mut read);
        prop_assert_eq!(read, records);
    }
}
