//! `gantry config`.

use std::collections::BTreeMap;

use anyhow::Context;
use gantry_api::endpoints::apps;
use gantry_api::types::ChangeConfig;
use gantry_api::{Client, ErrorCode};
use gantry_model::AppName;
use gantry_model::execve::{is_shell_name, is_variable_name};

use super::deploys;
use crate::args::{Config, Follow, Variable};
use crate::coded::{WithCode, fail};
use crate::exit::{DONE, Exit, FAILED};
use crate::printer::{assignment, json as print_json, status};

pub(crate) async fn run(client: &Client, command: Config, json: bool) -> anyhow::Result<Exit> {
    match command {
        Config::Set { app, variables, follow } => {
            let mut from_input =
                variables.iter().filter(|variable| variable.value == "-").map(|variable| &variable.name);
            if let (Some(first), Some(second)) = (from_input.next(), from_input.next()) {
                fail!(
                    InvalidArguments,
                    "{first} and {second} would both be read from standard input; set {second} in a command of its own"
                );
            }
            let names = variables.iter().map(|variable| &variable.name);
            for name in names.filter(|name| is_variable_name(name) && !is_shell_name(name)) {
                status!("warning: programs find {name}, but a shell passes over it");
            }
            let changes = variables.into_iter().map(|Variable { name, value }| Ok((name, Some(read_value(value)?))));
            change(client, &app, changes.collect::<anyhow::Result<_>>()?, follow).await
        }
        Config::Unset { app, names, follow } => {
            change(client, &app, names.into_iter().map(|name| (name, None)).collect(), follow).await
        }
        Config::Get { app, name } => {
            let values = values(client, &app).await?;
            let Some(value) = values.get(&name) else {
                fail!(
                    VariableNotSet,
                    "{app} has no configuration value {name}; `gantry config ls {app}` lists the values"
                );
            };
            if json {
                print_json(value)?
            } else {
                crate::printer::value(value)
            }
            Ok(DONE)
        }
        Config::Ls { app } => {
            let values = values(client, &app).await?;
            if json {
                print_json(&values)?;
            } else {
                values.iter().for_each(|(name, value)| assignment(name, value));
            }
            Ok(DONE)
        }
    }
}

/// The value, or the content of standard input for `-`. Every user of the machine can read a value on a command line.
fn read_value(value: String) -> anyhow::Result<String> {
    if value != "-" {
        return Ok(value);
    }
    let text = std::io::read_to_string(std::io::stdin()).context("cannot read the value from standard input");
    let text = text.with_code(ErrorCode::FileUnreadable)?;
    Ok(text.strip_suffix('\n').map_or(text.clone(), str::to_owned))
}

async fn values(client: &Client, app: &AppName) -> anyhow::Result<BTreeMap<String, String>> {
    Ok(client.fetch(&apps::Config { app: app.clone() }).await?)
}

async fn change(
    client: &Client,
    app: &AppName,
    changes: BTreeMap<String, Option<String>>,
    wait: Follow,
) -> anyhow::Result<Exit> {
    let accepted = client.submit(&apps::SetConfig { app: app.clone() }, &ChangeConfig { changes }).await?;
    match accepted {
        Some(accepted) => {
            let exit = deploys::follow(client, app, accepted.deploy, wait).await?;
            if exit == FAILED {
                status!(
                    "The configuration keeps the change, and the next release has it; set or unset the value to take it back"
                );
            }
            Ok(exit)
        }
        None => {
            let text = match client.fetch(&apps::Show { app: app.clone() }).await?.current {
                Some(_) => "Nothing to deploy: the values are like this already",
                None => "Nothing to deploy yet: the first deploy of the app has the values",
            };
            status!("{text}");
            Ok(DONE)
        }
    }
}
