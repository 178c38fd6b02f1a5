//! Properties of random commands on a small keyspace.

use std::collections::BTreeMap;

use gantry_coordination::lock::{Turn, place_key};
use gantry_coordination::{
    Command, Comparison, Condition, Deletion, KeyRange, KeyValue, Keyspace, LeaseId, Operation, OperationReply, Put,
    Quota, RangeQuery, Refusal, Reply, Subject, Transaction,
};
use gantry_model::Moment;
use proptest::collection::vec;
use proptest::prelude::*;

const QUOTA: Quota = Quota {
    keys: 6,
    key_bytes: 16,
    value_bytes: 8,
    total_bytes: 48,
    leases: 3,
    operations: 4,
    history_events: 12,
    history_bytes: 4096,
};

/// An action on the keyspace, or the passing of time.
#[derive(Debug, Clone)]
enum Action {
    Do(Command),
    Wait(u64),
    /// A new leader loads the records.
    Load,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(b"a".to_vec()), Just(b"b".to_vec()), Just(b"ba".to_vec()), Just(b"c".to_vec())]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..10)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (1..5i64).prop_map(LeaseId)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(KeyRange::One),
        key().prop_map(|key| KeyRange::prefix(&key)),
        key().prop_map(KeyRange::From)
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (key(), value(), proptest::option::of(lease()))
            .prop_map(|(key, value, lease)| Operation::Put(Put { lease, ..Put::new(key, value) })),
        (key(), 20..24i64, 1..6i64).prop_map(|(key, lease, ttl)| {
            Operation::Put(Put { ttl: Some((LeaseId(lease), ttl)), ..Put::new(key, b"x".to_vec()) })
        }),
        range().prop_map(|range| Operation::Delete(Deletion { range, previous: true })),
        range().prop_map(|range| Operation::Range(RangeQuery::of(range))),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let condition = (range(), 0..3i64).prop_map(|(range, version)| Condition {
        range,
        comparison: Comparison::Equal,
        subject: Subject::Version(version),
    });
    let transaction = (vec(condition, 0..2), vec(operation(), 0..3), vec(operation(), 0..3))
        .prop_map(|(conditions, success, failure)| Transaction { conditions, success, failure });
    let name = || prop_oneof![Just(b"l".to_vec()), Just(b"m".to_vec())];
    prop_oneof![
        4 => operation().prop_map(Command::One),
        2 => transaction.prop_map(Command::Transact),
        2 => (lease(), -1..6i64).prop_map(|(id, ttl)| Command::Grant { id, ttl }),
        1 => lease().prop_map(Command::Revoke),
        1 => lease().prop_map(Command::KeepAlive),
        3 => (name(), lease(), proptest::option::of(1..6i64)).prop_map(|(name, lease, ttl)| Command::Enter {
            name, lease, ttl, value: None
        }),
        2 => (name(), 1..40i64).prop_map(|(name, token)| Command::Leave { name, token }),
        1 => (name(), 1..40i64).prop_map(|(name, token)| Command::Renew { name, token, value: None }),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => command().prop_map(Action::Do),
        2 => (0..4000u64).prop_map(Action::Wait),
        1 => Just(Action::Load),
    ]
}

fn fresh() -> Keyspace {
    Keyspace::load(QUOTA, 0, Vec::new(), Vec::new(), Moment(0))
}

/// The records that a server would have on disk.
#[derive(Default)]
struct Records {
    revision: i64,
    entries: BTreeMap<Vec<u8>, KeyValue>,
    leases: BTreeMap<LeaseId, (i64, bool)>,
}

