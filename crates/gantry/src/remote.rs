//! The server that a command talks to, and with what token.

use std::path::PathBuf;

use anyhow::{Context, bail};
use gantry_api::Client;

use crate::args::Remote;

/// Where the first administrator's token is, on the server's own machine.
const ADMIN_TOKEN: &str = "/var/lib/gantry/admin-token";

/// A client with the token that is at hand: GANTRY_TOKEN, a file that was named, one's own, or the machine's.
pub(crate) fn client(remote: &Remote) -> anyhow::Result<Client> {
    Ok(Client::new(&remote.url, &token(remote)?))
}

fn token(remote: &Remote) -> anyhow::Result<String> {
    if let Ok(token) = std::env::var("GANTRY_TOKEN") {
        return Ok(token.trim().to_owned());
    }
    if let Some(path) = &remote.token_file {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the token in {}", path.display()))?;
        return Ok(text.trim().to_owned());
    }
    let own = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/gantry/token"));
    for path in own.into_iter().chain([PathBuf::from(ADMIN_TOKEN)]) {
        if let Ok(text) = std::fs::read_to_string(path) {
            return Ok(text.trim().to_owned());
        }
    }
    bail!("no token: set GANTRY_TOKEN, or put it into ~/.config/gantry/token (`gantry token create` makes one)")
}
