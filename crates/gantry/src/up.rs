//! `gantry up`: starts and supervises server, agent and router. A service that dies is restarted; containers keep
//! running meanwhile.
//!
//! `up` owns the listening sockets and hands them to each router, so that connections queue in the sockets while a
//! crashed router restarts. On SIGHUP, `up` replaces every service with the program now on disk, after that program has
//! confirmed that it can take over (`upgrade`). The old router ends only once the new router serves.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_router::Listeners;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::args::{Machine, WaitFor};
use crate::coded::{WithCode, fail};
use crate::exit::{DONE, Exit};
use crate::handover::{ON_STDIN, Offer, ROUTER_NUMBER};
use crate::machine::require_root;
use crate::printer::told;
use crate::services::{MINDED_BY, asked_to_end, make_folders, open_listeners, start_logging};
use crate::settings;
use crate::upgrade::{self, Program};

/// Shortest and longest pause before a crashed service is restarted. A start that fails costs little, and an operator
/// who repairs the cause at night wants the service back at once.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A service that lived this long restarts with the shortest pause.
const STEADY: Duration = Duration::from_secs(2);

/// Timeout for a new router to serve; after that, the old router stays.
const SERVING: Duration = Duration::from_secs(20);

/// Timeout for a service to end; a router drains.
const PATIENCE: Duration = Duration::from_secs(40);

/// Timeout for a replaced router to end: the longest drain time that a role may have.
const LEAVING: Duration = Duration::from_secs(24 * 60 * 60);

/// Number of malloc arenas of the server and the agent. The C library's default is eight per core, and free memory in
/// one arena cannot serve another. Under deploys the server then grew to 24 MB instead of 15 MB (docs/benchmarks.md).
const ARENAS: &str = "2";

/// The services, in start order.
const SERVICES: [&str; 3] = ["server", "agent", "router"];

/// Runs `gantry up`.
pub(crate) async fn run(machine: &Machine) -> anyhow::Result<Exit> {
    start_logging("up");
    require_root()?;
    machine.check()?;
    make_folders(machine)?;
    let _lock = lock(machine)?;
    keep_settings(machine)?;
    let (accepted, program) = watch::channel(Arc::new(Program::of_this_process()?));
    let Listeners { plain, secure } = open_listeners(machine)?;
    // Reports a port in use now, then frees the port for the server. A client that connects before the server listens
    // gets a refused connection.
    drop(
        TcpListener::bind(machine.listen)
            .with_context(|| format!("cannot listen on {}; choose another with --listen", machine.listen))
            .with_code(ErrorCode::AddressUnavailable)?,
    );
    // Another cloud on this machine may use the same resources. An error here is better than an agent that restarts
    // again and again.
    gantry_agent::check_network(&machine.agent()?).await?;
    let mut sockets = vec![plain];
    sockets.extend(secure);
    let mut minders = Vec::new();
    for name in SERVICES {
        let sockets = if name == "router" { std::mem::take(&mut sockets) } else { Vec::new() };
        minders.push(Minder::start(Service::new(name, arguments(name, machine)?, sockets, program.clone()))?);
    }
    told!("Apps are served at http://<app>.{}:{}/", machine.domain, machine.http.port());
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let mut ending = std::pin::pin!(asked_to_end());
    loop {
        tokio::select! {
            () = &mut ending => break,
            _ = hangup.recv() => match newer(&program, machine).await {
                Ok(newer) => {
                    accepted.send_replace(Arc::new(newer));
                    for minder in &minders {
                        minder.replace().await;
                    }
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "the new program is not taken; the old one serves on"),
            }
        }
    }
    for minder in minders.into_iter().rev() {
        minder.end().await;
    }
    Ok(DONE)
}

/// Opens the program now on disk, if that program can take over.
async fn newer(program: &watch::Receiver<Arc<Program>>, machine: &Machine) -> anyhow::Result<Program> {
    let newer = program.borrow().newer()?;
    newer.ask(&arguments(upgrade::COMMAND, machine)?).await?;
    Ok(newer)
}

