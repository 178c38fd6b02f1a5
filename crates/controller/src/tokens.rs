//! Tokens: random, shown once, kept as hashes.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gantry_api::Problem;
use gantry_api::types::{CreateToken, NewToken, Scope, TokenInfo};
use gantry_blobs::Hasher;
use gantry_model::Moment;

use crate::mirror::{Change, Mirror, Record};
use crate::mutations::event;
use crate::settings::Settings;
use crate::{ServerError, core};

/// The file with the first administrator's token, below the data folder.
pub(crate) const ADMIN_FILE: &str = "admin-token";

/// The file with the token of this machine's agent and router.
pub(crate) const MACHINE_FILE: &str = "machine-token";

/// A new secret: 192 random bits.
pub(crate) fn secret() -> String {
    format!("gantry_{}", hex::encode(rand::random::<[u8; 24]>()))
}

/// What is kept of a secret. A fast hash is enough for what no dictionary holds.
pub(crate) fn hash(secret: &str) -> String {
    Hasher::of(secret.as_bytes()).hex().to_owned()
}

/// Makes a token.
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

/// Takes a token away.
pub(crate) fn revoke(mirror: &Mirror, now: Moment, by: &str, name: &str) -> Result<(Vec<Change>, ()), Problem> {
    let Some((hash, _)) = mirror.tokens.iter().find(|(_, token)| token.name == name) else {
        return Err(Problem::missing(format!("there is no token {name:?}")).hint("`gantry token ls` lists them"));
    };
    let what = format!("revoked token {name:?}");
    Ok((vec![event(mirror, now, by, None, what), Change::Remove(format!("tokens/{hash}"))], ()))
}

/// The first tokens are there, and their secrets in files that only root reads.
pub(crate) async fn ensure(core: &core::Handle, settings: &Settings) -> Result<(), ServerError> {
    let machine = Scope::Machine { machine: settings.machine.clone() };
    let first = [
        (ADMIN_FILE, "admin".to_owned(), Scope::Admin),
        (MACHINE_FILE, format!("machine {}", settings.machine), machine),
    ];
    for (file, name, scope) in first {
        let (secret, fresh) = secret_in(&settings.data.join(file))?;
        let known = move |mirror: &Mirror, now: Moment| {
            // An administrator's token that was revoked stays so, whatever the file still holds.
            let has_other = scope == Scope::Admin && mirror.tokens.values().any(|token| token.scope == Scope::Admin);
            if mirror.tokens.contains_key(&hash(&secret)) || (has_other && !fresh) {
                return Ok((Vec::new(), ()));
            }
            let record =
                Record::Token { hash: hash(&secret), info: TokenInfo { name, scope, created: now, expires: None } };
            Ok((vec![record.into()], ()))
        };
        core.mutate(known).await.map_err(|problem| ServerError::NotLeading(problem.message))?;
    }
    Ok(())
}

/// The secret in a file, made when there is none, and whether it was.
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
