//! `gantry config`.

use std::collections::BTreeMap;

use anyhow::bail;
use gantry_api::Client;
use gantry_api::types::{Accepted, ChangeConfig};
use gantry_model::AppName;
use http::Method;

use super::deploys;
use crate::args::Config;
use crate::exit::{DONE, Exit};
use crate::printer::{json as print_json, out};

pub(crate) async fn run(client: &Client, command: Config, json: bool) -> anyhow::Result<Exit> {
    match command {
        Config::Set { app, pairs } => {
            change(client, &app, pairs.into_iter().map(|(name, value)| (name, Some(value))).collect()).await
        }
        Config::Unset { app, names } => {
            change(client, &app, names.into_iter().map(|name| (name, None)).collect()).await
        }
        Config::Get { app, name } => {
            let values = values(client, &app).await?;
            let Some(value) = values.get(&name) else {
                bail!("{app} has no configuration value {name}");
            };
            if json {
                print_json(value)?
            } else {
                out!("{value}")
            }
            Ok(DONE)
        }
        Config::Ls { app } => {
            let values = values(client, &app).await?;
            if json {
                print_json(&values)?;
            } else {
                values.iter().for_each(|(name, value)| out!("{name}={value}"));
            }
            Ok(DONE)
        }
    }
}

async fn values(client: &Client, app: &AppName) -> anyhow::Result<BTreeMap<String, String>> {
    Ok(client.get(&format!("/v1/apps/{app}/config")).await?)
}

async fn change(client: &Client, app: &AppName, changes: BTreeMap<String, Option<String>>) -> anyhow::Result<Exit> {
    let path = format!("/v1/apps/{app}/config");
    let accepted: Option<Accepted> = client.call(Method::PATCH, &path, Some(&ChangeConfig { changes })).await?;
    match accepted {
        Some(accepted) => deploys::follow(client, app, accepted.deploy).await,
        None => {
            eprintln!("Nothing runs that this changes; the next release has it");
            Ok(DONE)
        }
    }
}
