//! `gantry deploy`, `releases`, `rollback`, `promote`, `abort`.

use futures_util::StreamExt;
use gantry_api::Client;
use gantry_api::types::{Accepted, Progress, ReleaseInfo, StartDeploy, What};
use gantry_model::{AppName, DeployNumber, DeployState, ReleaseNumber};
use http::Method;

use super::pulls;
use crate::exit::{DONE, Exit, FAILED};
use crate::printer::{age, json as print_json, out, table, tell, told};

pub(crate) async fn image(client: &Client, app: &AppName, reference: String, hold: bool) -> anyhow::Result<Exit> {
    // As the server tells them apart: another registry's name has a dot or a port in its first part.
    let foreign =
        reference.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    let what = if foreign {
        let local = pulls::image(client, app, &reference).await?;
        What::Image { reference: local, origin: Some(reference) }
    } else {
        What::Image { reference, origin: None }
    };
    start(client, app, StartDeploy { what, hold }).await
}

pub(crate) async fn rollback(client: &Client, app: &AppName, to: Option<ReleaseNumber>) -> anyhow::Result<Exit> {
    start(client, app, StartDeploy { what: What::Rollback { to }, hold: false }).await
}

async fn start(client: &Client, app: &AppName, request: StartDeploy) -> anyhow::Result<Exit> {
    let accepted: Accepted = client.post(&format!("/v1/apps/{app}/deploys"), &request).await?;
    follow(client, app, accepted.deploy).await
}

pub(crate) async fn order(client: &Client, app: &AppName, order: &str) -> anyhow::Result<Exit> {
    let accepted: Accepted = client.post(&format!("/v1/apps/{app}/{order}"), &()).await?;
    let exit = follow(client, app, accepted.deploy).await?;
    // Taken back, as was asked.
    Ok(if order == "abort" { DONE } else { exit })
}

/// Shows a deploy as it goes; the URL comes last, on standard output.
pub(crate) async fn follow(client: &Client, app: &AppName, number: DeployNumber) -> anyhow::Result<Exit> {
    let path = format!("/v1/apps/{app}/deploys/{}/follow", number.0);
    let mut events = client.lines::<Progress>(Method::GET, &path, "").await?;
    while let Some(event) = events.next().await {
        match event? {
            Progress::Line { text } => tell(&text),
            Progress::End { deploy, url } if matches!(deploy.state, DeployState::Done | DeployState::Held) => {
                out!("{url}");
                return Ok(DONE);
            }
            Progress::End { .. } => return Ok(FAILED),
        }
    }
    told!("gantry: the deploy can no longer be followed; it goes on, `gantry status` tells how");
    Ok(FAILED)
}

pub(crate) async fn releases(client: &Client, app: &AppName, json: bool) -> anyhow::Result<Exit> {
    let releases: Vec<ReleaseInfo> = client.get(&format!("/v1/apps/{app}/releases")).await?;
    if json {
        print_json(&releases)?;
        return Ok(DONE);
    }
    let rows = releases.iter().rev().map(|release| {
        let mark = match (release.current, release.good) {
            (true, _) => "serves",
            (false, true) => "good",
            (false, false) => "-",
        };
        vec![
            release.number.to_string(),
            mark.to_owned(),
            release.image.short().to_owned(),
            release.cause.clone(),
            release.by.clone(),
            format!("{} ago", age(release.created)),
        ]
    });
    table(&["release", "state", "image", "why", "by", "when"], rows);
    Ok(DONE)
}
