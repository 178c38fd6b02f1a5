//! Pulls of images from other registries, and other requests with progress output.

use futures_util::StreamExt;
use gantry_api::endpoints::deploys;
use gantry_api::types::{BaseInfo, ImageProgress, PullImage};
use gantry_api::{Client, ClientError, ErrorCode, LineStream};
use gantry_model::AppName;

use crate::coded::coded;
use crate::printer::status;

/// A pull request. The credentials come from environment variables, because every user can read a command line.
pub(crate) fn request(reference: &str) -> PullImage {
    PullImage {
        reference: reference.to_owned(),
        username: std::env::var("GANTRY_REGISTRY_USER").ok(),
        password: std::env::var("GANTRY_REGISTRY_PASSWORD").ok(),
    }
}

/// Shows the progress of a base that is made; returns the base.
pub(crate) async fn base(events: LineStream<ImageProgress>) -> anyhow::Result<BaseInfo> {
    match watch(events).await? {
        ImageProgress::Base { base } => Ok(base),
        other => Err(unexpected(&other)),
    }
}

/// Pulls an image for an app; returns its reference in the cloud's own registry.
pub(crate) async fn image(client: &Client, app: &AppName, reference: &str) -> anyhow::Result<String> {
    let events = client.submit_and_follow(&deploys::Pull { app: app.clone() }, &request(reference)).await?;
    match watch(events).await? {
        ImageProgress::Image { reference } => Ok(reference),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(event: &ImageProgress) -> anyhow::Error {
    let message = format!(
        "the server sent an unexpected event about the image: {event:?}; give the server and this command the same \
         version"
    );
    coded(ErrorCode::UnexpectedResponse, message)
}

/// Shows progress lines; returns the final event.
async fn watch(mut events: LineStream<ImageProgress>) -> anyhow::Result<ImageProgress> {
    while let Some(event) = events.next().await {
        match event? {
            ImageProgress::Line { text } => status!("{text}"),
            ImageProgress::Failed { problem } => return Err(ClientError::from(problem).into()),
            last => return Ok(last),
        }
    }
    let message = "the connection to the server ended before the image was complete; repeat the command, which \
                   continues with the parts that the server has";
    Err(coded(ErrorCode::ConnectionLost, message))
}
