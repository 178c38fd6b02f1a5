//! `gantry machine add`: makes another machine a member over ssh.
//!
//! ```text
//! survey ─► refuse or go on ─► install the program ─► join with a token of its own ─► start ─► wait until it is ready
//! ```
//! A command that is killed before the machine has joined can be repeated. The survey names a machine that has joined.

mod installation;
mod ssh;
mod survey;

use std::time::Duration;

use anyhow::Context;
use gantry_api::endpoints::cluster::CreateJoinToken;
use gantry_api::endpoints::machines;
use gantry_api::types::{CreateJoinToken as TokenRequest, MachineStateInfo};
use gantry_api::{Client, ClientError};
use gantry_error_codes::ErrorCode;
use gantry_model::MachineName;
use tokio::time::Instant;

use crate::args::MachineAdd;
use crate::coded::{coded, fail};
use crate::exit::{DONE, Exit};
use crate::join::JoinOutput;
use crate::printer::{json as print_json, out, status};
use installation::{Installation, PROGRAM};
use ssh::Ssh;
use survey::Survey;

/// Lifetime of the join token, in milliseconds.
const TOKEN_LIFE: u64 = 10 * 60 * 1000;

/// Longest time until the machine is ready, and the poll interval.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(250);

/// Runs `gantry machine add`.
pub(crate) async fn run(client: &Client, arguments: &MachineAdd, json: bool) -> anyhow::Result<Exit> {
    let program =
        arguments.program.clone().map_or_else(std::env::current_exe, Ok).context("cannot find this program")?;
    let installation = Installation::read(&program)?;
    let ssh = Ssh::new(&arguments.target.text, &arguments.options);
    status!("Looking at {}", arguments.target.text);
    let survey = Survey::parse(&ssh.run(survey::COMMANDS, b"").await?);
    survey.check(installation.architecture, &arguments.target.text)?;
    status!("Installing {} as {PROGRAM}", program.display());
    let start = installation.start(survey.has_systemd);
    let install = installation.install();
    ssh.run(install.commands, &install.input).await?;
    let request = TokenRequest { role: arguments.role.into(), lifetime: Some(TOKEN_LIFE) };
    let token = client.submit(&CreateJoinToken {}, &request).await?;
    let Some(server) = token.servers.first() else {
        fail!(
            NoAuthority,
            "no server of the cluster has an address for other machines; run `gantry server init` first"
        );
    };
    status!("Joining through {server}");
    let joined = ssh.run(&join_command(server, arguments), token.token.as_bytes()).await?;
    // A shell's start files may have written lines of their own before.
    let document = &joined[joined.find('{').unwrap_or_default()..];
    let joined: JoinOutput = serde_json::from_str(document).map_err(|error| {
        coded(ErrorCode::RemoteStepFailed, format!("cannot read the output of `gantry join`: {error}"))
    })?;
    status!("Starting {}", joined.machine);
    ssh.run(start.commands, &start.input).await?;
    wait_until_ready(client, &joined.machine, survey.has_systemd).await?;
    if json {
        print_json(&joined)?;
    } else {
        out!("machine {} has joined as {} and is ready", joined.machine, joined.role);
    }
    Ok(DONE)
}

/// The command that joins. The token comes on standard input, and so stays out of the process list.
fn join_command(server: &str, arguments: &MachineAdd) -> String {
    let advertise = arguments.advertise.as_ref().unwrap_or(&arguments.target.host);
    let labels = arguments.labels.iter().map(|(key, value)| format!(" --label {}", quoted(&format!("{key}={value}"))));
    let (server, advertise) = (quoted(server), quoted(advertise));
    let labels: String = labels.collect();
    format!("GANTRY_JOIN_TOKEN=$(cat) {PROGRAM} join {server} --json --advertise {advertise}{labels}")
}

/// A word of a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Waits until the agent of the machine reports.
async fn wait_until_ready(client: &Client, name: &MachineName, has_systemd: bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY;
    loop {
        let state = match client.fetch(&machines::Show { name: name.clone() }).await {
            Ok(machine) if machine.state == MachineStateInfo::Ready => return Ok(()),
            Ok(machine) => machine.state.word(),
            Err(ClientError::Problem(problem)) if problem.status == 404 => "not registered",
            Err(error) => return Err(error.into()),
        };
        if Instant::now() > deadline {
            let log = if has_systemd { "journalctl -u gantry" } else { "tail /var/log/gantry.log" };
            fail!(
                MachineNotReady,
                "machine {name} has joined, but is not ready after {} s (state: {state}); run `{log}` on the machine to see why",
                READY.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words() {
        for (word, shell) in [("m1:7000", "'m1:7000'"), ("a b;$(c)", "'a b;$(c)'"), ("it's", r"'it'\''s'")] {
            assert_eq!(quoted(word), shell);
        }
    }
}