impl Records {
    /// Writes effects as the server does. A removal of several keys may be written as its description alone: the keys are
    /// then still there, and the next load leaves them out.
    fn write(&mut self, keyspace: &Keyspace, effects: &gantry_coordination::CommandEffects) {
        self.revision = keyspace.revision();
        self.entries.retain(|key, entry| {
            !effects.clearings.iter().any(|clearing| clearing.covers(key, entry.modified, entry.lease))
        });
        for key in &effects.keys {
            match keyspace.entry(key) {
                Some(entry) => drop(self.entries.insert(key.clone(), (**entry).clone())),
                // The description of the removal covers the key.
                None => assert!(!self.entries.contains_key(key) || effects.clearings.is_empty()),
            }
            if keyspace.entry(key).is_none() {
                self.entries.remove(key);
            }
        }
        for id in &effects.leases {
            match keyspace.lease(*id) {
                Some(lease) => drop(self.leases.insert(*id, (lease.ttl, lease.dedicated))),
                None => drop(self.leases.remove(id)),
            }
        }
    }

    fn load(&self, now: Moment) -> Keyspace {
        let leases = self.leases.iter();
        let leases = leases.map(|(id, (ttl, dedicated))| gantry_coordination::LoadedLease {
            id: *id,
            ttl: *ttl,
            dedicated: *dedicated,
        });
        Keyspace::load(QUOTA, self.revision, self.entries.values().cloned().collect(), leases.collect(), now)
    }
}