/// Records the machine's name and the settings for later commands. On a read-only disk the previous records stay.
fn keep_settings(machine: &Machine) -> anyhow::Result<()> {
    let words = arguments("up", machine)?;
    let pairs: Vec<(String, String)> =
        words[1..].chunks_exact(2).map(|pair| (pair[0].trim_start_matches("--").to_owned(), pair[1].clone())).collect();
    let kept = machine.keep_name().and_then(|()| settings::record(machine, &pairs).context("cannot keep the settings"));
    if let Err(error) = kept {
        tracing::warn!(error = format!("{error:#}"), "`gantry down` and its like need the flags of this `up`");
    }
    Ok(())
}

/// Takes the lock of the data folder: one `up` per data folder. The lock ends with the process.
fn lock(machine: &Machine) -> anyhow::Result<std::fs::File> {
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

/// A command to a supervisor task, which replies once the command is done.
enum Order {
    Replace,
    End,
}

/// The task that supervises one service. Each service has its own task, so that a service in a crash loop delays no
/// other service.
struct Minder {
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
}

impl Minder {
    fn start(mut service: Service) -> anyhow::Result<Self> {
        service.start()?;
        let (orders, inbox) = mpsc::channel(1);
        tokio::spawn(service.supervise(inbox));
        Ok(Self { orders })
    }

    async fn order(&self, order: Order) {
        let (done, was_done) = oneshot::channel();
        if self.orders.send((order, done)).await.is_ok() {
            let _ = was_done.await;
        }
    }

    async fn replace(&self) {
        self.order(Order::Replace).await;
    }

    async fn end(self) {
        self.order(Order::End).await;
    }
}

struct Service {
    name: &'static str,
    arguments: Vec<String>,
    sockets: Vec<TcpListener>,
    /// The program that was accepted last.
    program: watch::Receiver<Arc<Program>>,
    /// The router's number; unused by the other services.
    number: u64,
    child: Option<Child>,
    started: Instant,
    backoff: Duration,
}

impl Service {
    fn new(
        name: &'static str,
        arguments: Vec<String>,
        sockets: Vec<TcpListener>,
        program: watch::Receiver<Arc<Program>>,
    ) -> Self {
        // Differs from every number of an earlier `up`.
        let number = jiff::Timestamp::now().as_millisecond().unsigned_abs();
        Self { name, arguments, sockets, program, number, child: None, started: Instant::now(), backoff: BACKOFF.0 }
    }

    fn spawn(&self) -> anyhow::Result<(Child, Offer)> {
        let (offer, stdin) = Offer::new(&self.sockets)?;
        let program = Arc::clone(&self.program.borrow());
        let mut command = program.command();
        command
            .args(&self.arguments)
            .env(MINDED_BY, std::process::id().to_string())
            .env(ON_STDIN, "1")
            .env(ROUTER_NUMBER, self.number.to_string())
            .stdin(stdin)
            .kill_on_drop(false);
        // A router runs one thread per core, and no thread waits for memory of another thread.
        if self.name != "router" {
            command.env("MALLOC_ARENA_MAX", ARENAS);
        }
        let spawned = command.spawn().with_context(|| format!("cannot start the {}", self.name));
        let child = spawned.with_code(ErrorCode::ServiceNotStarted)?;
        Ok((child, offer))
    }

    fn start(&mut self) -> anyhow::Result<()> {
        self.child = Some(self.spawn()?.0);
        self.started = Instant::now();
        Ok(())
    }

    /// Keeps the service running until the command to end.
    async fn supervise(mut self, mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>) {
        loop {
            tokio::select! {
                () = self.needed() => {
                    // The program may be missing for a moment during an update.
                    if let Err(error) = self.start() {
                        tracing::error!(service = self.name, %error, "cannot be started; trying again");
                    }
                }
                order = orders.recv() => match order {
                    Some((Order::Replace, done)) => {
                        self.replace().await;
                        let _ = done.send(());
                    }
                    Some((Order::End, done)) => {
                        self.end().await;
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                }
            }
        }
    }

    /// Returns when a start is due: the service has ended, and the back-off pause is over.
    async fn needed(&mut self) {
        if let Some(child) = &mut self.child {
            let status = child.wait().await;
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::error!(service = self.name, how, "ended; it is started again");
            self.child = None;
            if self.started.elapsed() >= STEADY {
                self.backoff = BACKOFF.0;
            }
        }
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    /// Replaces the service's process with the program now on disk.
    async fn replace(&mut self) {
        tracing::info!(service = self.name, "replacing");
        let result = if self.sockets.is_empty() {
            self.end().await;
            self.start()
        } else {
            self.replace_under_load().await
        };
        if let Err(error) = result {
            tracing::error!(service = self.name, error = format!("{error:#}"), "cannot be replaced");
        }
    }

    /// Replaces a router under load. Both routers share the sockets for a moment. The old router ends once the new one
    /// serves, and stays if the new one fails.
    async fn replace_under_load(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        let (mut fresh, offer) = self.spawn()?;
        match tokio::time::timeout(SERVING, offer.accepted()).await {
            Ok(Ok(())) => {}
            outcome => {
                let why = match (fresh.try_wait(), outcome) {
                    (Ok(Some(status)), _) => format!("it ended: {status}"),
                    (_, Ok(Err(error))) => error.to_string(),
                    _ => format!("no word of it in {} s", SERVING.as_secs()),
                };
                let _ = fresh.kill().await;
                fail!(ServiceNotStarted, "the new one does not serve ({why}); the old one stays");
            }
        }
        if let Some(old) = self.child.replace(fresh) {
            tokio::spawn(end(old, LEAVING));
        }
        self.started = Instant::now();
        Ok(())
    }

    async fn end(&mut self) {
        if let Some(child) = self.child.take() {
            end(child, PATIENCE).await;
        }
    }
}

async fn end(mut child: Child, timeout: Duration) {
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(timeout, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Command line of a service. All settings are explicit, so that the process list shows them.
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
    if !machine.host_ports.is_empty() {
        add("host-ports", comma_separated(&machine.host_ports));
    }
    if !machine.metadata.is_empty() {
        add("metadata", comma_separated(&machine.metadata));
    }
    add("cgroup", machine.cgroup.clone());
    add("watch", machine.watch.to_string());
    add("wait-for", if machine.wait_for == WaitFor::Bake { "bake" } else { "serving" }.to_owned());
    add("drain", machine.drain.to_string());
    add("deadline", machine.deadline.to_string());
    add("compile-time", machine.compile_time.to_string());
    add("collect-every", machine.collect_every.to_string());
    add("collect-grace", machine.collect_grace.to_string());
    add("reserve", machine.reserve.0.to_string());
    add("builds", machine.builds.to_string());
    add("compile-memory", machine.compile_memory.0.to_string());
    add("compile-disk", machine.compile_disk.0.to_string());
    if let Some(store) = &machine.store {
        let text = match store {
            gantry_store::StoreAddress::File(file) => path(file),
            gantry_store::StoreAddress::Etcd { endpoints, prefix } => {
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

fn comma_separated(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{Args, Command};

    fn machine(words: &[String]) -> Machine {
        match Args::try_parse_from(["gantry".to_owned()].iter().chain(words)).expect("a command line").command {
            Command::Up(machine) | Command::Server(machine) => machine,
            _ => panic!("{words:?}"),
        }
    }

    #[test]
    fn a_service_gets_every_setting_of_up() {
        let given = "up --machine m --data /d --run /r --listen 127.0.0.1:1 --http 127.0.0.1:2 --https 127.0.0.1:3 --tls-cert /c \
                     --tls-key /k --domain example --store etcd://h:2379/p --network 10.1.0.1/24 --bridge b --host-ports 5432 \
                     --metadata 169.254.169.254 --cgroup g --watch 1 --wait-for bake --drain 2 --deadline 3 --compile-time 4 \
                     --collect-every 5 --collect-grace 6 --reserve 7M --builds 8 --compile-memory 8M --compile-disk 9M";
        let up = machine(&given.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let passed = arguments("server", &up).expect("arguments");
        assert_eq!(format!("{:?}", machine(&passed)), format!("{up:?}"));
        // The command line above names every setting there is.
        let mut command = Args::command();
        let server = command.find_subcommand_mut("server").expect("the service");
        for setting in server.get_arguments().filter_map(clap::Arg::get_long) {
            let known = passed.contains(&format!("--{setting}"));
            assert!(known || setting == "help", "--{setting} is not passed on");
        }
    }
}
