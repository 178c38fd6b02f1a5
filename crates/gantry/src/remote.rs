//! The server and the token that a command uses.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, bail};
use gantry_api::Client;

use crate::args::Remote;

/// Default data folder of a server, on the server's machine. The folder holds the first administrator's token.
const DATA: &str = "/var/lib/gantry";

/// Creates a client. The token comes from the first of these sources: GANTRY_TOKEN, the named token file, the user's
/// own token file, the machine's token.
pub(crate) fn client(remote: &Remote) -> anyhow::Result<Client> {
    if remote.url.starts_with("https:") {
        bail!(
            "{}: the server speaks plain HTTP; reach it over a tunnel (`ssh -L 4680:127.0.0.1:4680 HOST`)",
            remote.url
        );
    }
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
    // The machine's token is only sent to the server on this machine.
    let data = remote.data.clone().unwrap_or_else(|| PathBuf::from(DATA));
    let machine_s = is_here(&remote.url).then(|| data.join("admin-token"));
    for path in own.into_iter().chain(machine_s) {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read the token in {}", path.display())),
        }
    }
    bail!(
        "no token: set GANTRY_TOKEN to one that `gantry token create` made, or put it into ~/.config/gantry/token; on the \
         server's machine `--token-file DATA/admin-token` is the administrator's"
    )
}

/// Whether the URL names this machine.
fn is_here(url: &str) -> bool {
    // Parse the URL as the client does. A URL with user information before the host never counts as this machine.
    let Some(authority) = url.parse::<http::Uri>().ok().and_then(|uri| uri.into_parts().authority) else {
        return false;
    };
    let host = authority.host().trim_matches(['[', ']']);
    let is_loopback =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    is_loopback && !authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_address_is_here() {
        for url in ["http://127.0.0.1:4680", "http://localhost:4680/", "https://[::1]:4680", "127.0.0.1:1"] {
            assert!(is_here(url), "{url}");
        }
        for url in [
            "http://gantry.example:4680",
            "http://localhost.example",
            "http://10.0.0.1",
            "http://127.0.0.1@evil:1",
            "http://localhost:4680@evil.example",
            "http://evil@localhost",
            "::1",
            "",
        ] {
            assert!(!is_here(url), "{url}");
        }
    }
}