/// Entries and leases of a keyspace, without deadlines and history.
fn content(keyspace: &Keyspace) -> (i64, usize, Vec<KeyValue>, Vec<LeaseId>) {
    let entries = keyspace.entries().map(|entry| (**entry).clone()).collect();
    (keyspace.revision(), keyspace.bytes(), entries, keyspace.lease_ids().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_reverted_step_leaves_no_trace(actions in vec(command(), 1..40), last in command()) {
        let mut keyspace = fresh();
        for command in actions {
            let _ = keyspace.execute(command, Moment(0));
        }
        let before = content(&keyspace);
        if let Ok((_, effects)) = keyspace.execute(last, Moment(0)) {
            keyspace.revert(effects);
        }
        prop_assert_eq!(content(&keyspace), before);
        let everything = keyspace.events(&KeyRange::From(Vec::new()), keyspace.revision() + 1).expect("the future");
        prop_assert!(everything.events.is_empty());
    }

    #[test]
    fn records_bring_the_same_keyspace_back(actions in vec(action(), 1..60)) {
        let (mut keyspace, mut records, mut now) = (fresh(), Records::default(), Moment(0));
        for action in actions {
            match action {
                Action::Do(command) => {
                    if let Ok((_, effects)) = keyspace.execute(command, now) {
                        records.write(&keyspace, &effects);
                    }
                }
                Action::Wait(millis) => {
                    now = Moment(now.0 + millis);
                    while let Some(effects) = keyspace.expire_one(now) {
                        records.write(&keyspace, &effects);
                    }
                }
                Action::Load => keyspace = records.load(now),
            }
            let loaded = records.load(now);
            prop_assert_eq!(content(&loaded), content(&keyspace));
            let whole = loaded.lease_ids().all(|id| {
                let info = loaded.lease_info(id, now).expect("a lease");
                info.granted == info.remaining
            });
            prop_assert!(whole, "a new leader gives each lease its whole time");
        }
    }

    #[test]
    fn no_quota_is_exceeded_and_revisions_only_rise(actions in vec(action(), 1..80)) {
        let (mut keyspace, mut now, mut revision) = (fresh(), Moment(0), 0);
        for action in actions {
            match action {
                Action::Do(command) => {
                    if let Ok((_, effects)) = keyspace.execute(command, now) {
                        let written: Vec<_> = effects.keys.iter().filter_map(|key| keyspace.entry(key)).collect();
                        prop_assert!(written.iter().all(|entry| entry.modified > revision));
                        prop_assert_eq!(effects.advanced, !effects.keys.is_empty());
                    }
                }
                Action::Wait(millis) => {
                    now = Moment(now.0 + millis);
                    while keyspace.expire_one(now).is_some() {}
                    prop_assert!(keyspace.next_deadline().is_none_or(|next| next > now));
                }
                Action::Load => {}
            }
            prop_assert!(keyspace.revision() >= revision);
            revision = keyspace.revision();
            let entries: Vec<_> = keyspace.entries().collect();
            prop_assert!(entries.len() <= QUOTA.keys && keyspace.bytes() <= QUOTA.total_bytes);
            prop_assert!(keyspace.lease_ids().count() <= QUOTA.leases);
            let size: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
            prop_assert_eq!(size, keyspace.bytes());
            let of_leases: usize =
                keyspace.lease_ids().filter_map(|id| keyspace.lease_info(id, now)).map(|info| info.keys.len()).sum();
            prop_assert_eq!(of_leases, entries.iter().filter(|entry| entry.lease.is_some()).count());
        }
    }

    #[test]
    fn a_watch_leads_from_any_known_revision_to_the_present(actions in vec(command(), 1..60)) {
        let mut keyspace = fresh();
        let mut states = BTreeMap::from([(keyspace.revision(), content(&keyspace).2)]);
        for command in actions {
            let _ = keyspace.execute(command, Moment(0));
            states.insert(keyspace.revision(), content(&keyspace).2);
        }
        let all = KeyRange::From(Vec::new());
        for (revision, entries) in states {
            let read = Operation::Range(RangeQuery { revision: Some(revision), ..RangeQuery::of(KeyRange::From(vec![0])) });
            let past = keyspace.execute(Command::One(read), Moment(0));
            if revision < keyspace.compacted() {
                let refused = matches!(past, Err(Refusal::Compacted { .. }));
                prop_assert!(refused && keyspace.events(&all, revision + 1).is_err());
                continue;
            }
            let Ok((Reply::One(OperationReply::Range(past)), _)) = past else { panic!("no reply") };
            let past: Vec<KeyValue> = past.entries.iter().map(|entry| (**entry).clone()).collect();
            prop_assert_eq!(&past, &entries);
            let mut replayed: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            for event in keyspace.events(&all, revision + 1).expect("the history").events {
                match event.entry {
                    Some(entry) => drop(replayed.insert(event.key, (*entry).clone())),
                    None => drop(replayed.remove(&event.key)),
                }
            }
            prop_assert_eq!(replayed.into_values().collect::<Vec<_>>(), content(&keyspace).2);
        }
    }

    #[test]
    fn a_lock_has_one_holder_and_tokens_that_rise(actions in vec(action(), 1..80)) {
        let (mut keyspace, mut records, mut now) = (fresh(), Records::default(), Moment(0));
        let mut highest: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        for action in actions {
            match action {
                // An app that writes a lock's keys by itself breaks its own lock.
                Action::Do(command @ (Command::Enter { .. } | Command::Leave { .. } | Command::Renew { .. }
                    | Command::Grant { .. } | Command::Revoke(_) | Command::KeepAlive(_))) => {
                    if let Ok((_, effects)) = keyspace.execute(command, now) {
                        records.write(&keyspace, &effects);
                    }
                }
                Action::Do(_) => {}
                Action::Wait(millis) => {
                    now = Moment(now.0 + millis);
                    while let Some(effects) = keyspace.expire_one(now) {
                        records.write(&keyspace, &effects);
                    }
                }
                Action::Load => keyspace = records.load(now),
            }
            for name in [b"l".to_vec(), b"m".to_vec()] {
                let firsts = (1..5).filter(|id| {
                    let key = place_key(&name, LeaseId(*id));
                    let Some(token) = keyspace.entry(&key).map(|entry| entry.created) else { return false };
                    let turn = Command::Turn { key, token, name: name.clone() };
                    matches!(keyspace.execute(turn, now), Ok((Reply::Turn(Turn::First), _)))
                });
                prop_assert!(firsts.count() <= 1);
                if let Some(holder) = keyspace.lock_state(&name).holder {
                    let known = highest.entry(name).or_default();
                    prop_assert!(holder.created >= *known, "a later holder has a higher token");
                    *known = holder.created;
                }
            }
        }
    }
}
