//! `gantry up`: starts and minds server, agent and router. One that dies is started again; containers run on.
//!
//! It holds the listening socket and hands it to each router, so that connections wait in it while a router that died
//! is started again. On SIGHUP every service is replaced by the program as it is now on disk; the old router ends only
//! once the new one serves.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::args::Machine;
use crate::exit::{DONE, Exit};
use crate::machine::{program, require_root};
use crate::services::{LISTENER_ON_STDIN, MINDED_BY, asked_to_end, make_folders, open_listener, start_logging};

/// Pauses before a service that died is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// One that lived this long begins with the shortest pause again.
const STEADY: Duration = Duration::from_secs(60);

/// The longest that a service may take to end; a router drains.
const PATIENCE: Duration = Duration::from_secs(40);

/// The services, in the order they are started.
const SERVICES: [&str; 3] = ["server", "agent", "router"];

/// `gantry up`.
pub(crate) async fn run(machine: &Machine) -> anyhow::Result<Exit> {
    start_logging("up");
    require_root()?;
    make_folders(machine)?;
    let _lock = lock(machine)?;
    let listener = open_listener(machine)?;
    // Whoever asks while a service is still starting is told so by a refused connection; a taken port is told here.
    drop(
        TcpListener::bind(machine.listen)
            .with_context(|| format!("cannot listen on {}; choose another with --listen", machine.listen))?,
    );
    let mut services: Vec<Service> =
        SERVICES.iter().map(|name| Service::new(name, machine, &listener)).collect::<anyhow::Result<_>>()?;
    for service in &mut services {
        service.start()?;
    }
    eprintln!("Apps are served at http://<app>.{}:{}/", machine.domain, machine.http.port());
    mind(&mut services).await?;
    for service in services.iter_mut().rev() {
        service.end().await;
    }
    Ok(DONE)
}

/// One `up` per data folder. The lock goes with the process.
fn lock(machine: &Machine) -> anyhow::Result<std::fs::File> {
    use std::io::Write;
    let path = machine.data.join("up.lock");
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another `gantry up` runs with the data folder {}", machine.data.display());
    }
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).context("cannot write the lock")?;
    Ok(file)
}

async fn mind(services: &mut [Service]) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let mut ending = std::pin::pin!(asked_to_end());
    loop {
        tokio::select! {
            () = &mut ending => return Ok(()),
            _ = hangup.recv() => {
                for service in services.iter_mut() {
                    service.replace().await?;
                }
            }
            index = first_ended(services) => services[index].restart().await?,
        }
    }
}

async fn first_ended(services: &mut [Service]) -> usize {
    let waiting = services.iter_mut().enumerate().map(|(index, service)| {
        Box::pin(async move {
            service.ended().await;
            index
        })
    });
    futures_util::future::select_all(waiting).await.0
}

struct Service {
    name: &'static str,
    arguments: Vec<String>,
    listener: Option<TcpListener>,
    child: Option<Child>,
    started: Instant,
    backoff: Duration,
}

impl Service {
    fn new(name: &'static str, machine: &Machine, listener: &TcpListener) -> anyhow::Result<Self> {
        let listener = match name {
            "router" => Some(listener.try_clone().context("cannot share the listening socket")?),
            _ => None,
        };
        let arguments = arguments(name, machine)?;
        Ok(Self { name, arguments, listener, child: None, started: Instant::now(), backoff: BACKOFF.0 })
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let mut command = Command::new(program()?);
        command.args(&self.arguments).stdin(Stdio::null()).kill_on_drop(false);
        command.env(MINDED_BY, std::process::id().to_string());
        if let Some(listener) = &self.listener {
            let socket = OwnedFd::from(listener.try_clone().context("cannot share the listening socket")?);
            command.stdin(Stdio::from(socket)).env(LISTENER_ON_STDIN, "1");
        }
        command.spawn().with_context(|| format!("cannot start the {}", self.name))
    }

    fn start(&mut self) -> anyhow::Result<()> {
        self.child = Some(self.spawn()?);
        self.started = Instant::now();
        Ok(())
    }

    async fn ended(&mut self) {
        match &mut self.child {
            Some(child) => {
                let status = child.wait().await;
                tracing::error!(service = self.name, ?status, "ended; it is started again");
            }
            None => std::future::pending().await,
        }
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        if self.started.elapsed() >= STEADY {
            self.backoff = BACKOFF.0;
        }
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        // The program may be missing for a moment while it is updated.
        while let Err(error) = self.start() {
            tracing::error!(service = self.name, %error, "cannot be started; trying again");
            tokio::time::sleep(BACKOFF.1).await;
        }
        Ok(())
    }

    /// The program as it is now on disk takes this one's place. Two routers share the socket for a moment.
    async fn replace(&mut self) -> anyhow::Result<()> {
        tracing::info!(service = self.name, "replacing");
        if self.listener.is_some() {
            let fresh = self.spawn()?;
            // The new one accepts as soon as it has its table from disk; until then the old one does.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let old = self.child.replace(fresh);
            if let Some(old) = old {
                tokio::spawn(end(old));
            }
        } else {
            self.end().await;
            self.start()?;
        }
        self.started = Instant::now();
        Ok(())
    }

    async fn end(&mut self) {
        if let Some(child) = self.child.take() {
            end(child).await;
        }
    }
}

async fn end(mut child: Child) {
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// A service's command line: every setting said, so that the process list tells how it runs.
fn arguments(name: &str, machine: &Machine) -> anyhow::Result<Vec<String>> {
    let path = |path: &std::path::Path| path.display().to_string();
    let mut arguments = vec![name.to_owned()];
    let mut add = |flag: &str, value: String| arguments.extend([format!("--{flag}"), value]);
    add("machine", machine.name()?.to_string());
    add("data", path(&machine.data));
    add("run", path(&machine.run));
    add("listen", machine.listen.to_string());
    add("http", machine.http.to_string());
    add("domain", machine.domain.to_string());
    add("network", format!("{}/{}", machine.network.0, machine.network.1));
    add("bridge", machine.bridge.clone());
    add("cgroup", machine.cgroup.clone());
    add("watch", machine.watch.to_string());
    add("drain", machine.drain.to_string());
    if let Some(store) = &machine.store {
        let text = match store {
            gantry_store::Address::File(file) => path(file),
            gantry_store::Address::Etcd { endpoints, prefix } => {
                let hosts: Vec<&str> = endpoints.iter().map(|url| url.trim_start_matches("http://")).collect();
                format!("etcd://{}/{}", hosts.join(","), prefix.trim_end_matches('/'))
            }
        };
        add("store", text);
    }
    if let (Some(address), Some(certificate), Some(key)) = (machine.https, &machine.tls_cert, &machine.tls_key) {
        add("https", address.to_string());
        add("tls-cert", path(certificate));
        add("tls-key", path(key));
    }
    Ok(arguments)
}
