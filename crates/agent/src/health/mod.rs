//! Health checks. A check is a `GET` of the declared path, a command in the container, a connection to the port, or
//! only that the process lives.

mod command;
mod http;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use gantry_model::{FailedProbe, HealthSettings, Role, RoleCommand};
use gantry_sandbox::{Container, ExecSpec};
use tokio::net::TcpStream;

use crate::listening;
use crate::status::now;

/// Number of bytes shown of a response or of a command's output.
const BODY_SHOWN: usize = 500;

/// Parameters of an instance's check.
pub(crate) struct InstanceCheck<'a> {
    pub(crate) role: &'a Role,
    pub(crate) address: Ipv4Addr,
    pub(crate) container: &'a Container,
    /// The declared command, ready to run.
    pub(crate) command: Option<ExecSpec>,
    /// Time since the check of the container began.
    pub(crate) age: Duration,
}

impl InstanceCheck<'_> {
    fn health(&self) -> &HealthSettings {
        &self.role.health
    }

    /// Checks once; returns `None` if the check passes.
    pub(crate) async fn probe(&self) -> Option<FailedProbe> {
        let target = self.target()?;
        let timeout = Duration::from_secs(u64::from(self.health().timeout.0));
        let failed = match tokio::time::timeout(timeout, self.attempt()).await {
            Ok(Ok(())) => return None,
            Ok(Err(failed)) => failed,
            Err(_) => CheckFailure {
                remedy: Some("respond sooner, or raise `health.timeout` of the role".to_owned()),
                ..CheckFailure::because(format!("no response in {}", self.health().timeout))
            },
        };
        let CheckFailure { outcome, remedy, status, body } = failed;
        Some(FailedProbe { target, outcome, body, at: now(), check: self.brief(), status, remedy })
    }

    /// The target of the check; `None` where the process only has to live.
    fn target(&self) -> Option<String> {
        if let Some(command) = &self.health().command {
            return Some(format!("run {command}"));
        }
        let port = self.role.port?;
        Some(match &self.health().path {
            Some(path) => format!("GET http://{}:{port}{path}", self.address),
            None => format!("connect to {}:{port}", self.address),
        })
    }

    /// The check in short, without the instance's address.
    fn brief(&self) -> String {
        let port = self.role.port.unwrap_or_default();
        match (&self.health().command, &self.health().path) {
            (Some(command), _) => format!("run {command}"),
            (None, Some(path)) => format!("GET {path}"),
            (None, None) => format!("connect to port {port}"),
        }
    }

    async fn attempt(&self) -> Result<(), CheckFailure> {
        if let Some(command) = &self.command {
            return command::run_command(self.container, command.clone()).await;
        }
        let (Some(port), None) = (self.role.port, &self.health().command) else {
            return Err(CheckFailure::because("cannot enter the container".to_owned()));
        };
        let stream = match TcpStream::connect(SocketAddr::from((self.address, port))).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                // An image built by Gantry runs a command line; a foreign image has an argument vector.
                let foreign = matches!(self.role.command, RoleCommand::Argv(_));
                let pid = self.container.pid().unwrap_or_default();
                return Err(CheckFailure::because(refused(self.age, pid, port, foreign)));
            }
            Err(error) => return Err(CheckFailure::because(error.to_string())),
        };
        match &self.health().path {
            Some(path) => {
                let address = SocketAddr::from((self.address, port));
                http::HttpCheck { health: self.health(), protocol: self.role.protocol, path, address }
                    .attempt(stream)
                    .await
            }
            None => Ok(()),
        }
    }
}

/// Age from which on a refused connection is explained. Most programs listen within this time. The kernel looks through
/// the table of all connections of the machine for an explanation, which takes milliseconds, and the first checks follow
/// each other within milliseconds too.
const EXPLAINED_AFTER: Duration = Duration::from_secs(1);

/// Describes a refused connection to `port` of a container of that `age`, whose first process is `pid`.
fn refused(age: Duration, pid: i32, port: u16, foreign: bool) -> String {
    if age < EXPLAINED_AFTER {
        return format!("connection refused: the application accepts no connection on port {port} yet");
    }
    listening::explain(&listening::listening_sockets(pid), port, foreign)
}

/// The result of a failed check.
#[derive(Debug, Default)]
struct CheckFailure {
    /// The failure in words.
    outcome: String,
    /// The remedy.
    remedy: Option<String>,
    /// The HTTP status, if the status is the failure.
    status: Option<u16>,
    /// The start of the response's body, or the end of a command's output.
    body: String,
}

impl CheckFailure {
    fn because(outcome: String) -> Self {
        Self { outcome, ..Self::default() }
    }
}

/// Time that an instance without a port must live before it is ready. If such an instance ends later, the old release
/// is still standing by, and no request is lost.
const WORKER_MIN_UPTIME: Duration = Duration::from_secs(1);

/// Time that an instance must have lived before it is ready. With a declared path or command, the instance is ready as
/// soon as its check passes.
pub(crate) fn minimum_uptime(role: &Role) -> Duration {
    if role.health.path.is_some() || role.health.command.is_some() {
        Duration::ZERO
    } else if role.port.is_some() {
        Duration::from_secs(u64::from(role.health.settle.0))
    } else {
        WORKER_MIN_UPTIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_explained_once_most_programs_listen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let told = |age| refused(age, std::process::id().cast_signed(), port, false);
        let early = told(EXPLAINED_AFTER - Duration::from_millis(1));
        assert!(early.contains(&format!("no connection on port {port} yet")), "{early}");
        let late = told(EXPLAINED_AFTER);
        assert!(late.contains(&format!("listens only on 127.0.0.1:{port}")), "{late}");
    }
}
