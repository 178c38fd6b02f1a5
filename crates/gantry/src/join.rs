//! `gantry join`: makes this machine a member of a cluster.
//!
//! ```text
//! id, key ─► join call over TLS, pinned by the token's hash ─► certificate ─► identity
//! ```
//! A command that is killed can be repeated with the same token, because the server knows the machine by its key. A machine
//! that was removed, or lost its certificate, joins again with a new token, and keeps its id and its data.

use std::error::Error;
use std::io;
use std::time::Duration;

use anyhow::Context;
use gantry_api::{Client, ClientError, Servers};
use gantry_control::endpoints;
use gantry_control::join::{JoinCall, JoinReply};
use gantry_error_codes::ErrorCode;
use gantry_failpoint::failpoint;
use gantry_model::{JoinRole, MachineName};
use gantry_trust::{Identity, JoinToken, PeerFailure, PeerName, peer_failure, pinned_config};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::args::{Join, Machine};
use crate::coded::{WithCode, coded, require};
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::membership::{self, CLUSTER_PORT};
use crate::printer::{json as print_json, out, status};
use crate::services::make_folders;
use crate::{server_tokens, up};

/// Time in which a server that has just started opens its cluster port, and pause between two attempts. The port opens
/// after the port of the API: the first server of a cluster writes the authority in between.
const OPENING: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Output of `gantry join --json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JoinOutput {
    /// Name of the machine in its cluster.
    pub(crate) machine: MachineName,
    /// `agent` or `server`.
    pub(crate) role: String,
    /// Network of the machine's containers.
    pub(crate) network: String,
}

/// Runs `gantry join`.
pub(crate) async fn run(arguments: &Join, json: bool) -> anyhow::Result<Exit> {
    let Join { server, token, labels, machine } = arguments;
    require_root()?;
    let token: JoinToken = token.parse().with_code(ErrorCode::InvalidJoinToken)?;
    make_folders(machine)?;
    let _lock = up::lock(machine)?;
    let known = membership::identity(machine)?;
    refuse_own_cloud(machine, known.is_some())?;
    let folder = membership::folder(machine);
    let id = gantry_agent::machine_id(&machine.data).context("cannot make this machine's id")?;
    let key = Identity::prepare_key(&folder)?;
    failpoint!("join.key");
    let call = JoinCall {
        token: token.reveal(),
        role: token.role(),
        machine: match (&machine.machine, known) {
            (None, Some(known)) => known.machine,
            _ => machine.name()?,
        },
        id: id.clone(),
        advertise: machine.advertise.clone(),
        port: machine.cluster_listen.map_or(CLUSTER_PORT, |address| address.port()),
        labels: labels.iter().cloned().collect(),
    };
    let config = pinned_config(token.ca(), Some(&key))?;
    let servers = Servers::new(vec![server.clone()], config, PeerName::Server.server_name());
    let client = Client::over_tls(servers, None);
    let joined = once_open(async || client.submit(&endpoints::Join {}, &call).await).await;
    let JoinReply { chain, ca, subnet, advertise, servers, store } = joined.map_err(|error| explain(error, server))?;
    failpoint!("join.joined");
    Identity::store_certificate(&folder, &chain, &ca)?;
    failpoint!("join.certificate");
    server_tokens::forget(&machine.data)?;
    let is_server = call.role == JoinRole::Server;
    let servers = if servers.is_empty() { vec![server.clone()] } else { servers };
    let machine = call.machine;
    let identity =
        Identity { machine, id, is_server, servers, subnet: Some(subnet), advertise: Some(advertise), store };
    identity.store(&folder)?;
    if json {
        let role = call.role.to_string();
        print_json(&JoinOutput { machine: identity.machine, role, network: subnet.to_string() })?;
        return Ok(DONE);
    }
    out!("machine {} has joined as {}; its containers have the network {subnet}", identity.machine, call.role);
    status!("Start it with `gantry up`.");
    Ok(DONE)
}

/// Repeats a call while the server's machine refuses connections, for a few seconds. Nothing was sent to a port that is not
/// open.
async fn once_open<T>(mut call: impl AsyncFnMut() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let deadline = Instant::now() + OPENING;
    loop {
        match call().await {
            Err(error) if is_refused(&error) && Instant::now() < deadline => tokio::time::sleep(RETRY_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Reports whether the kernel of the server's machine refused the connection.
fn is_refused(error: &ClientError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A machine with a cloud of its own would lose sight of its apps.
fn refuse_own_cloud(machine: &Machine, has_joined: bool) -> anyhow::Result<()> {
    let store = machine.data.join(crate::server_folder::NAME).join("store.db");
    require!(
        has_joined || !store.exists(),
        StoreExists,
        "this machine has a cloud of its own, whose records are in {}; use another folder with --data, or move the folder away",
        store.display()
    );
    Ok(())
}

/// Names the remedy of a failed TLS connection.
pub(crate) fn explain(error: ClientError, server: &str) -> anyhow::Error {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        match peer_failure(error) {
            Some(PeerFailure::Authority) => {
                let message = format!("the server at {server} belongs to another cluster than the token or the hash");
                return coded(ErrorCode::AuthorityMismatch, message);
            }
            Some(PeerFailure::Time) => {
                let message = format!(
                    "the certificate of the server at {server} is not valid at this machine's time; set the clocks"
                );
                return coded(ErrorCode::ClockOff, message);
            }
            Some(PeerFailure::Other) | None => cause = error.source(),
        }
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test has no set of tasks")]
    async fn waits_for_a_port_that_opens_late() {
        let address = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let client = Client::new(&format!("http://{address}"), "token");
        let server = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(600)).await;
            let (mut stream, _) = TcpListener::bind(address).await.expect("a port").accept().await.expect("a client");
            assert!(stream.read(&mut [0; 1024]).await.expect("a request") > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n\"here\"").await.expect("sent");
            stream
        });
        let said: String = once_open(async || client.post("/join", &()).await).await.expect("an answer");
        assert_eq!(said, "here");
        server.await.expect("ended");
    }

    #[tokio::test]
    async fn gives_up_on_a_closed_port() {
        let address = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let client = Client::new(&format!("http://{address}"), "token");
        let begun = Instant::now();
        let refused = once_open(async || client.post::<String>("/join", &()).await).await.expect_err("refused");
        assert!(is_refused(&refused) && begun.elapsed() < OPENING * 2, "{refused}: {:?}", begun.elapsed());
    }
}
