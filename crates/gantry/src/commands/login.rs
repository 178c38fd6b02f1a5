//! `gantry login`: the command line learns the authority of a cluster.

use anyhow::Context;
use gantry_api::ClientError;
use gantry_error_codes::ErrorCode;
use gantry_trust::CaHash;

use crate::args::Remote;
use crate::coded::WithCode;
use crate::exit::{DONE, Exit};
use crate::join::explain;
use crate::printer::{out, status};
use crate::remote;

/// Checks that the server's authority has the hash, and keeps hash and certificate in the user's folder.
pub(crate) async fn run(url: &str, ca_hash: &CaHash, remote: &Remote) -> anyhow::Result<Exit> {
    let server = remote::https_server(url)?;
    let servers = remote::pinned(&server, ca_hash)?;
    let unreachable = |source: std::io::Error| ClientError::Unreachable { url: url.to_owned(), source: source.into() };
    let chain = servers.certificates().await.map_err(|error| explain(unreachable(error), &server))?;
    // The handshake has found the authority in the chain.
    let certificate = ca_hash.find(&chain).context("the server shows no authority")?;
    let file = remote::keep_authority(&server, ca_hash, &certificate).with_code(ErrorCode::FileUnwritable)?;
    out!("the cluster at {url} is trusted");
    let has_token = remote::client(&Remote { url: url.to_owned(), ..remote.clone() }).is_ok();
    status!("Use it with `--url {url}`, or set GANTRY_URL. For git, which verifies the authority by its certificate:");
    status!("git config --global http.https://{server}/.sslCAInfo {}", file.display());
    if !has_token {
        status!(
            "Put a token that `gantry token create NAME --deploy APP` made into ~/.config/gantry/token, or set GANTRY_TOKEN."
        );
    }
    Ok(DONE)
}
