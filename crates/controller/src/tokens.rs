//! API tokens: random secrets, shown once, stored as hashes.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gantry_api::Problem;
use gantry_api::types::{CreateToken, NewToken, Scope, TokenInfo};
use gantry_blobs::Hasher;
use gantry_model::Moment;

use crate::mirror::{Change, Mirror, Record, token_key};
use crate::mutations::event;
use crate::settings::Settings;
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
    Hasher::of(secret.as_bytes()).hex().to_owned()
}

/// Creates a token.
pub(crate) fn create(
    mirror: &Mirror,
    now: Moment,
    by: &str,
    request: CreateToken,
    secret: String,
) -> Result<(Vec<Change>, NewToken), Problem> {
    let CreateToken { name, scope, lifetime } = request;
    let good = !name.is_empty() && name.len() <= 100 && name.chars().all(|c| !c.is_control());
    if !good {
        return Err(Problem::invalid("a token's name has 1 to 100 printable characters"));
    }
    if mirror.tokens.values().any(|token| token.name == name) {
        return Err(Problem::conflict(format!("there is a token {name:?} already")));
    }
    if let Scope::Deploy { app } = &scope {
        crate::mutations::app(mirror, app)?;
    }
    if lifetime == Some(0) {
        return Err(Problem::invalid("a token that lives for no time is of no use"));
    }
    let expires = lifetime.map(|millis| Moment(now.0.saturating_add(millis)));
    let info = TokenInfo { name, scope, created: now, expires };
    let what = format!("created token {:?}", info.name);
    let record = Record::Token { hash: hash(&secret), info: info.clone() };
    Ok((vec![event(mirror, now, by, None, what), record.into()], NewToken { info, secret }))
}

/// Revokes a token.
pub(crate) fn revoke(mirror: &Mirror, now: Moment, by: &str, name: &str) -> Result<(Vec<Change>, ()), Problem> {
    let named: Vec<&String> =
        mirror.tokens.iter().filter(|(_, token)| token.name == name).map(|(hash, _)| hash).collect();
    if named.is_empty() {
        return Err(Problem::missing(format!("there is no token {name:?}")).hint("`gantry token ls` lists them"));
    }
    let what = format!("revoked token {name:?}");
    let removed = named.into_iter().map(|hash| Change::Remove(token_key(hash)));
    Ok((std::iter::once(event(mirror, now, by, None, what)).chain(removed).collect(), ()))
}

/// Ensures that the first tokens exist, with their secrets in files that only root reads.
pub(crate) async fn ensure(core: &core::Handle, settings: &Settings) -> Result<(), ServerError> {
    let machine = Scope::Machine { machine: settings.machine.clone() };
    let first = [
        (ADMIN_FILE, "admin".to_owned(), Scope::Admin),
        (MACHINE_FILE, format!("machine {}", settings.machine), machine),
    ];
    for (file, name, scope) in first {
        let (secret, fresh) = secret_in(&settings.data.join(file))?;
        let hash = hash(&secret);
        let known = core.view().mirror.tokens.get(&hash).map(|token| token.scope.clone());
        if let Some(Scope::Machine { machine }) = known.filter(|known| *known != scope) {
            return Err(ServerError::OtherMachine(machine.to_string()));
        }
        let ensured = move |mirror: &Mirror, now: Moment| Ok((first_token(mirror, now, hash, name, scope, fresh), ()));
        core.mutate(ensured).await.map_err(ServerError::Refused)?;
    }
    Ok(())
}

/// Creates the token for a secret in a file. The token of a new secret replaces the tokens of the same name.
fn first_token(mirror: &Mirror, now: Moment, hash: String, name: String, scope: Scope, fresh: bool) -> Vec<Change> {
    // A revoked administrator's token stays revoked, even if the file still holds its secret.
    let has_other = scope == Scope::Admin && mirror.tokens.values().any(|token| token.scope == Scope::Admin);
    if mirror.tokens.contains_key(&hash) || (has_other && !fresh) {
        return Vec::new();
    }
    let namesakes = mirror.tokens.iter().filter(|(_, token)| token.name == name);
    let mut changes: Vec<Change> = namesakes.map(|(hash, _)| Change::Remove(token_key(hash))).collect();
    changes.push(Record::Token { hash, info: TokenInfo { name, scope, created: now, expires: None } }.into());
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
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&fresh);
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().map_err(|error| failed("write", error))?;
    Ok((secret, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(mirror: &mut Mirror, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| mirror.apply(change));
    }

    #[test]
    fn a_secret_that_was_made_anew_takes_the_place_of_the_one_that_is_lost() {
        let mut mirror = Mirror::default();
        let first = |mirror: &Mirror, secret: &str, fresh| {
            first_token(mirror, Moment(0), hash(secret), "admin".to_owned(), Scope::Admin, fresh)
        };
        let changes = first(&mirror, "leaked", true);
        applied(&mut mirror, changes);
        assert!(first(&mirror, "leaked", false).is_empty(), "it is there");
        assert!(first(&mirror, "other", false).is_empty(), "whoever was revoked stays so");
        let changes = first(&mirror, "fresh", true);
        applied(&mut mirror, changes);
        assert_eq!(mirror.tokens.keys().collect::<Vec<_>>(), [&hash("fresh")]);
        let (changes, ()) = revoke(&mirror, Moment(0), "admin", "admin").expect("revoked");
        applied(&mut mirror, changes);
        assert!(mirror.tokens.is_empty());
    }
}
