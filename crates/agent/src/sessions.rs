//! Interactive sessions: exec, run, logs. The agent connects back to the server for each session.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::Session;
use gantry_api::frame::Frame;
use gantry_api::types::LogLine;
use gantry_control::endpoints::CallBack;
use gantry_control::sessions::{LogQuery, SessionKind, SessionRequest, UnreadSession};
use gantry_error::ErrorChain;
use gantry_linux::stream::NonblockingStream;
use gantry_model::{AllocationId, Moment};
use gantry_relay::LogTail;
use gantry_sandbox::{Container, ExecOutcome, ExecSession, ExecSpec, SandboxError, exec};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::container::{self, ExecError};
use crate::instance::InstanceError;
use crate::one_off::OneOff;
use crate::opens::{ContainerTrace, OpensError};
use crate::records::ContainerPaths;
use crate::tasks::{BUILD, SESSION};
use crate::{AgentContext, builds, jobs, volumes};

/// Keepalive interval of an idle session.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The maximum number of lines gathered from all instances at once.
const LINES_MAX: usize = 100_000;

/// Poll interval of a followed log.
const LOG_POLL: Duration = Duration::from_millis(100);

/// Opens a session that the server asks for. Refuses a session whose request this agent cannot read.
pub(crate) fn open(agent: &Arc<AgentContext>, request: Result<SessionRequest, UnreadSession>) {
    let request = match request {
        Ok(request) => request,
        Err(unread) => {
            tracing::warn!(kind = unread.kind, reason = unread.reason, "a session cannot be read; update this machine");
            agent.tasks.spawn(SESSION, refuse(Arc::clone(agent), unread));
            return;
        }
    };
    let kind = match request.kind {
        SessionKind::Build(_) | SessionKind::Base(_) | SessionKind::Pull(_) => BUILD,
        _ => SESSION,
    };
    agent.tasks.spawn(kind, open_session(Arc::clone(agent), request));
}

async fn refuse(agent: Arc<AgentContext>, unread: UnreadSession) {
    let Some(id) = unread.id.clone() else { return };
    if let Some((_, writer)) = call_back(&agent, &id).await {
        end(Err(unread.into()), writer).await;
    }
}

/// Opens the connection of a session; none if no client waits for the session any more.
async fn call_back(agent: &AgentContext, id: &str) -> Option<(ReadHalf<Session>, WriteHalf<Session>)> {
    let session = agent.client.open(&CallBack { id: id.to_owned() }, &()).await;
    session.ok().map(tokio::io::split)
}

/// Sends the result of a session, and ends its connection.
async fn end(result: Result<i32, SessionError>, mut writer: WriteHalf<Session>) {
    let last = match result {
        Ok(status) => Frame::Exit(status),
        Err(error) => Frame::Failed(ErrorChain(&error).to_string()),
    };
    let _ = last.write(&mut writer).await;
    let _ = writer.shutdown().await;
}

async fn open_session(agent: Arc<AgentContext>, request: SessionRequest) {
    let Some((reader, mut writer)) = call_back(&agent, &request.id).await else {
        return;
    };
    let result = match request.kind {
        SessionKind::Build(order) => return builds::run_build(agent, request.id, order, reader, writer).await,
        SessionKind::Base(order) => return builds::run_base(agent, request.id, order, reader, writer).await,
        SessionKind::Pull(order) => return builds::run_pull(agent, request.id, order, reader, writer).await,
        SessionKind::Space => send_space(&agent, &mut writer).await,
        SessionKind::Cache(order) => {
            builds::apply_cache_order(&agent, order).await.map(|()| 0).map_err(SessionError::Cache)
        }
        SessionKind::Exec { instance, command, terminal } => {
            exec_in_instance(&agent, &instance, command, terminal, reader, &mut writer).await
        }
        SessionKind::Run { app, release, spec, alone, command, terminal, trace } => {
            match OneOff::start(&agent, app, release, *spec, alone, command, terminal).await {
                Ok(once) => {
                    let result = run_one_off(&once, trace, reader, &mut writer).await;
                    once.end().await;
                    result
                }
                Err(error) => Err(error.into()),
            }
        }
        SessionKind::Volumes { request } => volumes::serve(&agent, request, reader, &mut writer).await,
        SessionKind::JobOutput { job } => jobs::output::send(&agent, job, reader, &mut writer).await,
        SessionKind::Logs(query) => send_logs(&agent, &query, reader, &mut writer).await,
    };
    end(result, writer).await;
}

