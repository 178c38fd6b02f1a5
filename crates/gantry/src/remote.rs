//! The server and the token that a command uses.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Context;
use gantry_api::{Client, ErrorCode};

use crate::args::Remote;
use crate::coded::{WithCode, coded};

/// Default data folder of a server, on the server's machine. The folder holds the first administrator's token.
const DATA: &str = "/var/lib/gantry";

/// Creates a client. The token comes from the first of these sources: GANTRY_TOKEN, the named token file, the user's
/// own token file, the machine's token.
pub(crate) fn client(remote: &Remote) -> anyhow::Result<Client> {
    if remote.url.starts_with("https:") {
        let url = &remote.url;
        let message =
            format!("{url}: the server speaks plain HTTP; reach it over a tunnel (`ssh -L 4680:127.0.0.1:4680 HOST`)");
        return Err(coded(ErrorCode::UrlUnsupported, message));
    }
    Ok(Client::new(&remote.url, &token(remote)?))
}

/// Source of the token.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Variable(String),
    File(PathBuf),
}

/// The first source that exists; the machine's own token is only sent to the server on this machine.
fn source(remote: &Remote) -> Option<Source> {
    if let Ok(token) = std::env::var("GANTRY_TOKEN") {
        return Some(Source::Variable(token));
    }
    if let Some(path) = &remote.token_file {
        return Some(Source::File(path.clone()));
    }
    let own = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/gantry/token"));
    let data = remote.data.clone().unwrap_or_else(|| PathBuf::from(DATA));
    let of_machine = is_here(&remote.url).then(|| data.join("admin-token"));
    let is_missing =
        |path: &PathBuf| std::fs::metadata(path).is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound));
    own.into_iter().chain(of_machine).find(|path| !is_missing(path)).map(Source::File)
}

fn token(remote: &Remote) -> anyhow::Result<String> {
    let token = match source(remote) {
        Some(Source::Variable(token)) => token,
        Some(Source::File(path)) => {
            let read = std::fs::read_to_string(&path);
            let read = read.with_context(|| format!("cannot read the token in {}", path.display()));
            read.with_code(ErrorCode::TokenFileUnreadable)?
        }
        None => {
            let message = "no token: set GANTRY_TOKEN to one that `gantry token create` made, or put it into \
                           ~/.config/gantry/token; on the server's machine `--token-file DATA/admin-token` is the \
                           administrator's";
            return Err(coded(ErrorCode::TokenMissing, message));
        }
    };
    Ok(token.trim().to_owned())
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

    #[test]
    fn a_refused_token_is_told_with_its_file_and_the_server() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("admin-token");
        let remote = Remote {
            url: "http://127.0.0.1:4680".to_owned(),
            token_file: Some(file.clone()),
            config: None,
            data: None,
            json: false,
        };
        let said = refused_token(&remote);
        assert!(said.contains(&file.display().to_string()) && said.contains("http://127.0.0.1:4680"), "{said}");
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
