//! Pulls of images from other registries, and other requests with progress output.

use futures_util::StreamExt;
use gantry_api::types::{BaseInfo, ImageProgress, PullImage};
use gantry_api::{Client, ClientError, ErrorCode};
use gantry_model::AppName;
use http::Method;

use crate::coded::coded;
use crate::printer::told;

/// A pull request. The credentials come from environment variables, because every user can read a command line.
pub(crate) fn request(reference: &str) -> PullImage {
    PullImage {
        reference: reference.to_owned(),
        username: std::env::var("GANTRY_REGISTRY_USER").ok(),
        password: std::env::var("GANTRY_REGISTRY_PASSWORD").ok(),
    }
}

/// Creates a base and shows the progress.
pub(crate) async fn base(client: &Client, path: &str, body: impl Into<bytes::Bytes>) -> anyhow::Result<BaseInfo> {
    match watch(client, path, body).await? {
        ImageProgress::Base { base } => Ok(base),
        other => Err(unexpected(&other)),
    }
}

/// Pulls an image for an app; returns its reference in the cloud's own registry.
pub(crate) async fn image(client: &Client, app: &AppName, reference: &str) -> anyhow::Result<String> {
    let body = serde_json::to_vec(&request(reference))?;
    match watch(client, &format!("/v1/apps/{app}/pull"), body).await? {
        ImageProgress::Image { reference } => Ok(reference),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(event: &ImageProgress) -> anyhow::Error {
    coded(ErrorCode::UnexpectedResponse, format!("the server's answer makes no sense: {event:?}"))
}

/// Sends a request and shows its progress lines; returns the final event.
async fn watch(client: &Client, path: &str, body: impl Into<bytes::Bytes>) -> anyhow::Result<ImageProgress> {
    let mut events = client.lines::<ImageProgress>(Method::POST, path, body).await?;
    while let Some(event) = events.next().await {
        match event? {
            ImageProgress::Line { text } => told!("{text}"),
            ImageProgress::Failed { problem } => return Err(ClientError::from(problem).into()),
            last => return Ok(last),
        }
    }
    let message = "the connection ended; whether it was made is not known";
    Err(coded(ErrorCode::ConnectionLost, message))
}