/// Reason why a session failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Unread(#[from] UnreadSession),
    #[error("{0} does not run on this machine")]
    NotHere(AllocationId),
    #[error(transparent)]
    OneOff(#[from] InstanceError),
    #[error(transparent)]
    Prepare(#[from] ExecError),
    #[error(transparent)]
    Exec(SandboxError),
    #[error("cannot end the container before its report; run the report again")]
    End(#[source] SandboxError),
    #[error("cannot trace the opened files")]
    Opens(#[from] OpensError),
    #[error("cannot change a build cache")]
    Cache(#[source] io::Error),
    #[error("cannot open the streams of the process")]
    Streams(#[source] io::Error),
    /// The process could not be run: the worker's report, with its causes.
    #[error("{0}")]
    Process(String),
    #[error("cannot write to the client")]
    Connection(#[source] io::Error),
    #[error("the client disconnected")]
    Disconnected,
    #[error("a task of the agent ended early")]
    Task(#[from] tokio::task::JoinError),
}

async fn exec_in_instance(
    agent: &Arc<AgentContext>,
    id: &AllocationId,
    command: Vec<String>,
    terminal: bool,
    reader: ReadHalf<Session>,
    writer: &mut WriteHalf<Session>,
) -> Result<i32, SessionError> {
    let paths = ContainerPaths::of(&agent.settings, id);
    let gone = || SessionError::NotHere(id.clone());
    let record = paths.read_record().ok_or_else(gone)?;
    let container = Container::adopt(&paths.state, &paths.cgroup).ok_or_else(gone)?;
    let mut spec = container::exec_spec(agent, id, &record.spec, command).await?;
    spec.terminal = terminal;
    run_process(&container, spec, reader, writer).await
}

/// Runs the command of a one-off; with `trace`, reports which files of its image were opened.
async fn run_one_off(
    once: &OneOff,
    trace: bool,
    reader: ReadHalf<Session>,
    writer: &mut WriteHalf<Session>,
) -> Result<i32, SessionError> {
    let tracing = if trace { Some(ContainerTrace::begin(&once.container).await?) } else { None };
    let status = run_process(&once.container, once.exec.clone(), reader, writer).await?;
    if let Some(tracing) = tracing {
        // Processes that the command left behind open no further files.
        once.container.kill().await.map_err(SessionError::End)?;
        let report = serde_json::to_vec(&tracing.finish().await?).map_err(io::Error::from);
        let answer = Frame::Answer(report.map_err(SessionError::Connection)?);
        answer.write(writer).await.map_err(SessionError::Connection)?;
    }
    Ok(status)
}

/// Runs a process and carries its streams.
async fn run_process(
    container: &Container,
    mut spec: ExecSpec,
    reader: ReadHalf<Session>,
    writer: &mut WriteHalf<Session>,
) -> Result<i32, SessionError> {
    if spec.terminal {
        spec.env.push(("TERM".to_owned(), "xterm-256color".to_owned()));
    }
    let terminal = spec.terminal;
    let mut session = exec(container, spec).await.map_err(SessionError::Exec)?;
    let descriptors = std::mem::take(&mut session.descriptors);
    let streams = ProcessStreams::new(descriptors, terminal).map_err(SessionError::Streams)?;
    carry_streams(streams, session, reader, writer).await
}

/// An output stream of the process, and the kind of frame for its bytes.
type OutputStream = (Arc<NonblockingStream>, fn(Vec<u8>) -> Frame);

struct ProcessStreams {
    input: Arc<NonblockingStream>,
    /// True if `input` is a terminal, whose size can be set.
    terminal: bool,
    outputs: Vec<OutputStream>,
}

impl ProcessStreams {
    fn new(descriptors: Vec<OwnedFd>, terminal: bool) -> io::Result<Self> {
        let streams: io::Result<Vec<Arc<NonblockingStream>>> =
            descriptors.into_iter().map(|descriptor| NonblockingStream::new(descriptor).map(Arc::new)).collect();
        let mut streams = streams?.into_iter();
        let mut next = || streams.next().ok_or_else(|| io::Error::other("a stream is missing"));
        let input = next()?;
        let outputs: Vec<OutputStream> = if terminal {
            vec![(Arc::clone(&input), Frame::Output)]
        } else {
            vec![(next()?, Frame::Output), (next()?, Frame::Error)]
        };
        Ok(Self { input, terminal, outputs })
    }
}

/// Forwards a stream until its end. After the process has ended, forwards only the bytes that are already there: a
/// child left behind may keep the stream open for ever. A terminal reads EIO once the other side is closed.
async fn forward((stream, frame): OutputStream, sender: mpsc::Sender<Frame>, mut ended: watch::Receiver<bool>) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read(&mut buffer) => read,
            _ = ended.wait_for(|ended| *ended) => stream.try_read(&mut buffer),
        };
        let Ok(count @ 1..) = read else { return };
        if sender.send(frame(buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Carries input and the terminal's size to the process until the connection ends.
async fn carry_input(input: Arc<NonblockingStream>, terminal: bool, mut reader: ReadHalf<Session>) {
    let mut open = Some(input);
    while let Ok(Some(frame)) = Frame::read(&mut reader).await {
        match (frame, &open) {
            (Frame::Input(bytes), Some(stream)) if stream.write_all(&bytes).await.is_err() => open = None,
            (Frame::InputEnd, _) if !terminal => open = None,
            (Frame::Size(columns, rows), Some(stream)) if terminal => {
                let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                let _ = rustix::termios::tcsetwinsize(stream, size);
            }
            _ => {}
        }
    }
}

async fn carry_streams(
    streams: ProcessStreams,
    mut session: ExecSession,
    reader: ReadHalf<Session>,
    writer: &mut WriteHalf<Session>,
) -> Result<i32, SessionError> {
    let (sender, mut frames) = mpsc::channel::<Frame>(16);
    let (ending, ended) = watch::channel(false);
    // Dropping the set ends the tasks together with the session.
    let mut forwarding = JoinSet::new();
    for outlet in streams.outputs {
        forwarding.spawn(forward(outlet, sender.clone(), ended.clone()));
    }
    drop(sender);
    let outward = async {
        let mut outcome = std::pin::pin!(session.outcome());
        let mut result = None;
        let mut alive = tokio::time::interval(KEEPALIVE);
        loop {
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => frame.write(writer).await.map_err(SessionError::Connection)?,
                    None => break,
                },
                // An empty frame tests whether the client is still connected: a client whose machine is lost sends no
                // sign of that.
                _ = alive.tick() => {
                    Frame::Output(Vec::new()).write(writer).await.map_err(SessionError::Connection)?;
                }
                ended = &mut outcome, if result.is_none() => {
                    result = Some(ended);
                    ending.send_replace(true);
                }
            }
        }
        match result {
            Some(result) => Ok::<_, SessionError>(result),
            None => Ok(outcome.await),
        }
    };
    tokio::select! {
        // The client disconnected. Dropping the session ends the process together with its worker.
        () = carry_input(streams.input, streams.terminal, reader) => Err(SessionError::Disconnected),
        result = outward => match result? {
            ExecOutcome::Exited(status) => Ok(status),
            ExecOutcome::Failed(report) => Err(SessionError::Process(report)),
        }
    }
}

/// Folders of this machine in the data folder, reported by name. `router` has the access log.
const SPACE_KINDS: [&str; 9] =
    ["layers", "shared-layers", "images", "caches", "logs", "volumes", "containers", "trash", "router"];

/// Measures the disk usage of this machine.
async fn send_space(agent: &Arc<AgentContext>, writer: &mut WriteHalf<Session>) -> Result<i32, SessionError> {
    let data = agent.settings.data.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let size = |kind: &str| gantry_linux::tree::usage(&data.join(kind), u64::MAX).unwrap_or_default();
        SPACE_KINDS.iter().map(|kind| ((*kind).to_owned(), size(kind))).collect::<BTreeMap<String, u64>>()
    });
    let text = serde_json::to_vec(&measured.await?).map_err(io::Error::from).map_err(SessionError::Connection)?;
    Frame::Output(text).write(writer).await.map_err(SessionError::Connection)?;
    Ok(0)
}

async fn send_logs(
    agent: &Arc<AgentContext>,
    query: &LogQuery,
    mut reader: ReadHalf<Session>,
    writer: &mut WriteHalf<Session>,
) -> Result<i32, SessionError> {
    let mut tails = BTreeMap::new();
    let mut most = query.lines.unwrap_or(LINES_MAX).min(LINES_MAX);
    let mut caught_up = false;
    loop {
        let (own, meant) = (Arc::clone(agent), query.clone());
        let gathered = tokio::task::spawn_blocking(move || {
            let lines = gather_lines(&own, &meant, &mut tails, most);
            (lines, tails)
        });
        let lines;
        (lines, tails) = gathered.await?;
        most = LINES_MAX;
        for line in lines {
            let mut text = serde_json::to_vec(&line).map_err(io::Error::from).map_err(SessionError::Connection)?;
            text.push(b'\n');
            Frame::Output(text).write(writer).await.map_err(SessionError::Connection)?;
        }
        if !query.follow {
            return Ok(0);
        }
        // An empty frame ends the lines that were there when the log was opened.
        if !std::mem::replace(&mut caught_up, true) {
            Frame::Output(Vec::new()).write(writer).await.map_err(SessionError::Connection)?;
        }
        if tokio::time::timeout(LOG_POLL, Frame::read(&mut reader)).await.is_ok() {
            return Ok(0);
        }
    }
}

/// The new lines of all selected instances since the last call, in order of time: at most the newest `most`.
fn gather_lines(
    agent: &AgentContext,
    query: &LogQuery,
    tails: &mut BTreeMap<AllocationId, LogTail>,
    most: usize,
) -> Vec<LogLine> {
    let Some(app) = &query.app else {
        return Vec::new();
    };
    let folder = agent.settings.data.join("logs").join(app.as_str());
    let ids = std::fs::read_dir(&folder).into_iter().flatten().flatten().filter_map(|entry| {
        let id = AllocationId::parse(entry.file_name().to_str()?)?;
        query.includes(&id).then_some(id)
    });
    let mut lines: Vec<(Moment, LogLine)> = Vec::new();
    for id in ids {
        let tail = tails
            .entry(id.clone())
            .or_insert_with(|| LogTail::new(gantry_relay::segments(&folder.join(id.to_string()))));
        let is_selected = |line: &gantry_relay::LogLine| {
            query.since.is_none_or(|since| line.at >= since)
                && query.grep.as_ref().is_none_or(|text| line.text.contains(text.as_str()))
        };
        let fresh = tail.new_lines().into_iter().filter(is_selected);
        // The lines of one instance keep their order even if the wall clock went back between them.
        let mut latest = Moment(0);
        lines.extend(fresh.map(|line| {
            latest = latest.max(line.at);
            (latest, LogLine { at: line.at, instance: id.clone(), error: line.error, text: line.text })
        }));
        // Truncate for each instance: one instance may have hundreds of thousands of lines, and there may be hundreds
        // of instances.
        lines.sort_by_key(|(at, _)| *at);
        lines.drain(..lines.len().saturating_sub(most));
    }
    lines.into_iter().map(|(_, line)| line).collect()
}
