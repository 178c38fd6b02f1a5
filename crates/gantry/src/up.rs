//! `gantry up`: starts and supervises server, agent and router. A service that dies is restarted; containers keep
//! running meanwhile.
//!
//! The server runs as a user of its own (`server_process`), agent and router as root. `up` owns the router's listening
//! sockets and hands them to each router, so that connections queue in the sockets while a crashed router restarts. On
//! SIGHUP, `up` replaces every service with the program now on disk, after that program has confirmed that it can take
//! over (`upgrade`). The old router ends only once the new router serves.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_router::Listeners;
use gantry_supervision::TaskSet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::args::Machine;
use crate::coded::{WithCode, fail};
use crate::exit::{DONE, Exit};
use crate::machine::require_root;
use crate::membership;
use crate::printer::status;
use crate::server_process::{FolderId, ServerProcess};
use crate::service_arguments::arguments;
use crate::services::{make_folders, open_listeners, shutdown_requested, start_logging};
use crate::settings;
use crate::supervisor::{Service, Supervisor};
use crate::upgrade::{self, Program};

/// The services, in start order.
const SERVICES: [&str; 3] = ["server", "agent", "router"];

/// Runs `gantry up`.
pub(crate) async fn run(machine: &Machine) -> anyhow::Result<Exit> {
    start_logging("up");
    require_root()?;
    machine.check()?;
    make_folders(machine)?;
    let _lock = lock(machine)?;
    let identity = membership::identity(machine)?;
    let machine = &membership::settings(machine, identity.as_ref())?;
    // A machine that has joined as an agent runs no server.
    let has_server = identity.is_none_or(|identity| identity.is_server);
    keep_settings(machine)?;
    let server = has_server.then(|| ServerProcess::prepare(machine)).transpose()?;
    let (accepted, program) = watch::channel(Arc::new(Program::of_this_process()?));
    let Listeners { plain, secure, tunnel } = open_listeners(machine)?;
    if has_server {
        try_to_listen(machine.listen, "listen")?;
    }
    if let Some(address) = machine.cluster_listen.filter(|_| has_server) {
        try_to_listen(address, "cluster-listen")?;
    }
    // Another cloud on this machine may use the same resources. An error here is better than an agent that restarts
    // again and again.
    gantry_agent::check_network(&machine.agent()?).await?;
    let mut sockets = vec![plain];
    sockets.extend(secure);
    sockets.extend(tunnel);
    let own = server.as_ref().map_or_else(|| machine.clone(), |server| server.settings(machine));
    let (mut supervisors, tasks) = (Vec::new(), TaskSet::default());
    for name in SERVICES {
        let service = match name {
            "server" if !has_server => continue,
            "server" => Service::new(name, arguments(name, &own)?, Vec::new(), server.clone(), program.clone()),
            "router" => {
                Service::new(name, arguments(name, machine)?, std::mem::take(&mut sockets), None, program.clone())
            }
            _ => Service::new(name, arguments(name, machine)?, Vec::new(), None, program.clone()),
        };
        supervisors.push(Supervisor::start(service, &tasks)?);
    }
    status!("Apps are served on port {}; `gantry app ls` shows their addresses", machine.http.port());
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let mut ending = std::pin::pin!(shutdown_requested());
    let mut folder = server.as_ref().and_then(ServerProcess::folder);
    let is_whole = loop {
        tokio::select! {
            () = &mut ending => break true,
            () = tasks.ending() => break false,
            other = other_folder(server.as_ref(), folder) => {
                folder = Some(other);
                tracing::warn!("the server's data folder is another one now; starting the server in it");
                if let Some(supervisor) = supervisors.first() {
                    supervisor.replace().await;
                }
            }
            _ = hangup.recv() => match newer(&program, server.as_ref(), &own, machine).await {
                Ok(newer) => {
                    accepted.send_replace(Arc::new(newer));
                    for supervisor in &supervisors {
                        supervisor.replace().await;
                    }
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "the new program is refused; the old one goes on serving"),
            }
        }
    };
    for supervisor in supervisors.into_iter().rev() {
        supervisor.end().await;
    }
    if !is_whole {
        fail!(Internal, "the supervisor of a service panicked; start `gantry up` again");
    }
    Ok(DONE)
}

/// Reports an address in use now, then frees the address for the server.
fn try_to_listen(address: SocketAddr, flag: &str) -> anyhow::Result<()> {
    TcpListener::bind(address)
        .map(drop)
        .with_context(|| format!("cannot listen on {address}; choose another with --{flag}"))
        .with_code(ErrorCode::AddressUnavailable)
}

/// Waits for another folder in place of the server's data folder; for ever on a machine without a server.
async fn other_folder(server: Option<&ServerProcess>, known: Option<FolderId>) -> FolderId {
    match server {
        Some(server) => server.other_folder(known).await,
        None => std::future::pending().await,
    }
}

/// Opens the program now on disk, if that program can take over. `settings` are those of the server, and `machine` those
/// of agent and router.
async fn newer(
    program: &watch::Receiver<Arc<Program>>,
    server: Option<&ServerProcess>,
    settings: &Machine,
    machine: &Machine,
) -> anyhow::Result<Program> {
    let newer = program.borrow().newer()?;
    let known = newer.query_files(server, &arguments(upgrade::COMMAND, settings)?).await?;
    known.check(&machine.data)?;
    Ok(newer)
}

/// Records the machine's name and the settings for later commands. On a read-only disk the previous records stay.
fn keep_settings(machine: &Machine) -> anyhow::Result<()> {
    let words = arguments("up", machine)?;
    let pairs: Vec<(String, String)> =
        words[1..].chunks_exact(2).map(|pair| (pair[0].trim_start_matches("--").to_owned(), pair[1].clone())).collect();
    let kept = machine.keep_name().and_then(|()| settings::record(machine, &pairs).context("cannot keep the settings"));
    if let Err(error) = kept {
        tracing::warn!(error = format!("{error:#}"), "`gantry down` and similar commands need the flags of this `up`");
    }
    Ok(())
}

/// Takes the lock of the data folder: one `up` per data folder. The lock ends with the process.
pub(crate) fn lock(machine: &Machine) -> anyhow::Result<std::fs::File> {
    use std::io::Write;
    let path = machine.data.join("up.lock");
    let opened = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
    let is_read_only = opened.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem);
    // A cloud on a read-only disk can still serve, and a read-only file can be locked.
    let opened = if is_read_only { std::fs::File::open(&path) } else { opened };
    let opened = opened.with_context(|| format!("cannot open {}", path.display()));
    let mut file = opened.with_code(ErrorCode::FileUnwritable)?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        fail!(AlreadyRunning, "another `gantry up` runs with the data folder {}", machine.data.display());
    }
    if is_read_only {
        return Ok(file);
    }
    let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    written.with_context(|| format!("cannot write {}", path.display())).with_code(ErrorCode::FileUnwritable)?;
    Ok(file)
}
