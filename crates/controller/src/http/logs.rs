//! `GET /v1/apps/{app}/logs`: relays an agent's log lines one by one.

use std::sync::Arc;

use axum::extract::{Path, State};
use gantry_admission::find_app;
use gantry_api::frame::Frame;
use gantry_api::types::{LogLine, LogQuery, SessionKind};
use gantry_api::{ErrorCode, Problem};
use gantry_model::{Moment, RoleName};
use http::HeaderMap;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::{HttpResult, Params, sessions, stream};
use crate::Server;

/// Size limit of a JSON line from the agent. The log relay cuts the application's own lines far below this limit.
const LINE_MAX: usize = 4 << 20;

/// Capacity of the queue between agent and client, in lines.
const QUEUE_CAPACITY: usize = 256;

#[derive(Deserialize)]
pub(crate) struct LogsQuery {
    role: Option<RoleName>,
    lines: Option<usize>,
    /// Oldest time wanted, in Unix milliseconds.
    since: Option<u64>,
    grep: Option<String>,
    #[serde(default)]
    follow: bool,
}

pub(crate) async fn read(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    headers: HeaderMap,
    Params(query_parameters): Params<LogsQuery>,
) -> HttpResult {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    find_app(&view.records, &app)?;
    let machine = sessions::any_machine(&view)?;
    let LogsQuery { role, lines, since, grep, follow } = query_parameters;
    let query = LogQuery {
        app: Some(app),
        role,
        lines,
        since: since.map(|since| view.jumps.earliest_stamp(view.now, Moment(since))),
        grep,
        follow,
    };
    let opened = server.sessions.open(&machine, SessionKind::Logs(query)).await;
    let mut agent = TokioIo::new(opened.map_err(|why| Problem::new(ErrorCode::AgentUnreachable, why.to_string()))?);
    let (sender, receiver) = mpsc::channel::<LogLine>(QUEUE_CAPACITY);
    tokio::spawn(async move {
        let mut line_bytes = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = Frame::read(&mut agent) => frame,
                // The client disconnected; the closed session tells the agent.
                () = sender.closed() => return,
            };
            let Ok(Some(Frame::Output(text))) = frame else { return };
            // The agent sends a long line in several frames.
            line_bytes.extend_from_slice(&text);
            if !line_bytes.ends_with(b"\n") && line_bytes.len() < LINE_MAX {
                continue;
            }
            let line = serde_json::from_slice(&line_bytes);
            line_bytes.clear();
            if let Ok(line) = line
                && sender.send(line).await.is_err()
            {
                return;
            }
        }
    });
    stream::stream(&headers, receiver)
}
