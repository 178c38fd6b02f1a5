//! `GET /v1/apps/{app}/logs`: relays an agent's log lines one by one.

use gantry_admission::find_app;
use gantry_api::endpoints::sessions as endpoints;
use gantry_api::frame::Frame;
use gantry_api::types::{LogLine, LogQuery, SessionKind};
use gantry_api::{ErrorCode, Problem};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::call::Call;
use super::{HttpResult, sessions};

/// Size limit of a JSON line from the agent. The log relay cuts the application's own lines far below this limit.
const LINE_MAX: usize = 4 << 20;

/// Capacity of the queue between agent and client, in lines.
const QUEUE_CAPACITY: usize = 256;

pub(super) async fn read(Call { server, at, query, .. }: Call<endpoints::Logs>) -> HttpResult<mpsc::Receiver<LogLine>> {
    let view = server.core.view();
    find_app(&view.records, &at.app)?;
    let machine = sessions::any_machine(&view)?;
    let endpoints::LogsQuery { role, lines, since, grep, follow } = query;
    let since = since.map(|since| view.jumps.earliest_stamp(view.now, since));
    let query = LogQuery { app: Some(at.app), role, lines, since, grep, follow };
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
    Ok(receiver)
}
