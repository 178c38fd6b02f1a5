//! `gantry join`: makes this machine a member of a cluster.
//!
//! ```text
//! id, key ─► join call over TLS, pinned by the token's hash ─► certificate ─► identity
//! ```
//! A command that is killed can be repeated with the same token, because the server knows the machine by its key. A machine
//! that was removed, or lost its certificate, joins again with a new token, and keeps its id and its data.

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::Duration;

use anyhow::Context;
use gantry_api::{Client, ClientError, Servers};
use gantry_control::endpoints;
use gantry_control::join::{JoinCall, JoinReply};
use gantry_error_codes::ErrorCode;
use gantry_failpoint::failpoint;
use gantry_model::{JoinRole, MachineId, MachineName};
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

/// Time in which a server that many machines ask at the same time admits this machine, and longest pause between two
/// attempts.
const ADMISSION: Duration = Duration::from_secs(60);
const ADMISSION_PAUSE_MAX: Duration = Duration::from_secs(10);

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
    let spread = admission_spread(&call.id);
    let joined =
        once_admitted(spread, async || once_open(async || client.submit(&endpoints::Join {}, &call).await).await).await;
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

/// Repeats a call while the server refuses it because too many machines join at the same time. `spread` is added to each
/// pause.
async fn once_admitted<T>(
    spread: Duration,
    mut call: impl AsyncFnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let deadline = Instant::now() + ADMISSION;
    let mut refusals = 0;
    loop {
        let error = match call().await {
            Ok(admitted) => return Ok(admitted),
            Err(error) => error,
        };
        let Some(pause) = admission_pause(&error, refusals).map(|pause| pause + spread) else { return Err(error) };
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        if refusals == 0 {
            status!("Too many machines join at the same time; trying again for up to {} s", ADMISSION.as_secs());
        }
        refusals += 1;
        tokio::time::sleep(pause).await;
    }
}

/// Pause after the server refused an attempt because too many machines join; `None` for any other error. The server names
/// the first pause, and each further pause is twice as long.
fn admission_pause(error: &ClientError, refusals: u32) -> Option<Duration> {
    let ClientError::Problem(problem) = error else { return None };
    if problem.code != ErrorCode::JoinRateLimited.into() {
        return None;
    }
    let first = problem.retry_after.unwrap_or(1).clamp(1, ADMISSION_PAUSE_MAX.as_secs());
    let pause = Duration::from_secs(first).saturating_mul(2_u32.saturating_pow(refusals));
    Some(pause.min(ADMISSION_PAUSE_MAX))
}

/// Part of each pause, different on each machine: machines that were refused together do not ask together again.
fn admission_spread(id: &MachineId) -> Duration {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    Duration::from_millis(hasher.finish() % 1000)
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
        let reply: String = once_open(async || client.post("/join", &()).await).await.expect("an answer");
        assert_eq!(reply, "here");
        server.await.expect("ended");
    }

    fn refusal(code: ErrorCode) -> ClientError {
        gantry_api::Problem::new(code, "no").retry_after(2).into()
    }

    #[tokio::test(start_paused = true)]
    async fn tries_again_until_the_server_admits_the_machine() {
        let begun = Instant::now();
        let mut attempts = 0;
        let admitted = once_admitted(Duration::from_millis(500), async || {
            attempts += 1;
            if attempts < 4 { Err(refusal(ErrorCode::JoinRateLimited)) } else { Ok(attempts) }
        });
        assert_eq!(admitted.await.expect("admitted"), 4);
        // 2, 4 and 8 s, and the spread.
        assert_eq!(begun.elapsed().as_millis() / 100, 155);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_server_that_admits_no_machine() {
        let begun = Instant::now();
        let refused = once_admitted(Duration::ZERO, async || Err::<(), _>(refusal(ErrorCode::JoinRateLimited)));
        let error = refused.await.expect_err("refused");
        assert!(admission_pause(&error, 0).is_some(), "{error}");
        assert!(begun.elapsed() <= ADMISSION && begun.elapsed() > ADMISSION / 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_no_call_that_the_server_refuses_for_another_cause() {
        let mut attempts = 0;
        let refused = once_admitted(Duration::ZERO, async || {
            attempts += 1;
            Err::<(), _>(refusal(ErrorCode::JoinTokenUsed))
        });
        refused.await.expect_err("refused");
        assert_eq!(attempts, 1);
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
