//! `GET /v1/apps/{app}/logs`: relays the log lines of all agents, merged by time.
//!
//! Logs belong to the machines that wrote them, and an app may have run anywhere. So the server asks every machine. A
//! machine that cannot be asked is an item of the response, and the lines of the others follow.
//!
//! - `source`: one machine's lines. - `merge`: the order of the lines of all machines.

mod merge;
mod source;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use gantry_admission::find_app;
use gantry_api::endpoints::sessions as endpoints;
use gantry_api::types::{LogItem, LogLine, UnreachableMachine};
use gantry_api::{ErrorCode, Problem};
use gantry_control::sessions::LogQuery;
use gantry_model::{MachineName, ReleaseNumber};
use tokio::sync::mpsc;

use self::source::{LogSource, SourceItem};
use super::HttpResult;
use super::call::Call;
use crate::Server;
use crate::machine_choice::{MachinesByReport, machines_by_report};
use crate::tasks::STREAM;

/// Capacity of the queue between agents and client, in lines.
const QUEUE_CAPACITY: usize = 256;

/// Maximum number of machines that are asked at once. Further machines are asked as others answer.
const CONCURRENT_REQUESTS: usize = 64;

/// Longest wait for the newest lines of a machine.
const NEWEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the newest lines of one machine, oldest first. A machine that cannot be asked gives none, and a slow machine those
/// that it sent in time.
pub(super) async fn newest_lines(server: &Arc<Server>, machine: MachineName, query: LogQuery) -> Vec<LogLine> {
    let mut lines = Vec::new();
    let reading = async {
        let Ok(mut source) = LogSource::open(server, machine, query).await else { return };
        while let Some(SourceItem::Line(line)) = source.next().await {
            lines.push(line);
        }
    };
    let _ = tokio::time::timeout(NEWEST_TIMEOUT, reading).await;
    lines
}

pub(super) async fn read(Call { server, at, query, .. }: Call<endpoints::Logs>) -> HttpResult<mpsc::Receiver<LogItem>> {
    let endpoints::LogsQuery { role, lines, since, grep, follow } = query;
    let (after, since, machines) = {
        let view = server.core.view();
        let earlier = find_app(&view.records, &at.app)?.earlier_releases;
        let after = Some(ReleaseNumber(earlier)).filter(|last| last.0 > 0);
        (after, since.map(|since| view.jumps.earliest_stamp(view.now, since)), machines_by_report(&view))
    };
    let query = LogQuery { app: Some(at.app), role, lines, since, grep, follow, after };
    let (sources, unreachable) = open_sources(&server, machines, &query).await?;
    let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
    server.tasks.spawn(STREAM, async move {
        let relayed = async {
            for machine in unreachable {
                sender.send(LogItem::Unreachable(machine)).await.ok()?;
            }
            let sources = match sources.len() {
                0 | 1 => sources,
                _ => merge::send_history(sources, lines, follow, &sender).await?,
            };
            merge::follow(sources, &sender).await
        };
        tokio::select! {
            _ = relayed => {}
            // The client disconnected; the closed sessions tell the agents.
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

/// Opens the log of every machine, and returns the machines that cannot be asked.
async fn open_sources(
    server: &Arc<Server>,
    machines: MachinesByReport,
    query: &LogQuery,
) -> HttpResult<(Vec<LogSource>, Vec<UnreachableMachine>)> {
    let MachinesByReport { mut reporting, silent } = machines;
    // A cluster without a machine that reports may have one that is back in a moment.
    let (reporting, mut unreachable) = if reporting.is_empty() {
        reporting.extend(silent);
        (reporting, Vec::new())
    } else {
        (reporting, silent.into_iter().map(UnreachableMachine::silent).collect())
    };
    if reporting.is_empty() {
        return Err(super::sessions::no_machine().into());
    }
    let opened = reporting.into_iter().map(|machine| LogSource::open(server, machine, query.clone()));
    let mut opened = futures_util::stream::iter(opened).buffered(CONCURRENT_REQUESTS);
    let mut sources = Vec::new();
    while let Some(opened) = opened.next().await {
        match opened {
            Ok(source) => sources.push(source),
            Err(refused) => unreachable.push(refused),
        }
    }
    match unreachable.first() {
        Some(first) if sources.is_empty() => {
            Err(Problem::new(ErrorCode::AgentUnreachable, first.reason.clone()).into())
        }
        _ => Ok((sources, unreachable)),
    }
}
