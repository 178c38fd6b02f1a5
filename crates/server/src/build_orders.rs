//! Orders to agents: builds, base images, pulls and build caches. The server sends the order on a session, and follows the
//! session until the verdict.
//!
//! An order can be repeated: an agent that ends early leaves nothing, and the next agent begins again. The id of the
//! session is the agent's right to read and write the server's blobs, for as long as the order is open.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use gantry_api::Problem;
use gantry_api::frame::Frame;
use gantry_build::{BuildError, Output, OutputEvent};
use gantry_control::builds::{BuildEvent, CacheOrder};
use gantry_control::sessions::SessionKind;
use gantry_model::{BuildPhase, Digest, MachineName};
use gantry_supervision::{Backoff, Retry};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::session_broker::OrderSession;
use crate::{Server, machine_choice};

/// Time that an order waits for an agent.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause after an agent did not take an order.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Timeout of the next frame. An agent sends one every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Maximum number of attempts of an order whose agent ends during the work.
const ATTEMPTS: u32 = 3;

/// Timeout for the end of a cancelled build. The agent ends what is left.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for a change to a build cache. Without the change, the agent finds out at the next build.
const CACHE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of machines that change their build caches at once.
const CACHES_AT_ONCE: usize = 32;

/// Longest line of an event.
const LINE_MAX: usize = 32 << 20;

/// Failure of an order to an agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// A build failed, or no agent carried out the order.
    #[error("{}", .0.message)]
    Failed(BuildError),
    /// A pull failed.
    #[error("{}", .0.message)]
    Refused(Problem),
    /// A pull led to this server's own registry.
    #[error("the image is in this cluster's own registry")]
    OwnRegistry,
}

impl From<OrderError> for BuildError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Failed(error) => error,
            other => Self::new(BuildPhase::Machine, other.to_string()),
        }
    }
}

/// End of a session with an agent.
enum Verdict {
    Done(Digest),
    Failed(OrderError),
    /// The agent cannot carry out the order: it is of an earlier version, and says why.
    Declined(String),
    /// The agent ended, or fell silent.
    Lost,
}

/// Lets an agent carry out a build, make a base or pull an image, and returns the digest of the image. Repeats the order if
/// the agent ends during the work. A base and a pull wait for a slot first; a build is in its deploy's slot.
pub(crate) async fn carry_out(server: &Server, order: SessionKind, output: &Output) -> Result<Digest, OrderError> {
    let off = || OrderError::Failed(cancelled());
    let _slot = match order {
        SessionKind::Build(_) => None,
        _ => Some(server.image_requests.slot(output).await.ok_or_else(off)?),
    };
    // Machines that did not take the order, or were lost during the work.
    let avoided = Mutex::new(Vec::new());
    let mut attempts = 0;
    loop {
        let (machine, mut session) = tokio::select! {
            opened = open(server, &order, &avoided) => opened?,
            () = output.cancelled() => return Err(off()),
        };
        let (note, error) = match follow(&mut TokioIo::new(&mut session.connection), output).await {
            Verdict::Done(image) => return Ok(image),
            Verdict::Failed(error) => return Err(error),
            Verdict::Lost => ("ended during the work: beginning again".to_owned(), agent_lost(&machine)),
            Verdict::Declined(why) => {
                let note = format!("does not take the order: {why}");
                (note, OrderError::Failed(BuildError::new(BuildPhase::Machine, why)))
            }
        };
        attempts += 1;
        if attempts == ATTEMPTS {
            return Err(error);
        }
        output.note(&format!("The agent of machine {machine} {note}"));
        avoid(&avoided, machine);
    }
}

