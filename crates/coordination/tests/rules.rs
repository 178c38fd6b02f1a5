//! Rules by example.

use gantry_coordination::{
    Command, Deletion, KeyRange, Keyspace, LeaseId, LoadedEntry, Operation, OperationReply, Put, Quota, Refusal, Reply,
    Transaction, prefix_end,
};
use gantry_model::Moment;

fn keyspace() -> Keyspace {
    Keyspace::load(Quota::default(), 0, Vec::new(), Vec::new(), Moment(0))
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(Put::new(key.into(), value.into()))
}

fn run(keyspace: &mut Keyspace, command: Command) -> Result<Reply, Refusal> {
    keyspace.execute(command, Moment(0)).map(|(reply, _)| reply)
}

#[test]
fn a_prefix_ends_before_the_next_one() {
    assert_eq!(prefix_end(b"a"), Some(b"b".to_vec()));
    assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
    assert_eq!(prefix_end(b"\xff\xff"), None);
    assert!(KeyRange::prefix(b"").contains(b"anything"));
    assert!(!KeyRange::prefix(b"a/").contains(b"a0"));
}

#[test]
fn refuses_a_transaction_that_writes_a_key_twice_and_changes_nothing() {
    let mut keyspace = keyspace();
    let twice = Transaction { success: vec![put("a", "1"), put("a", "2")], ..Transaction::default() };
    assert_eq!(run(&mut keyspace, Command::Transact(twice)), Err(Refusal::DuplicateKey));
    let all = Operation::Delete(Deletion { range: KeyRange::prefix(b""), previous: false });
    let removed = Transaction { success: vec![all, put("a", "1")], ..Transaction::default() };
    assert_eq!(run(&mut keyspace, Command::Transact(removed)), Err(Refusal::DuplicateKey));
    let leased = Operation::Put(Put { lease: Some(LeaseId(9)), ..Put::new(b"b".to_vec(), Vec::new()) });
    let half = Transaction { success: vec![put("a", "1"), leased], ..Transaction::default() };
    assert_eq!(run(&mut keyspace, Command::Transact(half)), Err(Refusal::LeaseNotFound));
    assert_eq!((keyspace.revision(), keyspace.entries().count()), (1, 0));
}

#[test]
fn removing_no_key_adds_no_revision() {
    let mut keyspace = keyspace();
    let none = Operation::Delete(Deletion { range: KeyRange::One(b"a".to_vec()), previous: false });
    let Ok(Reply::One(OperationReply::Delete { deleted: 0, .. })) = run(&mut keyspace, Command::One(none)) else {
        panic!("something was removed");
    };
    assert_eq!(keyspace.revision(), 1);
}

#[test]
fn an_ended_lease_takes_its_keys_with_it_as_one_revision() {
    let mut keyspace = keyspace();
    let Ok(Reply::Lease(lease)) = run(&mut keyspace, Command::Grant { id: LeaseId(7), ttl: -5 }) else { panic!() };
    assert_eq!(lease.granted, 2);
    for key in ["a", "b"] {
        let leased = Put { lease: Some(lease.id), ..Put::new(key.into(), b"x".to_vec()) };
        run(&mut keyspace, Command::One(Operation::Put(leased))).expect("written");
    }
    assert_eq!(keyspace.expire_one(Moment(1999)), None);
    let effects = keyspace.expire_one(Moment(2000)).expect("over");
    assert_eq!((effects.keys.len(), keyspace.revision(), keyspace.entries().count()), (2, 4, 0));
    assert!(effects.clearings[0].covers(b"a", 2, Some(LeaseId(7))));
    assert!(!effects.clearings[0].covers(b"a", 5, Some(LeaseId(7))), "a key that was written later");
}

#[test]
fn a_loaded_keyspace_goes_on_above_its_floor() {
    let entry = LoadedEntry {
        key: b"a".to_vec(),
        value: Vec::new(),
        created: 3,
        modified: 9,
        version: 2,
        lease: Some(LeaseId(1)),
    };
    let mut keyspace = Keyspace::load(Quota::default(), 1000, vec![entry], Vec::new(), Moment(5));
    assert_eq!(keyspace.revision(), 1000);
    assert!(keyspace.expire_one(Moment(5)).is_some(), "the lease has no record");
    run(&mut keyspace, Command::One(put("a", "1"))).expect("written");
    assert_eq!(keyspace.entry(b"a").map(|entry| entry.created), Some(1002));
    let gone = Command::Watch(KeyRange::prefix(b""), 10);
    assert_eq!(run(&mut keyspace, gone), Err(Refusal::Compacted { asked: 10, compacted: 1000 }));
}

#[test]
fn only_a_lease_of_the_lock_itself_ends_with_the_lock() {
    let mut keyspace = keyspace();
    run(&mut keyspace, Command::Grant { id: LeaseId(1), ttl: 5 }).expect("granted");
    let enter = |lease, ttl| Command::Enter { name: b"l".to_vec(), lease: LeaseId(lease), ttl, value: None };
    for (lease, ttl, left) in [(1, None, 1), (2, Some(5), 1)] {
        let Ok(Reply::Place(place)) = run(&mut keyspace, enter(lease, ttl)) else { panic!("not entered") };
        run(&mut keyspace, Command::Leave { name: b"l".to_vec(), token: place.created }).expect("left");
        assert_eq!(keyspace.lease_ids().count(), left);
        let again = Command::Leave { name: b"l".to_vec(), token: place.created };
        assert_eq!(run(&mut keyspace, again), Err(Refusal::LockLost));
    }
}
