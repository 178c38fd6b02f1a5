//! Checks: `GET` of the declared path, or a connection to the port, or that the process lives.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use gantry_model::{Command, Health, Probe, Role};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::listening;
use crate::status::now;

/// How much of an answer is shown, and how much of a good one is read.
const BODY_SHOWN: usize = 500;
const BODY_READ: usize = 1 << 20;

/// Where and how an instance is checked.
pub(crate) struct Check<'a> {
    pub(crate) role: &'a Role,
    pub(crate) address: Ipv4Addr,
    /// Of the container's pid 1, to explain a refusal with.
    pub(crate) pid: i32,
}

impl Check<'_> {
    fn health(&self) -> &Health {
        &self.role.health
    }

    /// One check; none when it passes.
    pub(crate) async fn probe(&self) -> Option<Probe> {
        let port = self.role.port?;
        let target = match &self.health().path {
            Some(path) => format!("GET http://{}:{port}{path}", self.address),
            None => format!("connect to {}:{port}", self.address),
        };
        let timeout = Duration::from_secs(u64::from(self.health().timeout.0));
        let outcome = match tokio::time::timeout(timeout, self.ask(port)).await {
            Ok(Ok(())) => return None,
            Ok(Err(failed)) => failed,
            Err(_) => {
                let timeout = self.health().timeout;
                (format!("no answer in {timeout}; answer sooner, or raise `health.timeout` of the role"), String::new())
            }
        };
        Some(Probe { target, outcome: outcome.0, body: outcome.1, at: now() })
    }

    /// An error is what to say, and the start of the body.
    async fn ask(&self, port: u16) -> Result<(), (String, String)> {
        let plain = |error: &dyn std::fmt::Display| (error.to_string(), String::new());
        let stream = match TcpStream::connect(SocketAddr::from((self.address, port))).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                // What Gantry builds runs by a command line; an image brings words.
                let foreign = matches!(self.role.command, Command::Argv(_));
                return Err((listening::explain(&listening::listening(self.pid), port, foreign), String::new()));
            }
            Err(error) => return Err(plain(&error)),
        };
        let Some(path) = &self.health().path else {
            return Ok(());
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| plain(&error))?;
        let driver = tokio::spawn(connection);
        let request = http::Request::get(path.as_str())
            .header(http::header::HOST, format!("{}:{port}", self.address))
            .header(http::header::USER_AGENT, "gantry-health")
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| plain(&error))?;
        let broken = |what: &str, error: &hyper::Error| {
            // What is behind it says more: which end of which body.
            let cause = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
            (format!("{what}: {cause}; let {path} answer in full"), String::new())
        };
        let answer = sender.send_request(request).await;
        let result = match answer {
            Ok(answer) if answer.status().is_success() || answer.status().is_redirection() => {
                let patience = Duration::from_secs(u64::from(self.health().timeout.0)) / 2;
                // A stream that goes on without a word is an answer too.
                let whole = tokio::time::timeout(patience, whole(answer.into_body())).await.unwrap_or(Ok(()));
                whole.map_err(|error| broken("its answer was cut", &error))
            }
            Ok(answer) => {
                let remedy = format!("let {path} answer 2xx or 3xx, or name another path (`health.path` of the role)");
                let outcome = format!("status {}; {remedy}", answer.status());
                Err((outcome, start_of(answer.into_body()).await))
            }
            Err(error) => Err(broken("no HTTP answer", &error)),
        };
        driver.abort();
        result
    }
}

/// Reads an answer to its end, or so much of one that has none.
async fn whole(mut body: hyper::body::Incoming) -> Result<(), hyper::Error> {
    let mut read = 0;
    while let Some(frame) = body.frame().await.transpose()? {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > BODY_READ {
            break;
        }
    }
    Ok(())
}

async fn start_of(mut body: hyper::body::Incoming) -> String {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() >= BODY_SHOWN {
            break;
        }
    }
    text.truncate(BODY_SHOWN);
    String::from_utf8_lossy(&text).into_owned()
}

/// What an instance that serves nobody must live. One that ends later than that is caught while the old release stands by,
/// and no request is lost by it.
const WORKER_SETTLE: Duration = Duration::from_secs(1);

/// An instance without a path is ready once it has lived this long; one that declares a path, as soon as it answers.
pub(crate) fn settle(role: &Role) -> Duration {
    match (&role.health.path, role.port) {
        (Some(_), _) => Duration::ZERO,
        (None, Some(_)) => Duration::from_secs(u64::from(role.health.settle.0)),
        (None, None) => WORKER_SETTLE,
    }
}
