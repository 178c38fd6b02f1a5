use gantry_model::Scope;

use super::*;
use crate::{NewToken, first_token};

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
    for (new, wanted) in [
        (new_token(""), Refusal::InvalidTokenName),
        (new_token(&"x".repeat(101)), Refusal::InvalidTokenName),
        (new_token("a\nb"), Refusal::InvalidTokenName),
        (new_token("ci"), Refusal::TokenExists { token: "ci".to_owned() }),
        (of_ghost, Refusal::AppNotFound { app: ghost }),
        (NewToken { lifetime: Some(0), ..new_token("x") }, Refusal::ZeroLifetime),
    ] {
        let before = records.clone();
        assert_eq!(run(&mut records, |actor| actor.create_token(new)), Err(wanted));
        assert_eq!(records, before);
    }
}

#[test]
fn a_new_first_secret_replaces_the_lost_one() {
    let mut records = RecordIndex::default();
    let first = |records: &RecordIndex, hash: &str, is_new| {
        first_token(records, NOW, hash.to_owned(), "admin".to_owned(), Scope::Admin, is_new)
    };
    let changes = first(&records, "leaked", true);
    changes.into_iter().for_each(|change| records.apply(change));
    assert!(first(&records, "leaked", false).is_empty(), "the token is there");
    assert!(first(&records, "other", false).is_empty(), "a revoked secret stays revoked");
    let changes = first(&records, "new", true);
    changes.into_iter().for_each(|change| records.apply(change));
    assert_eq!(records.tokens.keys().collect::<Vec<_>>(), ["new"]);
    run(&mut records, |actor| actor.revoke_token("admin")).expect("revoked");
    assert!(records.tokens.is_empty());
    assert_eq!(first(&records, "old", false).len(), 1, "no administrator is left");
}
