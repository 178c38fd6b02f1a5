//! The supervisor of one service: starts the service, restarts it after a crash, and replaces it by a newer program.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gantry_error_codes::ErrorCode;
use gantry_supervision::{OnPanic, OnShutdown, TaskKind, TaskSet};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::coded::{WithCode, fail};
use crate::handover::{ON_STDIN, Offer, ROUTER_NUMBER};
use crate::server_process::ServerProcess;
use crate::services::SUPERVISED_BY;
use crate::upgrade::Program;

/// Shortest and longest pause before a crashed service is restarted. A start that fails costs little, and an operator
/// who repairs the cause at night wants the service back at once.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A service that lived this long restarts with the shortest pause.
const STEADY_UPTIME: Duration = Duration::from_secs(2);

/// Timeout for a new router to serve; after that, the old router stays.
const SERVING: Duration = Duration::from_secs(20);

/// Timeout for a service to end; a router drains.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// Timeout for a replaced router to end: the longest drain time that a role may have.
const LEAVING: Duration = Duration::from_secs(24 * 60 * 60);

/// Number of malloc arenas of the server and the agent. The C library's default is eight per core, and free memory in
/// one arena cannot serve another. Under deploys the server then grew to 24 MB instead of 15 MB (docs/benchmarks.md).
const ARENAS: &str = "2";

/// The supervision of one service.
const SUPERVISOR: TaskKind =
    TaskKind { name: "supervisor", on_shutdown: OnShutdown::Finish, on_panic: OnPanic::Shutdown };

/// The end of a replaced router.
const LEAVING_ROUTER: TaskKind =
    TaskKind { name: "end of a replaced router", on_shutdown: OnShutdown::Drop, on_panic: OnPanic::Continue };

/// A command to a supervisor task, which replies once the command is done.
enum Order {
    Replace,
    End,
}

/// The task that supervises one service. Each service has its own task, so that a service in a crash loop delays no
/// other service.
pub(crate) struct Supervisor {
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
}

impl Supervisor {
    /// Starts a service and its task. A panic of the task ends `tasks`: nothing else restarts the service.
    pub(crate) fn start(mut service: Service, tasks: &TaskSet) -> anyhow::Result<Self> {
        service.start()?;
        let (orders, inbox) = mpsc::channel(1);
        tasks.spawn(SUPERVISOR, service.supervise(inbox));
        Ok(Self { orders })
    }

    async fn order(&self, order: Order) {
        let (done, was_done) = oneshot::channel();
        if self.orders.send((order, done)).await.is_ok() {
            let _ = was_done.await;
        }
    }

    pub(crate) async fn replace(&self) {
        self.order(Order::Replace).await;
    }

    pub(crate) async fn end(self) {
        self.order(Order::End).await;
    }
}

/// A service with its process.
pub(crate) struct Service {
    name: &'static str,
    arguments: Vec<String>,
    /// Sockets of the service, which outlive each process.
    sockets: Vec<TcpListener>,
    /// The user, the folders and the socket of the server; none for the other services, which run as root.
    server: Option<ServerProcess>,
    /// The program that was accepted last.
    program: watch::Receiver<Arc<Program>>,
    /// The router's number; unused by the other services.
    number: u64,
    child: Option<Child>,
    started: Instant,
    backoff: Duration,
}

impl Service {
    pub(crate) fn new(
        name: &'static str,
        arguments: Vec<String>,
        sockets: Vec<TcpListener>,
        server: Option<ServerProcess>,
        program: watch::Receiver<Arc<Program>>,
    ) -> Self {
        // Differs from every number of an earlier `up`.
        let number = jiff::Timestamp::now().as_millisecond().unsigned_abs();
        let (started, backoff) = (Instant::now(), BACKOFF.0);
        Self { name, arguments, sockets, server, program, number, child: None, started, backoff }
    }

    fn spawn(&self) -> anyhow::Result<(Child, Offer)> {
        let own = self.server.as_ref().map(ServerProcess::before_start).transpose()?;
        let (offer, stdin) = Offer::new(self.sockets.iter().chain(&own))?;
        let program = Arc::clone(&self.program.borrow());
        let mut command = program.command();
        command
            .args(&self.arguments)
            .env(SUPERVISED_BY, std::process::id().to_string())
            .env(ON_STDIN, "1")
            .env(ROUTER_NUMBER, self.number.to_string())
            .stdin(stdin)
            .kill_on_drop(false);
        // A router runs one thread per core, and no thread waits for memory of another thread.
        if self.name != "router" {
            command.env("MALLOC_ARENA_MAX", ARENAS);
        }
        if let Some(server) = &self.server {
            server.confine(command.as_std_mut(), &program)?;
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
                        tracing::error!(service = self.name, %error, "cannot start the service; trying again");
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
            tracing::error!(service = self.name, how, "the service ended; starting it again");
            self.child = None;
            if self.started.elapsed() >= STEADY_UPTIME {
                self.backoff = BACKOFF.0;
            }
        }
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    /// Replaces the service's process with the program now on disk.
    async fn replace(&mut self) {
        tracing::info!(service = self.name, "replacing the service");
        let result = if self.sockets.is_empty() {
            self.end().await;
            self.start()
        } else {
            self.replace_under_load().await
        };
        if let Err(error) = result {
            tracing::error!(service = self.name, error = format!("{error:#}"), "cannot replace the service");
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
                    _ => format!("it did not report readiness in {} s", SERVING.as_secs()),
                };
                let _ = fresh.kill().await;
                fail!(ServiceNotStarted, "the new router does not serve ({why}); the old router goes on");
            }
        }
        if let Some(old) = self.child.replace(fresh) {
            TaskSet::default().spawn(LEAVING_ROUTER, end(old, LEAVING));
        }
        self.started = Instant::now();
        Ok(())
    }

    async fn end(&mut self) {
        if let Some(child) = self.child.take() {
            end(child, STOP_TIMEOUT).await;
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
