//! API tokens: random secrets, shown once, stored as hashes.

use std::path::Path;

use gantry_admission::first_token;
use gantry_blobs::DigestHasher;
use gantry_ledger::Replacement;
use gantry_model::{Moment, Scope};
use gantry_records::RecordIndex;

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
        core.mutate(ensured).await?;
    }
    Ok(())
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
