use gantry_model::{MachineName, Scope};
use gantry_records::TokenRecord;

use super::*;
use crate::{NewToken, ServerToken, server_token};

fn new_token(name: &str) -> NewToken {
    NewToken { name: name.to_owned(), scope: Scope::Read, lifetime: None, hash: format!("hash of {name}") }
}

#[test]
fn a_token_is_created_and_revoked() {
    let mut records = with_app();
    let scope = Scope::Deploy { app: shop() };
    let new = NewToken { scope: scope.clone(), lifetime: Some(5000), ..new_token("ci") };
    let token = run(&mut records, |actor| actor.create_token(new)).expect("created");
    assert_eq!((token.scope.clone(), token.created, token.expires), (scope, NOW, Some(Moment(NOW.0 + 5000))));
    assert_eq!(records.tokens["hash of ci"], token);
    assert_eq!(newest_action(&records).to_string(), "created token \"ci\"");
    let forever = NewToken { lifetime: Some(u64::MAX), ..new_token("old") };
    let token = run(&mut records, |actor| actor.create_token(forever)).expect("created");
    assert_eq!(token.expires, Some(Moment(u64::MAX)), "no time overflows");
    assert_eq!(run(&mut records, |actor| actor.revoke_token("ci")), Ok(()));
    assert_eq!(records.tokens.keys().collect::<Vec<_>>(), ["hash of old"]);
    assert_eq!(newest_action(&records).to_string(), "revoked token \"ci\"");
    let unknown = Refusal::TokenNotFound { token: "ci".to_owned() };
    assert_eq!(run(&mut records, |actor| actor.revoke_token("ci")), Err(unknown));
}

#[test]
fn refuses_invalid_tokens() {
    let mut records = with_app();
    run(&mut records, |actor| actor.create_token(new_token("ci"))).expect("created");
    let ghost = app_name("ghost");
    let of_ghost = NewToken { scope: Scope::Deploy { app: ghost.clone() }, ..new_token("x") };
    for (new, expected) in [
        (new_token(""), Refusal::InvalidTokenName),
        (new_token(&"x".repeat(101)), Refusal::InvalidTokenName),
        (new_token("a\nb"), Refusal::InvalidTokenName),
        (new_token("ci"), Refusal::TokenExists { token: "ci".to_owned() }),
        (of_ghost, Refusal::AppNotFound { app: ghost }),
        (NewToken { lifetime: Some(0), ..new_token("x") }, Refusal::ZeroLifetime),
    ] {
        let before = records.clone();
        assert_eq!(run(&mut records, |actor| actor.create_token(new)), Err(expected));
        assert_eq!(records, before);
    }
}

/// The administrator's token of a server, whose secret has a hash.
fn admin_of(machine: &str, hash: &str, is_new: bool) -> ServerToken {
    let machine = MachineName::parse(machine).expect("a name");
    ServerToken { name: "admin".to_owned(), scope: Scope::Admin, hash: hash.to_owned(), is_new, machine }
}

fn admit(records: &mut RecordIndex, token: ServerToken, several: bool) {
    server_token(records, NOW, token, several).into_iter().for_each(|change| records.apply(change));
}

/// The hash and the name of each token.
fn named(records: &RecordIndex) -> Vec<(&str, &str)> {
    records.tokens.iter().map(|(hash, token)| (hash.as_str(), token.name.as_str())).collect()
}

#[test]
fn a_new_first_secret_replaces_the_lost_one() {
    let mut records = RecordIndex::default();
    let first =
        |records: &RecordIndex, hash: &str, is_new| server_token(records, NOW, admin_of("m1", hash, is_new), false);
    let changes = first(&records, "leaked", true);
    changes.into_iter().for_each(|change| records.apply(change));
    assert!(first(&records, "leaked", false).is_empty(), "the token is there");
    assert!(first(&records, "other", false).is_empty(), "a revoked secret stays revoked");
    let changes = first(&records, "new", true);
    changes.into_iter().for_each(|change| records.apply(change));
    assert_eq!(records.tokens.keys().collect::<Vec<_>>(), ["new"]);
    admit(&mut records, admin_of("renamed", "newer", true), false);
    assert_eq!(named(&records), [("newer", "admin")], "a server alone has one token, whatever its machine's name");
    run(&mut records, |actor| actor.revoke_token("admin")).expect("revoked");
    assert!(records.tokens.is_empty());
    assert_eq!(first(&records, "old", false).len(), 1, "no administrator is left");
}

#[test]
fn a_new_secret_of_one_of_several_servers_replaces_its_own_lost_one() {
    let mut records = RecordIndex::default();
    admit(&mut records, admin_of("m1", "a1", true), false);
    admit(&mut records, admin_of("m2", "b1", true), true);
    assert_eq!(named(&records), [("a1", "admin"), ("b1", "admin m2")]);
    admit(&mut records, admin_of("m1", "a2", true), true);
    assert_eq!(named(&records), [("a2", "admin"), ("b1", "admin m2")], "the lost token of the first server");
    admit(&mut records, admin_of("m2", "b2", true), true);
    assert_eq!(named(&records), [("a2", "admin"), ("b2", "admin m2")], "the lost token of another server");
    for (machine, hash) in [("m1", "a2"), ("m2", "b2"), ("m1", "a1"), ("m2", "b1")] {
        assert!(server_token(&records, NOW, admin_of(machine, hash, false), true).is_empty(), "{hash}");
    }
    run(&mut records, |actor| actor.revoke_token("admin")).expect("revoked");
    admit(&mut records, admin_of("m2", "b3", true), true);
    assert_eq!(named(&records), [("b3", "admin")], "the plain name is free");
}

#[test]
fn the_tokens_of_an_earlier_version_get_their_servers() {
    let mut before = RecordIndex::default();
    for (hash, name) in [("a1", "admin"), ("b1", "admin m2")] {
        let token = TokenRecord { name: name.into(), scope: Scope::Admin, created: NOW, expires: None, server: None };
        put(&mut before, StoreRecord::Token { hash: hash.to_owned(), token });
    }
    // A server that joins revokes nothing, and a server with a token of its own name leaves the plain one.
    for (machine, hash, left) in [
        ("m3", "c1", vec![("a1", "admin"), ("b1", "admin m2"), ("c1", "admin m3")]),
        ("m2", "b2", vec![("a1", "admin"), ("b2", "admin m2")]),
    ] {
        let mut records = before.clone();
        admit(&mut records, admin_of(machine, hash, true), true);
        assert_eq!(named(&records), left);
    }
    // The first server claims its token at its next start.
    let mut records = before.clone();
    admit(&mut records, admin_of("m1", "a1", false), true);
    assert_eq!(records.tokens["a1"].server, MachineName::parse("m1").ok());
    admit(&mut records, admin_of("m1", "a2", true), true);
    assert_eq!(named(&records), [("a2", "admin"), ("b1", "admin m2")]);
    // Its secret is lost before that.
    let mut records = before;
    let machine = MachineName::parse("m1").expect("a name");
    let (name, scope, hash) = ("machine m1".to_owned(), Scope::Machine { machine: machine.clone() }, "m".to_owned());
    admit(&mut records, ServerToken { name, scope, hash, is_new: true, machine }, true);
    admit(&mut records, admin_of("m1", "a2", true), true);
    assert_eq!(named(&records), [("a2", "admin"), ("b1", "admin m2"), ("m", "machine m1")]);
}
