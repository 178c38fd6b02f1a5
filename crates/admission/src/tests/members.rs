use gantry_model::{JoinRole, MachineId, MachineName, MachineSubnet};
use gantry_records::{AuthorityRecord, JoinTokenRecord, MemberRecord};

use super::*;
use crate::{Founding, JoinRequest};

const HOUR: u64 = 3_600_000;

fn machine(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

fn founding(key: &str) -> Founding {
    let member = MemberRecord {
        machine: machine("m1"),
        id: MachineId::from_random(1),
        role: JoinRole::Server,
        key: "key 1".to_owned(),
        subnet: "10.83.0.0/16".parse().expect("a network"),
        advertise: Some("m1".to_owned()),
        server: Some("m1:7000".to_owned()),
        labels: BTreeMap::new(),
        joined: Moment(0),
    };
    let token = JoinTokenRecord { role: JoinRole::Agent, created: NOW, expires: Moment(NOW.0 + HOUR), used: None };
    let authority = AuthorityRecord { certificate: "certificate".to_owned(), key: key.to_owned() };
    Founding { authority, member, tokens: vec![("first".to_owned(), token)] }
}

fn cluster() -> RecordIndex {
    let mut records = RecordIndex::default();
    run(&mut records, |actor| actor.found_cluster(founding("secret"))).expect("founded");
    records
}

fn request(name: &str, id: u128) -> JoinRequest {
    JoinRequest {
        token: "first".to_owned(),
        role: JoinRole::Agent,
        machine: machine(name),
        id: MachineId::from_random(id),
        key: format!("key {id}"),
        advertise: None,
        server: None,
        labels: BTreeMap::new(),
    }
}

fn join_at(records: &mut RecordIndex, request: JoinRequest, now: u64) -> Result<MemberRecord, Refusal> {
    let (changes, member) = Actor::new(records, Moment(now), "gantry").join(request)?;
    changes.into_iter().for_each(|change| records.apply(change));
    Ok(member)
}

fn token(records: &mut RecordIndex, hash: &str, role: JoinRole) {
    run(records, |actor| actor.create_join_token(hash.to_owned(), role, HOUR)).expect("created");
}

#[test]
fn a_cluster_has_one_authority() {
    let mut records = cluster();
    assert_eq!((records.members.len(), records.join_tokens.len()), (1, 1));
    let again = Actor::new(&records, NOW, "gantry").found_cluster(founding("secret")).expect("the same");
    assert!(again.0.is_empty(), "an interrupted start repeats it");
    let mut restored = founding("secret");
    restored.member.key = "key of the new hardware".to_owned();
    run(&mut records, |actor| actor.found_cluster(restored)).expect("the same authority");
    assert_eq!(records.members[&machine("m1")].key, "key of the new hardware");
    assert_eq!(run(&mut records, |actor| actor.found_cluster(founding("other"))), Err(Refusal::OtherAuthority));
    assert!(!format!("{records:?}").contains("secret"), "the key is printed nowhere");
}

#[test]
fn a_token_serves_one_machine_in_its_time_for_its_role() {
    let mut records = cluster();
    let at = NOW.0 + HOUR - 1;
    let unknown = JoinRequest { token: "guess".to_owned(), ..request("m2", 2) };
    assert_eq!(join_at(&mut records, unknown, at), Err(Refusal::JoinTokenUnknown));
    let server = JoinRequest { role: JoinRole::Server, ..request("m2", 2) };
    let wrong = Refusal::JoinTokenRole { role: JoinRole::Agent, requested: JoinRole::Server };
    assert_eq!(join_at(&mut records, server, at), Err(wrong));
    let late = join_at(&mut records, request("m2", 2), NOW.0 + HOUR + 5);
    assert_eq!(late, Err(Refusal::JoinTokenExpired { millis: 5 }));
    let member = join_at(&mut records, request("m2", 2), at).expect("joined");
    assert_eq!(join_at(&mut records, request("m3", 3), at), Err(Refusal::JoinTokenUsed));
    let other_key = JoinRequest { key: "stolen".to_owned(), ..request("m2", 2) };
    assert_eq!(join_at(&mut records, other_key, at), Err(Refusal::JoinTokenUsed));
    let (changes, again) = Actor::new(&records, Moment(at), "gantry").join(request("m2", 2)).expect("repeated");
    assert_eq!((changes.len(), again), (0, member), "the response may have been lost");
}

#[test]
fn a_name_belongs_to_the_machine_that_has_it() {
    let mut records = cluster();
    let taken = |records: &mut RecordIndex, name: &str| {
        matches!(join_at(records, request(name, 9), NOW.0), Err(Refusal::MachineNameTaken { .. }))
    };
    assert!(taken(&mut records, "m1"));
    join_at(&mut records, request("m2", 2), NOW.0).expect("joined");
    token(&mut records, "second", JoinRole::Agent);
    let other = JoinRequest { token: "second".to_owned(), ..request("m2", 9) };
    assert!(matches!(join_at(&mut records, other.clone(), NOW.0), Err(Refusal::MachineNameTaken { .. })));
    records.apply(RecordChange::Remove("members/m2".to_owned()));
    join_at(&mut records, other, NOW.0).expect("the name is free again");
}

#[test]
fn a_machine_that_joins_again_keeps_its_network() {
    let mut records = cluster();
    let first = join_at(&mut records, request("m2", 2), NOW.0).expect("joined");
    assert_eq!(first.subnet.to_string(), "10.64.0.0/20");
    token(&mut records, "second", JoinRole::Agent);
    let again = JoinRequest { token: "second".to_owned(), key: "new key".to_owned(), ..request("m2", 2) };
    let again = join_at(&mut records, again, NOW.0 + 5).expect("joined again");
    assert_eq!((again.subnet, again.key.as_str(), again.id), (first.subnet, "new key", first.id));
}

#[test]
fn networks_of_machines_never_overlap() {
    let mut records = cluster();
    let mut known: Vec<MachineSubnet> = records.members.values().map(|member| member.subnet).collect();
    for number in 2..400_u128 {
        let hash = format!("token {number}");
        token(&mut records, &hash, JoinRole::Agent);
        let joining = JoinRequest { token: hash, ..request(&format!("m{number}"), number) };
        let subnet = join_at(&mut records, joining, NOW.0).expect("joined").subnet;
        assert!(known.iter().all(|other| !other.overlaps(subnet)), "{subnet}");
        known.push(subnet);
    }
}

#[test]
fn tokens_are_short_lived_and_need_an_authority() {
    let mut records = RecordIndex::default();
    let create = |records: &mut RecordIndex, lifetime| {
        run(records, |actor| actor.create_join_token("hash".to_owned(), JoinRole::Agent, lifetime))
    };
    assert_eq!(create(&mut records, HOUR), Err(Refusal::NoAuthority));
    let mut records = cluster();
    for lifetime in [0, 999, 8 * 24 * HOUR, u64::MAX] {
        assert_eq!(create(&mut records, lifetime), Err(Refusal::InvalidJoinLifetime), "{lifetime}");
    }
    create(&mut records, HOUR).expect("created");
    let later = Actor::new(&records, Moment(NOW.0 + 50 * HOUR), "gantry");
    let (changes, _) = later.create_join_token("new".to_owned(), JoinRole::Server, HOUR).expect("created");
    changes.into_iter().for_each(|change| records.apply(change));
    assert_eq!(records.join_tokens.keys().collect::<Vec<_>>(), ["new"], "old tokens are removed");
}

#[test]
fn the_policy_sets_range_and_size_of_new_networks() {
    let mut records = cluster();
    records.policy.cluster_subnet = Some("10.200.0.0/22".parse().expect("a network"));
    records.policy.machine_prefix = Some(24);
    let mut given = Vec::new();
    for number in 2..6_u128 {
        let hash = format!("token {number}");
        token(&mut records, &hash, JoinRole::Agent);
        let joining = JoinRequest { token: hash, ..request(&format!("m{number}"), number) };
        given.push(join_at(&mut records, joining, NOW.0).expect("joined").subnet.to_string());
    }
    assert_eq!(given, ["10.200.0.0/24", "10.200.1.0/24", "10.200.2.0/24", "10.200.3.0/24"]);
    token(&mut records, "last", JoinRole::Agent);
    let last = JoinRequest { token: "last".to_owned(), ..request("m9", 9) };
    assert!(matches!(join_at(&mut records, last, NOW.0), Err(Refusal::NoFreeSubnet { .. })));
}
