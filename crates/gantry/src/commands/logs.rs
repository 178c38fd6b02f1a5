//! `gantry logs`.

use std::io::Write;

use anyhow::bail;
use gantry_api::Client;
use gantry_api::frame::Frame;
use gantry_api::types::{LogLine, LogQuery};
use gantry_model::{AppName, Moment, RoleName};

use crate::exit::{DONE, Exit};
use crate::printer::{clock, now};

/// Arguments as a query.
pub(crate) fn query(
    follow: bool,
    lines: usize,
    since: Option<u64>,
    role: Option<RoleName>,
    grep: Option<String>,
) -> LogQuery {
    let since = since.map(|millis| Moment(now().0.saturating_sub(millis)));
    LogQuery { app: None, role, lines: Some(lines), since, grep, follow }
}

pub(crate) async fn run(client: &Client, app: &AppName, query: &LogQuery, json: bool) -> anyhow::Result<Exit> {
    let mut session = client.session(&format!("/v1/apps/{app}/logs"), query).await?;
    let mut out = std::io::stdout().lock();
    while let Some(frame) = Frame::read(&mut session).await? {
        match frame {
            Frame::Output(text) => {
                let written = if json { out.write_all(&text) } else { print(&mut out, &text) };
                // Whoever reads (a pager, `head`) has had enough.
                if written.and_then(|()| out.flush()).is_err() {
                    return Ok(DONE);
                }
            }
            Frame::Failed(message) => bail!(message),
            _ => return Ok(DONE),
        }
    }
    Ok(DONE)
}

fn print(out: &mut impl Write, text: &[u8]) -> std::io::Result<()> {
    let Ok(line) = serde_json::from_slice::<LogLine>(text) else {
        return Ok(());
    };
    let mark = if line.error { "!" } else { "|" };
    // Control characters of a log must not reach the terminal.
    let clean: String = line.text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
    writeln!(out, "{} {} {} {mark} {clean}", clock(line.at), line.instance.release, line.instance.short())
}
