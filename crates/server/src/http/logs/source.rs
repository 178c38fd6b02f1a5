//! The log lines of one machine: a session with its agent.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::frame::Frame;
use gantry_api::types::{LogLine, UnreachableMachine};
use gantry_control::sessions::{LogQuery, SessionKind};
use gantry_model::{MachineName, Moment};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::Server;

/// Size limit of a JSON line from the agent. The log relay cuts the application's own lines far below this limit.
const LINE_MAX: usize = 4 << 20;

/// Capacity of the queue of one machine, in lines.
const QUEUE_CAPACITY: usize = 64;

/// Timeout for an agent to call back. One machine in trouble must not delay the lines of the others for long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// An item from a machine.
#[derive(Debug)]
pub(super) enum SourceItem {
    Line(LogLine),
    /// All lines that were there when the log was opened have been sent.
    HistoryEnd,
    /// The session failed, for the reason that the agent gives.
    Failed(String),
}

/// The lines of one machine, in order. Dropping the value ends the session.
pub(super) struct LogSource {
    pub(super) machine: MachineName,
    items: mpsc::Receiver<SourceItem>,
    /// The latest time of a line so far. Lines keep their order even if the machine's clock went back between them.
    latest: Moment,
}

impl LogSource {
    /// Opens the log of a machine.
    pub(super) async fn open(
        server: &Arc<Server>,
        machine: MachineName,
        query: LogQuery,
    ) -> Result<Self, UnreachableMachine> {
        let kind = SessionKind::Logs(query.clone());
        match server.sessions.open_within(OPEN_TIMEOUT, &machine, kind).await {
            Ok(session) => Ok(Self::of(machine, query, TokioIo::new(session))),
            Err(error) => Err(UnreachableMachine { machine, reason: error.to_string() }),
        }
    }

    /// Reads the lines of a session.
    pub(super) fn of(machine: MachineName, query: LogQuery, session: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (sender, items) = mpsc::channel(QUEUE_CAPACITY);
        #[expect(clippy::disallowed_methods, reason = "a client that reads the items sees how the task ended")]
        tokio::spawn(async move {
            tokio::select! {
                () = read(session, &query, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Self { machine, items, latest: Moment(0) }
    }

    /// The next item; none when the session has ended. A dropped call loses no item.
    pub(super) async fn next(&mut self) -> Option<SourceItem> {
        self.items.recv().await
    }

    /// The time by which a line is ordered among those of other machines.
    pub(super) fn order(&mut self, line: &LogLine) -> Moment {
        self.latest = self.latest.max(line.at);
        self.latest
    }
}

/// Reads frames until the session ends. An agent of an earlier version may send lines that the query leaves out.
async fn read(mut session: impl AsyncRead + Unpin, query: &LogQuery, sender: &mpsc::Sender<SourceItem>) {
    let mut line = Vec::new();
    loop {
        let text = match Frame::read(&mut session).await {
            Ok(Some(Frame::Output(text))) => text,
            Ok(Some(Frame::Failed(reason))) => {
                let _ = sender.send(SourceItem::Failed(reason)).await;
                return;
            }
            _ => return,
        };
        if text.is_empty() {
            if sender.send(SourceItem::HistoryEnd).await.is_err() {
                return;
            }
            continue;
        }
        // The agent sends a long line in several frames.
        line.extend_from_slice(&text);
        if !line.ends_with(b"\n") && line.len() < LINE_MAX {
            continue;
        }
        let parsed = serde_json::from_slice::<LogLine>(&line);
        line.clear();
        if let Ok(parsed) = parsed
            && query.includes(&parsed.instance)
            && sender.send(SourceItem::Line(parsed)).await.is_err()
        {
            return;
        }
    }
}
