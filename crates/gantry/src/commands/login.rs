//! `gantry login`: the command line learns the authority of a cluster.

use gantry_error_codes::ErrorCode;
use gantry_trust::CaHash;

use crate::args::Remote;
use crate::coded::WithCode;
use crate::exit::{DONE, Exit};
use crate::join::explain;
use crate::printer::{out, told};
use crate::remote;

/// Checks that the server's authority has the hash, and keeps the hash in the user's folder.
pub(crate) async fn run(url: &str, ca_hash: &CaHash, remote: &Remote) -> anyhow::Result<Exit> {
    let server = remote::https_server(url)?;
    let client = remote::pinned_client(&server, ca_hash, None)?;
    // The API's document needs no token.
    let answered: Result<serde_json::Value, _> = client.get("/v1/openapi.json").await;
    answered.map_err(|error| explain(error, &server))?;
    remote::keep_authority(&server, ca_hash).with_code(ErrorCode::FileUnwritable)?;
    out!("the cluster at {url} is trusted");
    let has_token = remote::client(&Remote { url: url.to_owned(), ..remote.clone() }).is_ok();
    told!("Use it with `--url {url}`, or set GANTRY_URL.");
    if !has_token {
        told!("Put a token that `gantry token create` made into ~/.config/gantry/token, or set GANTRY_TOKEN.");
    }
    Ok(DONE)
}
