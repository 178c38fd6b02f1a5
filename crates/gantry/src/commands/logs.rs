//! `gantry logs`.

use futures_util::StreamExt;
use gantry_api::Client;
use gantry_api::types::LogLine;
use gantry_model::{AppName, RoleName};
use http::Method;

use crate::exit::{DONE, Exit};
use crate::printer::{clock, now, out};

/// Selection of log lines.
pub(crate) struct Wanted {
    pub(crate) follow: bool,
    pub(crate) lines: usize,
    /// Maximum age of a line in milliseconds.
    pub(crate) since: Option<u64>,
    pub(crate) role: Option<RoleName>,
    pub(crate) grep: Option<String>,
}

impl Wanted {
    fn query(&self) -> String {
        let mut query = format!("?lines={}&follow={}", self.lines, self.follow);
        if let Some(since) = self.since {
            query.push_str(&format!("&since={}", now().0.saturating_sub(since)));
        }
        if let Some(role) = &self.role {
            query.push_str(&format!("&role={role}"));
        }
        if let Some(text) = &self.grep {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            query.push_str(&format!("&grep={escaped}"));
        }
        query
    }
}

pub(crate) async fn run(client: &Client, app: &AppName, wanted: &Wanted, json: bool) -> anyhow::Result<Exit> {
    let path = format!("/v1/apps/{app}/logs{}", wanted.query());
    let mut lines = client.lines::<LogLine>(Method::GET, &path, "").await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        if json {
            crate::printer::json_line(&line)?;
            continue;
        }
        let mark = if line.error { "!" } else { "|" };
        // Control characters of a log must not reach the terminal.
        let clean: String = line.text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        out!("{} {} {} {mark} {clean}", clock(line.at), line.instance.slot.release, line.instance.short());
    }
    Ok(DONE)
}
