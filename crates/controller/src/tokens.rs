//! API tokens: random secrets, shown once, stored as hashes.

use std::path::Path;

use gantry_api::Problem;
use gantry_api::types::{CreateToken, NewToken, Scope, TokenInfo};
use gantry_blobs::DigestHasher;
use gantry_ledger::Replacement;
use gantry_model::Moment;

use crate::mutations::event;
use crate::records::{RecordChange, RecordIndex, StoreRecord, token_key};
use crate::settings::ServerSettings;
use crate::{ServerError, core};

/// File with the first administrator's token, in the data folder.
pub(crate) const ADMIN_FILE: &str = "admin-token";

/// File with the token of this machine's agent and router, in the data folder.
pub(crate) const MACHINE_FILE: &str = "machine-token";

/// Returns a new secret of 192 random bits.
pub(crate) fn secret() -> String {
    format!("gantry_{}", hex::encode(rand::random::<[u8; 24]>()))
}

/// Returns the hash that is stored for a secret. A fast hash is enough, because no dictionary contains random secrets.
pub(crate) fn hash(secret: &str) -> String {
    DigestHasher::of(secret.as_bytes()).hex().to_owned()
}

/// Creates a token.
pub(crate) fn create(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    request: CreateToken,
    secret: String,
) -> Result<(Vec<RecordChange>, NewToken), Problem> {
    let CreateToken { name, scope, lifetime } = request;
    let good = !name.is_empty() && name.len() <= 100 && name.chars().all(|c| !c.is_control());
    if !good {
        return Err(Problem::invalid("invalid token name: must have 1 to 100 printable characters"));
    }
    if records.tokens.values().any(|token| token.name == name) {
        return Err(Problem::conflict(format!("token {name:?} already exists")));
    }
    if let Scope::Deploy { app } = &scope {
        crate::mutations::app(records, app)?;
    }
    if lifetime == Some(0) {
        return Err(Problem::invalid("token lifetime must be greater than zero"));
    }
    let expires = lifetime.map(|millis| Moment(now.0.saturating_add(millis)));
    let info = TokenInfo { name, scope, created: now, expires };
    let what = format!("created token {:?}", info.name);
    let record = StoreRecord::Token { hash: hash(&secret), info: info.clone() };
    Ok((vec![event(records, now, by, None, what), record.into()], NewToken { info, secret }))
}

/// Revokes a token.
pub(crate) fn revoke(
    records: &RecordIndex,
    now: Moment,
    by: &str,
    name: &str,
) -> Result<(Vec<RecordChange>, ()), Problem> {
    let named: Vec<&String> =
        records.tokens.iter().filter(|(_, token)| token.name == name).map(|(hash, _)| hash).collect();
    if named.is_empty() {
        return Err(Problem::missing(format!("there is no token {name:?}")).hint("`gantry token ls` lists them"));
    }
    let what = format!("revoked token {name:?}");
    let removed = named.into_iter().map(|hash| RecordChange::Remove(token_key(hash)));
    Ok((std::iter::once(event(records, now, by, None, what)).chain(removed).collect(), ()))
}

/// Ensures that the first tokens exist, with their secrets in files that only root reads.
pub(crate) async fn ensure(core: &core::CoreHandle, settings: &ServerSettings) -> Result<(), ServerError> {
    let machine = Scope::Machine { machine: settings.machine.clone() };
    let first = [
        (ADMIN_FILE, "admin".to_owned(), Scope::Admin),
        (MACHINE_FILE, format!("machine {}", settings.machine), machine),
    ];
    for (file, name, scope) in first {
        let (secret, fresh) = secret_in(&settings.data.join(file))?;
        let hash = hash(&secret);
        let known = core.view().records.tokens.get(&hash).map(|token| token.scope.clone());
        if let Some(Scope::Machine { machine }) = known.filter(|known| *known != scope) {
            return Err(ServerError::OtherMachine(machine.to_string()));
        }
        let ensured =
            move |records: &RecordIndex, now: Moment| Ok((first_token(records, now, hash, name, scope, fresh), ()));
        core.mutate(ensured).await.map_err(ServerError::Refused)?;
    }
    Ok(())
}

/// Creates the token for a secret in a file. The token of a new secret replaces the tokens of the same name.
fn first_token(
    records: &RecordIndex,
    now: Moment,
    hash: String,
    name: String,
    scope: Scope,
    fresh: bool,
) -> Vec<RecordChange> {
    // A revoked administrator's token stays revoked, even if the file still holds its secret.
    let has_other = scope == Scope::Admin && records.tokens.values().any(|token| token.scope == Scope::Admin);
    if records.tokens.contains_key(&hash) || (has_other && !fresh) {
        return Vec::new();
    }
    let namesakes = records.tokens.iter().filter(|(_, token)| token.name == name);
    let mut changes: Vec<RecordChange> = namesakes.map(|(hash, _)| RecordChange::Remove(token_key(hash))).collect();
    changes.push(StoreRecord::Token { hash, info: TokenInfo { name, scope, created: now, expires: None } }.into());
    changes
}

/// Returns the secret in a file, and whether the secret is new. Creates file and secret if there are none.
fn secret_in(path: &Path) -> Result<(String, bool), ServerError> {
    let failed = |action, source| ServerError::File { action, path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok((text.trim().to_owned(), false)),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", error)),
    }
    let secret = secret();
    let written = Replacement::of(path).mode(0o600).write(format!("{secret}\n").as_bytes());
    written.map_err(|error| failed("write", error))?;
    Ok((secret, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(records: &mut RecordIndex, changes: Vec<RecordChange>) {
        changes.into_iter().for_each(|change| records.apply(change));
    }

    #[test]
    fn a_new_secret_replaces_the_lost_one() {
        let mut records = RecordIndex::default();
        let first = |records: &RecordIndex, secret: &str, fresh| {
            first_token(records, Moment(0), hash(secret), "admin".to_owned(), Scope::Admin, fresh)
        };
        let changes = first(&records, "leaked", true);
        applied(&mut records, changes);
        assert!(first(&records, "leaked", false).is_empty(), "it is there");
        assert!(first(&records, "other", false).is_empty(), "whoever was revoked stays so");
        let changes = first(&records, "fresh", true);
        applied(&mut records, changes);
        assert_eq!(records.tokens.keys().collect::<Vec<_>>(), [&hash("fresh")]);
        let (changes, ()) = revoke(&records, Moment(0), "admin", "admin").expect("revoked");
        applied(&mut records, changes);
        assert!(records.tokens.is_empty());
    }
}