/// Opens a session with an agent that takes the order. An agent that does not take the order is avoided from then on.
async fn open<'a>(
    server: &'a Server,
    order: &SessionKind,
    avoided: &Mutex<Vec<MachineName>>,
) -> Result<(MachineName, OrderSession<'a>), OrderError> {
    let attempt = || async {
        let machine = machine_for(server, order, &avoided.lock().unwrap_or_else(PoisonError::into_inner));
        match server.sessions.open_order(&machine, order.clone()).await {
            Ok(session) => Ok((machine, session)),
            Err(error) => {
                avoid(avoided, machine);
                Err(error)
            }
        }
    };
    let retry = Retry::new("order to an agent", Backoff::constant(RETRY_PAUSE));
    let opened = retry.until(Instant::now() + AGENT_TIMEOUT, attempt).await;
    opened.map_err(|error| OrderError::Failed(BuildError::new(BuildPhase::Machine, error)))
}

fn avoid(avoided: &Mutex<Vec<MachineName>>, machine: MachineName) {
    let mut avoided = avoided.lock().unwrap_or_else(PoisonError::into_inner);
    if !avoided.contains(&machine) {
        avoided.push(machine);
    }
}

fn agent_lost(machine: &MachineName) -> OrderError {
    let why = format!(
        "the agent of machine {machine} ended during the work, {ATTEMPTS} times; the output of `gantry up` says why"
    );
    OrderError::Failed(BuildError::new(BuildPhase::Machine, why))
}

/// The machine that carries out an order. Before the first report, one that is registered, or this server's own.
fn machine_for(server: &Server, order: &SessionKind, avoided: &[MachineName]) -> MachineName {
    let work: &str = match order {
        SessionKind::Build(order) => order.app.as_str(),
        SessionKind::Pull(order) => &order.reference,
        // Bases get one machine, so that mmdebstrap is needed there alone.
        _ => "",
    };
    let view = server.core.view();
    let expected = || view.records.machines.keys().next().unwrap_or(&server.settings.machine).clone();
    machine_choice::for_build(&view, work, avoided).unwrap_or_else(expected)
}

fn cancelled() -> BuildError {
    BuildError::new(BuildPhase::Compile, "the build was cancelled")
}

/// Passes the events of a session on to the output until the verdict. Ends the session when the build is cancelled.
async fn follow(session: &mut (impl AsyncRead + AsyncWrite + Unpin), output: &Output) -> Verdict {
    let mut pending = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(SILENCE_MAX, Frame::read(session)) => frame,
            () = output.cancelled() => {
                let _ = session.shutdown().await;
                let ended = async { while let Ok(Some(_)) = Frame::read(session).await {} };
                let _ = tokio::time::timeout(CANCEL_TIMEOUT, ended).await;
                return Verdict::Failed(OrderError::Failed(cancelled()));
            }
        };
        let piece = match frame {
            Ok(Ok(Some(Frame::Output(piece)))) => piece,
            Ok(Ok(Some(Frame::Failed(why)))) => return Verdict::Declined(why),
            _ => return Verdict::Lost,
        };
        pending.extend_from_slice(&piece);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(BuildEvent::Step { text }) => output.take(OutputEvent::Step(text)),
                Ok(BuildEvent::Note { text }) => output.take(OutputEvent::Note(text)),
                Ok(BuildEvent::Program { text }) => output.take(OutputEvent::Program(text)),
                Ok(BuildEvent::Done { image }) => return Verdict::Done(image),
                Ok(BuildEvent::Failed { phase, message, tail }) => {
                    return Verdict::Failed(OrderError::Failed(BuildError { phase, message, tail }));
                }
                Ok(BuildEvent::Refused { problem }) => return Verdict::Failed(OrderError::Refused(problem)),
                Ok(BuildEvent::OwnRegistry) => return Verdict::Failed(OrderError::OwnRegistry),
                Err(error) => {
                    tracing::error!(%error, "an agent sent an unknown event of a build");
                    return Verdict::Lost;
                }
            }
        }
        if pending.len() > LINE_MAX {
            tracing::error!("an agent sent an event of a build without an end");
            return Verdict::Lost;
        }
    }
}

