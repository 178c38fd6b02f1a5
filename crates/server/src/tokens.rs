//! API tokens: random secrets, shown once, stored as hashes.

use std::path::{Path, PathBuf};

use gantry_admission::{ServerToken, server_token};
use gantry_blobs::DigestHasher;
use gantry_ledger::Replacement;
use gantry_model::{MachineName, Moment, Scope};
use gantry_records::RecordIndex;
use serde::{Deserialize, Serialize};

use crate::settings::ServerSettings;
use crate::{ServerError, core};

/// File with the first administrator's token, in the data folder.
pub(crate) const ADMIN_FILE: &str = "admin-token";

/// File with the token of this machine's agent and router, in the data folder.
pub(crate) const MACHINE_FILE: &str = "machine-token";

/// Files with the first tokens, in the data folder.
pub const TOKEN_FILES: [&str; 2] = [ADMIN_FILE, MACHINE_FILE];

/// Returns a new secret of 192 random bits.
#[must_use]
pub fn new_secret() -> String {
    format!("gantry_{}", hex::encode(rand::random::<[u8; 24]>()))
}

/// Returns the hash that is stored for a secret. A fast hash is enough, because no dictionary contains random secrets.
pub(crate) fn hash(secret: &str) -> String {
    DigestHasher::of(secret.as_bytes()).hex().to_owned()
}

/// A token that each server of a cluster has from its first start on, with its secret in a file of the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FirstToken {
    name: String,
    scope: Scope,
    hash: String,
    /// The secret is new: the token replaces an earlier one of its name.
    is_new: bool,
    /// Machine of the server.
    machine: MachineName,
}

/// Reads the first tokens, with their secrets in files that only root reads. Makes missing ones.
pub(crate) fn first_tokens(settings: &ServerSettings) -> Result<Vec<FirstToken>, ServerError> {
    let machine = settings.machine.clone();
    let first = [
        (ADMIN_FILE, "admin".to_owned(), Scope::Admin),
        (MACHINE_FILE, format!("machine {machine}"), Scope::Machine { machine: machine.clone() }),
    ];
    let read = |(file, name, scope)| {
        let path = settings.data.join(file);
        let (secret, is_new) = match secret_of(&new_token_file(&path))? {
            Some(secret) => (secret, true),
            None => secret_in(&path)?,
        };
        Ok(FirstToken { name, scope, hash: hash(&secret), is_new, machine: machine.clone() })
    };
    first.into_iter().map(read).collect()
}

/// Records a server's first tokens. With `several` servers, a token of one server does not replace that of another.
pub(crate) async fn admit(core: &core::CoreHandle, tokens: Vec<FirstToken>, several: bool) -> Result<(), ServerError> {
    for FirstToken { name, scope, hash, is_new, machine } in tokens {
        let known = core.view().records.tokens.get(&hash).map(|token| token.scope.clone());
        if let Some(Scope::Machine { machine }) = known.filter(|known| *known != scope) {
            return Err(ServerError::OtherMachine(machine.to_string()));
        }
        let own = ServerToken { name, scope, hash, is_new, machine };
        let admitted = move |records: &RecordIndex, now: Moment| Ok((server_token(records, now, own, several), ()));
        core.mutate(admitted).await?;
    }
    Ok(())
}

/// Takes over the secrets that `gantry up` offered as new ones, once their tokens are recorded.
pub(crate) fn adopt_new_secrets(settings: &ServerSettings) -> Result<(), ServerError> {
    for file in TOKEN_FILES {
        let path = settings.data.join(file);
        let fresh = new_token_file(&path);
        if secret_of(&fresh)?.is_some() {
            let renamed = std::fs::rename(fresh, &path).and_then(|()| gantry_ledger::sync(&settings.data));
            renamed.map_err(|source| ServerError::File { action: "rename", path, source })?;
        }
    }
    Ok(())
}

/// Returns the secret in a file, and whether the secret is new. Creates a secret if there is none, in the file of a new
/// secret: a server that ends before its token is recorded offers the secret again.
fn secret_in(path: &Path) -> Result<(String, bool), ServerError> {
    if let Some(secret) = secret_of(path)? {
        return Ok((secret, false));
    }
    let (secret, path) = (new_secret(), new_token_file(path));
    let written = Replacement::of(&path).mode(0o600).write(format!("{secret}\n").as_bytes());
    written.map_err(|source| ServerError::File { action: "write", path, source })?;
    Ok((secret, true))
}

/// Returns the secret in a file; none if there is no file, or the file is empty.
fn secret_of(path: &Path) -> Result<Option<String>, ServerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|secret| !secret.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ServerError::File { action: "read", path: path.to_owned(), source }),
    }
}

/// Returns the file in which `gantry up` offers a new secret for the token in `file`.
#[must_use]
pub fn new_token_file(file: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from("new-");
    name.push(file.file_name().unwrap_or_default());
    file.with_file_name(name)
}
