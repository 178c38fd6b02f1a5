//! Sessions about volumes: each carries out one request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::frame::Frame;
use gantry_api::volumes::{VolumeAction, VolumeAnswer, VolumeRequest};
use gantry_api::{Problem, Session};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::transfer::{ArchiveChunk, IncomingArchive};
use super::{list, remove, show, snapshots, transfer};
use crate::AgentContext;
use crate::sessions::SessionError;
use crate::tasks::SESSION;

/// Interval of the empty frames that keep a session open while the agent works.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Timeout of the next piece of an archive, and of a client that does not close its connection.
const STALL_TIMEOUT: Duration = Duration::from_secs(600);

/// Number of frames between the connection and the thread that works.
const FRAME_BUFFER: usize = 16;

/// Carries out a request. Returns the exit status of the session.
pub(crate) async fn serve(
    agent: &Arc<AgentContext>,
    request: VolumeRequest,
    reader: ReadHalf<Session>,
    writer: &mut WriteHalf<Session>,
) -> Result<i32, SessionError> {
    let (sender, frames) = mpsc::channel(FRAME_BUFFER);
    let answer = match run_on_thread(work_of(Arc::clone(agent), request, reader, sender), frames, writer).await? {
        Ok(None) => return Ok(0),
        Ok(Some(answer)) => answer,
        Err(problem) => VolumeAnswer::Refused { problem },
    };
    let status = i32::from(matches!(answer, VolumeAnswer::Refused { .. }));
    let text = serde_json::to_vec(&answer).map_err(io::Error::from).map_err(SessionError::Connection)?;
    Frame::Answer(text).write(writer).await.map_err(SessionError::Connection)?;
    Ok(status)
}

/// Work of a session, on a thread that may block.
type Work = Box<dyn FnOnce() -> Result<Option<VolumeAnswer>, Problem> + Send>;

/// The work that a request asks for. Only an export keeps `sender`: the session has all frames once it is dropped.
fn work_of(
    own: Arc<AgentContext>,
    request: VolumeRequest,
    reader: ReadHalf<Session>,
    sender: mpsc::Sender<Frame>,
) -> Work {
    match request {
        VolumeRequest::List { app } => {
            Box::new(move || Ok(Some(VolumeAnswer::List { volumes: list(&own, app.as_ref()) })))
        }
        VolumeRequest::One { app, name, what } => {
            let key = (app, name);
            let one = |volume| Some(VolumeAnswer::One { volume: Box::new(volume) });
            match what {
                VolumeAction::Show => Box::new(move || show(&own, &key).map(one)),
                VolumeAction::Remove => Box::new(move || remove(&own, &key).map(one)),
                VolumeAction::Export(how) => Box::new(move || transfer::export(&own, &key, how, sender).map(|()| None)),
                VolumeAction::Import { replace, limit } => {
                    let archive = receive(&own, reader);
                    Box::new(move || transfer::import(&own, &key, replace, limit, archive).map(one))
                }
                VolumeAction::Snapshot(wanted) => Box::new(move || snapshots::create(&own, &key, wanted).map(Some)),
                VolumeAction::RemoveSnapshot { snapshot } => {
                    Box::new(move || snapshots::remove(&own, &key, &snapshot).map(one))
                }
                VolumeAction::Restore { snapshot } => {
                    Box::new(move || snapshots::restore(&own, &key, &snapshot).map(one))
                }
            }
        }
    }
}

/// Works on a thread of its own, and sends its frames. Work whose client is gone runs to its end.
async fn run_on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    mut frames: mpsc::Receiver<Frame>,
    writer: &mut WriteHalf<Session>,
) -> Result<T, SessionError> {
    let mut work = tokio::task::spawn_blocking(work);
    let mut alive = tokio::time::interval(KEEPALIVE_INTERVAL);
    let mut open = true;
    let result = loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv(), if open => match frame {
                Some(frame) => frame,
                None => {
                    open = false;
                    continue;
                }
            },
            result = &mut work, if !open => break result,
            _ = alive.tick() => Frame::Output(Vec::new()),
        };
        frame.write(writer).await.map_err(SessionError::Connection)?;
    };
    Ok(result?)
}

/// Receives an archive. Reads until the client closes the connection, even if nothing needs the archive any more: a
/// connection that is closed with unread data loses the answer.
fn receive(agent: &AgentContext, mut reader: ReadHalf<Session>) -> IncomingArchive {
    let (sender, pieces) = mpsc::channel(FRAME_BUFFER);
    agent.tasks.spawn(SESSION, async move {
        let mut sender = Some(sender);
        while let Ok(Ok(Some(frame))) = tokio::time::timeout(STALL_TIMEOUT, Frame::read(&mut reader)).await {
            let piece = match frame {
                Frame::Input(bytes) => ArchiveChunk::Bytes(bytes),
                Frame::InputEnd => ArchiveChunk::End,
                _ => continue,
            };
            if let Some(open) = &sender
                && open.send(piece).await.is_err()
            {
                sender = None;
            }
        }
    });
    IncomingArchive::new(pieces)
}