/// Tells every agent about a change to the build caches. A failure is only logged: a build never uses the cache of
/// another app, and the agents collect caches of apps that no longer exist.
pub(crate) async fn change_cache(server: &Server, order: CacheOrder) {
    let machines = machine_choice::machines_by_report(&server.core.view()).reporting;
    let told = machines.into_iter().map(|machine| change_cache_of(server, machine, &order));
    futures_util::stream::iter(told).buffer_unordered(CACHES_AT_ONCE).collect::<()>().await;
}

async fn change_cache_of(server: &Server, machine: MachineName, order: &CacheOrder) {
    let told = async {
        let opened = server.sessions.open(&machine, SessionKind::Cache(order.clone())).await;
        let mut session = TokioIo::new(opened.map_err(|error| error.to_string())?);
        match Frame::read(&mut session).await {
            Ok(Some(Frame::Exit(0))) => Ok(()),
            Ok(Some(Frame::Failed(why))) => Err(why),
            _ => Err("the agent ended".to_owned()),
        }
    };
    let failure = match tokio::time::timeout(CACHE_TIMEOUT, told).await {
        Ok(Ok(())) => return,
        Ok(Err(why)) => why,
        Err(_) => "the agent did not answer in time".to_owned(),
    };
    tracing::warn!(%machine, ?order, failure, "cannot change a build cache now");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> (tempfile::TempDir, std::sync::Arc<Output>) {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Output::to(&folder.path().join("log"));
        (folder, output)
    }

    async fn sent(bytes: &[u8]) -> (Verdict, String) {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let (folder, output) = output();
        // Pieces that end anywhere in a line.
        for piece in bytes.chunks(7) {
            Frame::Output(piece.to_vec()).write(&mut far).await.expect("sent");
        }
        drop(far);
        let verdict = follow(&mut near, &output).await;
        (verdict, std::fs::read_to_string(folder.path().join("log")).expect("a log"))
    }

    #[tokio::test]
    async fn passes_the_output_on_until_the_verdict() {
        let events = [
            BuildEvent::Step { text: "one".into() },
            BuildEvent::Program { text: "two".into() },
            BuildEvent::Failed { phase: BuildPhase::Compile, message: "no".into(), tail: vec!["two".into()] },
            BuildEvent::Note { text: "too late".into() },
        ];
        let bytes: Vec<u8> = events
            .iter()
            .flat_map(|event| [serde_json::to_vec(event).expect("JSON"), b"\n".to_vec()].concat())
            .collect();
        let (verdict, log) = sent(&bytes).await;
        let Verdict::Failed(OrderError::Failed(error)) = verdict else { panic!("a verdict") };
        assert_eq!((error.phase, error.message.as_str(), error.tail.len()), (BuildPhase::Compile, "no", 1));
        assert_eq!(log, "-----> one\n       two\n");
    }

    #[tokio::test]
    async fn a_session_that_ends_without_a_verdict_is_lost() {
        for bytes in [&b""[..], b"{\"kind\":\"step\",\"text\":\"one\"}\n", b"{\"kind\":\"done\"", b"nonsense\n"] {
            assert!(matches!(sent(bytes).await.0, Verdict::Lost), "{}", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn an_agent_that_cannot_read_the_order_declines() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let (_folder, output) = output();
        Frame::Failed("update the machine".to_owned()).write(&mut far).await.expect("sent");
        let verdict = follow(&mut near, &output).await;
        assert!(matches!(verdict, Verdict::Declined(why) if why == "update the machine"));
    }

    #[tokio::test]
    async fn a_cancelled_build_ends_the_session() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let (_folder, output) = output();
        output.cancel();
        let agent = async move {
            assert!(matches!(Frame::read(&mut far).await, Ok(None)), "the server hung up");
        };
        let (verdict, ()) = tokio::join!(follow(&mut near, &output), agent);
        assert!(matches!(verdict, Verdict::Failed(_)));
    }
}
