//! The output of a running job, line by line.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::Session;
use gantry_api::frame::Frame;
use gantry_control::jobs::{JobId, JobLine};
use gantry_relay::LogTail;
use tokio::io::{ReadHalf, WriteHalf};

use super::outcome::job_line;
use crate::AgentContext;
use crate::sessions::SessionError;
use crate::workload::{Workload, WorkloadKind};

/// Poll interval of the log.
const POLL: Duration = Duration::from_millis(100);

/// Sends the lines of a job until its end, or until the server needs no more. A job that is unknown has no lines.
pub(crate) async fn send(
    agent: &Arc<AgentContext>,
    job: JobId,
    mut reader: ReadHalf<Session>,
    writer: &mut WriteHalf<Session>,
) -> Result<i32, SessionError> {
    let Some((name, _)) = agent.jobs.output_of(job) else { return Ok(0) };
    let logs = Workload::named(&agent.settings, WorkloadKind::Job, &name).paths().logs.clone();
    let mut tail = LogTail::new(gantry_relay::segments(&logs));
    let mut last: Option<JobLine> = None;
    loop {
        let ended = agent.jobs.output_of(job).and_then(|(_, ended)| ended);
        let is_over = ended.is_some() || agent.jobs.output_of(job).is_none();
        let lines = match ended {
            // The log may be gone already.
            Some(all) => after(all, last.as_ref()),
            None => {
                let read = tokio::task::spawn_blocking(move || {
                    let lines: Vec<JobLine> = tail.new_lines().into_iter().map(job_line).collect();
                    (lines, tail)
                });
                let lines;
                (lines, tail) = read.await?;
                lines
            }
        };
        for line in lines {
            let mut text = serde_json::to_vec(&line).map_err(io::Error::from).map_err(SessionError::Connection)?;
            text.push(b'\n');
            Frame::Output(text).write(writer).await.map_err(SessionError::Connection)?;
            last = Some(line);
        }
        if is_over || tokio::time::timeout(POLL, Frame::read(&mut reader)).await.is_ok() {
            return Ok(0);
        }
    }
}

/// The lines after the last one that was sent.
fn after(all: Vec<JobLine>, last: Option<&JobLine>) -> Vec<JobLine> {
    let Some(last) = last else { return all };
    match all.iter().rposition(|line| line == last) {
        Some(place) => all.into_iter().skip(place + 1).collect(),
        None => all.into_iter().filter(|line| line.at > last.at).collect(),
    }
}
