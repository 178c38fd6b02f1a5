//! The three services, each in its own process: server, agent and router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use gantry_api::Client;
use gantry_error_codes::ErrorCode;
use gantry_router::Listeners;
use gantry_supervision::{Backoff, OnPanic, OnShutdown, TaskKind, TaskSet};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Machine;
use crate::coded::{WithCode, require};
use crate::exit::{DONE, Exit};
use crate::handover::Handover;
use crate::machine::require_root;
use crate::membership::{self, Membership};
use crate::server_process;

/// Environment variable with the process id of the supervising `up`. The service ends together with that process.
pub(crate) const SUPERVISED_BY: &str = "GANTRY_MINDED_BY";

/// Binds this process to the `up` that started it. Returns true if that `up` has already ended.
pub(crate) fn is_orphan() -> bool {
    let Some(parent) = std::env::var(SUPERVISED_BY).ok().and_then(|text| text.parse::<i32>().ok()) else {
        return false;
    };
    // `up` starts the program through a file descriptor; without this line the process would be named after the
    // descriptor's number.
    let _ = rustix::thread::set_name(c"gantry");
    let bound = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    bound.is_err() || now != Some(parent)
}

/// Timeout for the machine token, which the server creates at its first start.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(60);

/// Keeps the machine's certificate and the list of servers up to date. Without the task, the certificate would expire
/// weeks later.
const MEMBERSHIP: TaskKind =
    TaskKind { name: "membership", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// Pause before the membership's task starts again.
const RESTART_PAUSE: Duration = Duration::from_secs(30);

/// Sets up logging on standard error, for a person at the terminal or for the system's journal.
pub(crate) fn start_logging(service: &'static str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("GANTRY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .compact()
        .try_init();
    tracing::debug!(service, "logging");
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn shutdown_requested() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

/// Runs `gantry server`. The server starts no container and needs no root: any user who owns the data folder may run it.
pub(crate) async fn server(machine: &Machine) -> anyhow::Result<Exit> {
    start_logging("server");
    make_folders(machine)?;
    let given = Handover::take()?.socket();
    let listen = || server_process::listen(given, machine.listen);
    gantry_server::run(machine.server()?, listen, shutdown_requested()).await?;
    Ok(DONE)
}

/// Runs `gantry agent`.
pub(crate) async fn agent(machine: &Machine) -> anyhow::Result<Exit> {
    start_logging("agent");
    require_root()?;
    make_folders(machine)?;
    let membership = Membership::open(machine)?;
    if let Some(membership) = &membership {
        gantry_agent::keep_machine_id(&machine.data, membership.id()).context("cannot keep this machine's id")?;
    }
    let credentials = membership.as_ref().map(Membership::credentials);
    let client = service_client(machine, membership, true).await?;
    gantry_agent::run(machine.agent()?, credentials, client, shutdown_requested()).await?;
    Ok(DONE)
}

/// Runs `gantry router`.
pub(crate) async fn router(machine: &Machine) -> anyhow::Result<Exit> {
    start_logging("router");
    make_folders(machine)?;
    let mut handover = Handover::take()?;
    let listeners = listeners(machine, &mut handover)?;
    let membership = Membership::open(machine)?;
    let settings = machine.router(membership.as_ref().map(Membership::credentials))?;
    let client = service_client(machine, membership, false).await?;
    gantry_router::run(settings, listeners, client, || handover.accept(), shutdown_requested()).await?;
    Ok(DONE)
}

/// The router's sockets. `up` hands them over, so that no connection is refused while a new router replaces an old one.
/// A router that was started by hand opens its own sockets.
fn listeners(machine: &Machine, handover: &mut Handover) -> anyhow::Result<Listeners> {
    match handover.socket() {
        Some(plain) => {
            let secure = machine.https.and_then(|_| handover.socket());
            Ok(Listeners { plain, secure, tunnel: handover.socket() })
        }
        None => open_listeners(machine),
    }
}

/// Opens the sockets for the apps' HTTP and HTTPS requests, and for the tunnels of a machine in a cluster.
pub(crate) fn open_listeners(machine: &Machine) -> anyhow::Result<Listeners> {
    let open = |address, flag| {
        listen(address)
            .with_context(|| format!("cannot listen on {address}; choose another with --{flag}"))
            .with_code(ErrorCode::AddressUnavailable)
    };
    let secure = machine.https.map(|address| open(address, "https")).transpose()?;
    let tunnel = machine.tunnel.filter(|_| membership::folder(machine).is_dir());
    let tunnel = tunnel.map(|address| open(address, "tunnel")).transpose()?;
    Ok(Listeners { plain: open(machine.http, "http")?, secure, tunnel })
}

/// Opens a socket. A socket on the unspecified IPv6 address takes IPv4 connections, too; a machine without IPv6 has IPv4
/// alone.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|error| {
        let has_no_ipv6 = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
        let is_unspecified = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        if has_no_ipv6 && is_unspecified {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        } else {
            Err(error)
        }
    })
}

pub(crate) fn make_folders(machine: &Machine) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    for folder in [&machine.data, &machine.run] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make {}", folder.display()))
            .with_code(ErrorCode::FileUnwritable)?;
    }
    // The data folder holds configurations and tokens, so an existing folder must be closed to other users as well.
    let mode = std::fs::metadata(&machine.data)?.mode() & 0o777;
    let data = machine.data.display();
    require!(
        mode & 0o077 == 0,
        DataFolderOpen,
        "others may read the data folder {data} (mode {mode:o}), which holds secrets: chmod 700 {data}"
    );
    Ok(())
}

/// Creates a client of the servers. On a machine that has joined a cluster, the machine's certificate authenticates the
/// client, and a task keeps the certificate up to date. Otherwise the client has the machine's own token, which the server
/// creates at its first start.
async fn service_client(machine: &Machine, membership: Option<Membership>, renews: bool) -> anyhow::Result<Client> {
    if let Some(membership) = membership {
        let client = membership.client();
        let keep = move || membership.clone().keep(renews);
        TaskSet::default().spawn_restarting(MEMBERSHIP, Backoff::constant(RESTART_PAUSE), keep);
        return Ok(client);
    }
    let path = machine.data.join("machine-token");
    let token = tokio::time::timeout(TOKEN_TIMEOUT, read_when_there(&path))
        .await
        .with_context(|| format!("there is no machine token at {}; start the server first", path.display()))
        .with_code(ErrorCode::MachineTokenMissing)?;
    Ok(Client::new(&machine.server_url(), &token))
}

async fn read_when_there(path: &Path) -> String {
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => return text.trim().to_owned(),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
