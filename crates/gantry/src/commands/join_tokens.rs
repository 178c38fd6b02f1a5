//! `gantry cluster join-token`.

use gantry_api::Client;
use gantry_api::endpoints::cluster::CreateJoinToken;
use gantry_api::types::CreateJoinToken as Body;
use gantry_model::JoinRole;

use crate::exit::{DONE, Exit};
use crate::printer::{json as print_json, out, status};

pub(crate) async fn create(client: &Client, role: JoinRole, ttl: Option<u64>, json: bool) -> anyhow::Result<Exit> {
    let created = client.submit(&CreateJoinToken {}, &Body { role: role.into(), lifetime: ttl }).await?;
    if json {
        print_json(&created)?;
        return Ok(DONE);
    }
    status!("CA hash, for `gantry login URL --ca-hash HASH`: {}", created.ca_hash);
    status!("Run this on one machine, as root, before the token expires:");
    let server = created.servers.first().map_or("SERVER:7000", String::as_str);
    out!("gantry join {server} --token {}", created.token);
    Ok(DONE)
}
