//! `gantry logs`.

use futures_util::StreamExt;
use gantry_api::Client;
use gantry_api::endpoints::sessions::{Logs, LogsQuery};
use gantry_api::types::LogItem;
use gantry_model::{AppName, Moment, RoleName};

use crate::exit::{DONE, Exit};
use crate::printer::{clock, now, out, status};

/// Selection of log lines.
pub(crate) struct LogSelection {
    pub(crate) follow: bool,
    pub(crate) lines: usize,
    /// Maximum age of a line in milliseconds.
    pub(crate) since: Option<u64>,
    pub(crate) role: Option<RoleName>,
    pub(crate) grep: Option<String>,
}

impl LogSelection {
    fn query(&self) -> LogsQuery {
        LogsQuery {
            lines: Some(self.lines),
            follow: self.follow,
            since: self.since.map(|age| Moment(now().0.saturating_sub(age))),
            role: self.role.clone(),
            grep: self.grep.clone(),
        }
    }
}

pub(crate) async fn run(client: &Client, app: &AppName, selection: &LogSelection, json: bool) -> anyhow::Result<Exit> {
    let mut lines = client.follow(&Logs { app: app.clone() }, &selection.query()).await?;
    let mut is_empty = true;
    while let Some(item) = lines.next().await {
        let item = item?;
        is_empty = false;
        if json {
            crate::printer::json_line(&item)?;
            continue;
        }
        let line = match item {
            LogItem::Line(line) => line,
            LogItem::Unreachable(machine) => {
                status!("lines of machine {} are missing: {}", machine.machine, machine.reason);
                continue;
            }
        };
        let mark = if line.error { "!" } else { "|" };
        // Control characters of a log must not reach the terminal.
        let clean: String = line.text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        out!("{} {} {} {mark} {clean}", clock(line.at), line.instance.slot.release, line.instance.short());
    }
    if is_empty {
        status!(
            "{app} has no such line; `gantry ps {app}` lists the instances with their roles, and `gantry why {app}` says what ended them"
        );
    }
    Ok(DONE)
}
