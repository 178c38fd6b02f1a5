//! The server and the token that a command uses.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Context;
use gantry_api::{Client, ErrorCode, Servers};
use gantry_trust::{CaHash, PeerName, pinned_config};

use crate::args::Remote;
use crate::coded::{WithCode, coded};
use crate::membership::CLUSTER_PORT;

/// Default data folder of a server, on the server's machine. The folder holds the first administrator's token.
const DATA: &str = "/var/lib/gantry";

/// Creates a client. The token comes from the first of these sources: GANTRY_TOKEN, the named token file, the user's
/// own token file, the machine's token.
pub(crate) fn client(remote: &Remote) -> anyhow::Result<Client> {
    if remote.url.starts_with("https:") {
        let server = https_server(&remote.url)?;
        let Some(ca_hash) = known_authority(&server) else {
            let url = &remote.url;
            let message = format!("the authority of {url} is not known; `gantry login {url} --ca-hash HASH` first");
            return Err(coded(ErrorCode::UrlUnsupported, message));
        };
        return pinned_client(&server, &ca_hash, Some(token(remote)?));
    }
    Ok(Client::new(&remote.url, &token(remote)?))
}

/// A client of a server whose authority has this hash.
fn pinned_client(server: &str, ca_hash: &CaHash, token: Option<String>) -> anyhow::Result<Client> {
    Ok(Client::over_tls(pinned(server, ca_hash)?, token))
}

/// A server whose authority has this hash.
pub(crate) fn pinned(server: &str, ca_hash: &CaHash) -> anyhow::Result<Servers> {
    Ok(Servers::new(vec![server.to_owned()], pinned_config(ca_hash, None)?, PeerName::Server.server_name()))
}

/// The address of a server, `host:port`, from its https URL. The port is 7000 if the URL names none.
pub(crate) fn https_server(url: &str) -> anyhow::Result<String> {
    let parsed = url.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("https"));
    let authority = parsed.and_then(|uri| uri.into_parts().authority).filter(|all| !all.as_str().contains('@'));
    match authority {
        Some(authority) => Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(CLUSTER_PORT))),
        None => Err(coded(ErrorCode::UrlUnsupported, format!("{url}: write for example https://m1:7000"))),
    }
}

/// Hashes of authorities by server, in the user's folder.
type Authorities = BTreeMap<String, CaHash>;

/// A file of the user's own folder.
fn own_file(name: &str) -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/gantry").join(name))
}

fn authorities_file() -> Option<PathBuf> {
    own_file("authorities.json")
}

fn authorities() -> Authorities {
    let text = authorities_file().and_then(|path| std::fs::read(path).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn known_authority(server: &str) -> Option<CaHash> {
    authorities().remove(server)
}

/// Keeps the hash of a server's authority, and its certificate for other clients such as git. Returns the path of the
/// certificate.
pub(crate) fn keep_authority(server: &str, ca_hash: &CaHash, certificate: &str) -> anyhow::Result<PathBuf> {
    let path = authorities_file().context("there is no HOME to keep the authority in")?;
    let mut known = authorities();
    known.insert(server.to_owned(), ca_hash.clone());
    let folder = path.parent().context("cannot find the folder of the authorities")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join(format!("authority-{ca_hash}.pem"));
    gantry_ledger::replace(&file, certificate.as_bytes())
        .with_context(|| format!("cannot write {}", file.display()))?;
    gantry_ledger::replace_json(&path, &known).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

/// Source of the token.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Variable(String),
    File(PathBuf),
}

/// The first source that exists. The machine's own token is in the data folder that GANTRY_DATA or the settings name, and
/// is only sent to the server on this machine.
fn source(remote: &Remote) -> Option<Source> {
    if let Ok(token) = std::env::var("GANTRY_TOKEN") {
        return Some(Source::Variable(token));
    }
    if let Some(path) = &remote.token_file {
        return Some(Source::File(path.clone()));
    }
    let own = own_file("token");
    let of_machine = is_here(&remote.url).then(|| admin_token(remote));
    let is_missing =
        |path: &PathBuf| std::fs::metadata(path).is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound));
    own.into_iter().chain(of_machine).find(|path| !is_missing(path)).map(Source::File)
}

/// The file of the administrator's token that `gantry up` makes.
fn admin_token(remote: &Remote) -> PathBuf {
    let data = std::env::var_os("GANTRY_DATA").map(PathBuf::from).or_else(|| remote.data.clone());
    data.unwrap_or_else(|| PathBuf::from(DATA)).join("admin-token")
}

fn token(remote: &Remote) -> anyhow::Result<String> {
    let token = match source(remote) {
        Some(Source::Variable(token)) => token,
        Some(Source::File(path)) => {
            let read = std::fs::read_to_string(&path);
            let read = read.with_context(|| {
                format!(
                    "cannot read the token in {}; name its file with --token-file or GANTRY_TOKEN_FILE",
                    path.display()
                )
            });
            read.with_code(ErrorCode::TokenFileUnreadable)?
        }
        None => {
            return Err(coded(ErrorCode::TokenMissing, missing_token(remote)));
        }
    };
    Ok(token.trim().to_owned())
}

/// Describes a missing token. On the server's own machine, `gantry up` makes the administrator's token; elsewhere, an
/// administrator has to make a token.
fn missing_token(remote: &Remote) -> String {
    let url = &remote.url;
    if is_here(url) {
        let file = admin_token(remote);
        let file = file.display();
        format!(
            "there is no token for the server on this machine: {file} does not exist; run `gantry up` as root, which makes \
             the file; if `gantry up` has another data folder, name its file with --token-file DATA/admin-token"
        )
    } else {
        format!(
            "there is no token for the server {url}; ask an administrator for a token of `gantry token create NAME --deploy \
             APP`, and set GANTRY_TOKEN to the token, or write it into ~/.config/gantry/token"
        )
    }
}

/// Names the source of a token that the server refused, and the server.
pub(crate) fn refused_token(remote: &Remote) -> String {
    let source = match source(remote) {
        Some(Source::File(path)) => path.display().to_string(),
        Some(Source::Variable(_)) | None => "the variable GANTRY_TOKEN".to_owned(),
    };
    format!(
        "the token is from {source}, and the server is {}; name the token file of this server with --token-file, or the \
         server of this token with --url",
        remote.url
    )
}

/// Returns whether the URL names this machine.
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

    fn remote(url: &str) -> Remote {
        Remote { url: url.to_owned(), token_file: None, config: None, data: None, json: false }
    }

    #[test]
    fn a_missing_token_has_the_remedy_of_the_machine() {
        let here = missing_token(&remote("http://127.0.0.1:4680"));
        assert!(here.contains("admin-token") && here.contains("`gantry up`"), "{here}");
        let elsewhere = missing_token(&remote("https://m1:7000"));
        assert!(elsewhere.contains("https://m1:7000") && elsewhere.contains("GANTRY_TOKEN"), "{elsewhere}");
        assert!(!elsewhere.contains("gantry up"), "{elsewhere}");
    }

    #[test]
    fn a_refused_token_is_reported_with_its_file_and_the_server() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("admin-token");
        let remote = Remote { token_file: Some(file.clone()), ..remote("http://127.0.0.1:4680") };
        let refusal = refused_token(&remote);
        assert!(
            refusal.contains(&file.display().to_string()) && refusal.contains("http://127.0.0.1:4680"),
            "{refusal}"
        );
    }

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
