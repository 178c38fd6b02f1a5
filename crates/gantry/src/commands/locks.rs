//! `gantry lock`. In a container of the app, the command asks the agent of the machine at `GANTRY_API`.

use std::time::Duration;

use anyhow::Context;
use gantry_api::endpoints::locks::{self as endpoints, TokenQuery};
use gantry_api::locks::{AcquireLock, HeldLock, LockHolder, LockInfo, RenewLock, WAIT_MAX};
use gantry_api::{Client, ClientError, ErrorCode};
use gantry_model::AppName;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::args::{Lock, LockName, LockRun, Remote};
use crate::coded::{WithCode, coded};
use crate::exit::{DONE, Exit, FAILED, TIMED_OUT, hint};
use crate::printer::{json as print_json, one_line, out, status};
use crate::remote;

/// Pause before the next attempt while the server cannot be reached.
const RETRY: Duration = Duration::from_millis(500);

/// Time between SIGTERM and SIGKILL for a command whose lock was lost.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// A lock, and the server to ask.
struct LockClient {
    client: Client,
    app: AppName,
    name: String,
}

pub(crate) async fn run(remote: &Remote, command: Lock, json: bool) -> anyhow::Result<Exit> {
    match command {
        Lock::Run(command) => run_under_lock(&LockClient::of(remote, command.name.clone())?, command).await,
        Lock::Show { name } => show(&LockClient::of(remote, name)?, json).await,
    }
}

impl LockClient {
    fn of(remote: &Remote, LockName { app, name }: LockName) -> anyhow::Result<Self> {
        if let Some(app) = app {
            return Ok(Self { client: remote::client(remote)?, app, name });
        }
        let of_container = (std::env::var("GANTRY_API"), std::env::var("GANTRY_APP"));
        let (Ok(url), Ok(app)) = of_container else {
            let message = format!("{name:?} names no app; write APP/{name}, or run this in a container of the app");
            return Err(coded(ErrorCode::InvalidArguments, message));
        };
        // The agent knows the container by its address, and looks at no token.
        Ok(Self { client: Client::new(&url, ""), app: app.parse()?, name })
    }

    async fn acquire(&self, ttl: u64, wait: u64) -> Result<HeldLock, ClientError> {
        let value = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let order = AcquireLock { ttl, wait, value: Some(value) };
        self.client.submit(&endpoints::Acquire { app: self.app.clone(), name: self.name.clone() }, &order).await
    }

    async fn renew(&self, token: i64) -> Result<HeldLock, ClientError> {
        let at = endpoints::Renew { app: self.app.clone(), name: self.name.clone() };
        self.client.submit(&at, &RenewLock { token, value: None }).await
    }

    async fn release(&self, token: i64) -> Result<(), ClientError> {
        let at = endpoints::Release { app: self.app.clone(), name: self.name.clone() };
        self.client.fetch_with(&at, &TokenQuery { token }).await
    }
}

async fn show(lock: &LockClient, json: bool) -> anyhow::Result<Exit> {
    let at = endpoints::Show { app: lock.app.clone(), name: lock.name.clone() };
    let info: LockInfo = lock.client.fetch(&at).await?;
    if json {
        print_json(&info)?;
        return Ok(DONE);
    }
    match info.holder {
        Some(LockHolder { token, value }) => {
            out!("held by {} with the token {token}; {} waiting", one_line(&value), info.waiting);
        }
        None => out!("free"),
    }
    Ok(DONE)
}

/// Reports whether the server says that another has the lock, or that the place in its line was lost.
fn is_taken(error: &ClientError) -> bool {
    let of = |code| matches!(error, ClientError::Problem(problem) if problem.code == code);
    of(ErrorCode::LockHeld.into()) || of(ErrorCode::LockLost.into())
}

/// Reports whether the next attempt may succeed.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Problem(problem) => problem.status >= 500 && problem.code != ErrorCode::AppQuotaExceeded.into(),
        _ => true,
    }
}

/// Waits for the lock, runs the command, and releases the lock.
async fn run_under_lock(lock: &LockClient, order: LockRun) -> anyhow::Result<Exit> {
    let ttl = Duration::from_millis(order.ttl).max(Duration::from_secs(2));
    let deadline = order.wait.map(|wait| Instant::now() + Duration::from_millis(wait));
    let (held, since) = loop {
        let left = deadline.map_or(WAIT_MAX, |deadline| deadline.saturating_duration_since(Instant::now()).as_secs());
        let since = Instant::now();
        match lock.acquire(ttl.as_secs(), left.min(WAIT_MAX)).await {
            Ok(held) => break (held, Instant::now()),
            Err(error) if is_taken(&error) || passes(&error) => {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    status!("gantry: {error}");
                    if let Some(hint) = hint(&error) {
                        status!("{hint}");
                    }
                    return Ok(TIMED_OUT);
                }
                if !is_taken(&error) || since.elapsed() < RETRY {
                    tokio::time::sleep(RETRY).await;
                }
            }
            Err(error) => return Err(error.into()),
        }
    };
    let [program, arguments @ ..] = order.command.as_slice() else {
        return Err(coded(ErrorCode::InvalidArguments, "name a command after --"));
    };
    let child = Command::new(program)
        .args(arguments)
        .env("GANTRY_LOCK_TOKEN", held.token.to_string())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program:?}; name a program of this machine after --"))
        .with_code(ErrorCode::InvalidArguments);
    let exit = match child {
        Ok(child) => follow(lock, child, held.token, ttl, since).await,
        Err(error) => Err(error),
    };
    // A lock that cannot be released ends by itself.
    if let Err(error) = lock.release(held.token).await
        && !is_taken(&error)
    {
        status!("gantry: cannot release the lock {}, which ends in {} s: {error}", lock.name, ttl.as_secs());
    }
    exit
}

/// Renews the lock while the command runs. A lock that was not renewed for two thirds of its time counts as lost.
async fn follow(
    lock: &LockClient,
    mut child: Child,
    token: i64,
    ttl: Duration,
    mut renewed: Instant,
) -> anyhow::Result<Exit> {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupted = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let lost = loop {
        let renewal = async {
            tokio::time::sleep_until(renewed + ttl / 4).await;
            let asked = Instant::now();
            loop {
                match lock.renew(token).await {
                    Ok(_) => return Ok(asked),
                    Err(error) if passes(&error) => tokio::time::sleep(RETRY.min(ttl / 10)).await,
                    Err(error) => return Err(error),
                }
            }
        };
        tokio::select! {
            status = child.wait() => return Ok(exit_of(status?)),
            renewal = tokio::time::timeout_at(renewed + ttl * 2 / 3, renewal) => match renewal {
                Ok(Ok(at)) => renewed = at,
                Ok(Err(error)) => break error.to_string(),
                Err(_) => break "the server could not be reached in time".to_owned(),
            },
            _ = terminated.recv() => signal(&child, Signal::TERM),
            // A terminal sends the signal to the command, too.
            _ = interrupted.recv() => {}
        }
    };
    status!("gantry: the lock {} was lost, and the command is stopped: {lost}", lock.name);
    signal(&child, Signal::TERM);
    let limit = KILL_AFTER.min(ttl / 6);
    if tokio::time::timeout(limit, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(FAILED)
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // The command may have ended meanwhile.
    pid.map(|pid| kill_process(pid, signal));
}

/// The exit code of the command; of a command that a signal ended, 128 and the signal's number, as shells do.
fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Exit(u8::try_from(code).unwrap_or(1))
}
