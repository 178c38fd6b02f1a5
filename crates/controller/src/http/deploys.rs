//! `/v1/apps/{app}/deploys`, and the commands to promote or abort a deploy.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use gantry_admission::{check_image_settings, find_app, rollback_target};
use gantry_api::types::{AcceptedDeploy, DeploySource, StartDeploy};
use gantry_api::{ErrorCode, Problem};
use gantry_image::Remote;
use gantry_model::deploy::DeployOrder;
use gantry_model::{AppName, Deploy, DeployCause, DeployNumber, ImageSettings};
use http::HeaderMap;
use serde::Deserialize;

use super::auth::Caller;
use super::{HttpResult, Params, json, parse_body, pulls, registry, stream};
use crate::follow::FollowLimit;
use crate::{Server, follow};

/// Length limit of the stored origin of an image, in characters. Longer origins are cut.
const ORIGIN_MAX: usize = 500;

pub(crate) async fn list(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> HttpResult {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    find_app(&view.records, &app)?;
    let deploys: Vec<&Deploy> =
        view.records.deploys.get(&app).into_iter().flat_map(|deploys| deploys.values()).map(AsRef::as_ref).collect();
    json(&deploys)
}

pub(crate) async fn start(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    headers: HeaderMap,
    text: Bytes,
) -> HttpResult {
    let app = caller.deploy(&app)?;
    let request: StartDeploy = parse_body(&text)?;
    let cause = match request.source {
        DeploySource::Image { reference, origin, settings } => {
            check_settings(&server, &app, &settings)?;
            let remote =
                Remote::parse(&reference).map_err(|why| Problem::new(ErrorCode::InvalidImageReference, why))?;
            let reference = match remote {
                None => reference,
                Some(remote) => pulls::own_reference(&server, &headers, &remote).await.ok_or_else(|| {
                    Problem::new(ErrorCode::ImageElsewhere, format!("{reference} is in another registry"))
                        .hint("pull it first")
                })?,
            };
            let image = registry::resolve(&server, &caller, &reference).await?;
            let origin = origin.map(|origin| origin.chars().take(ORIGIN_MAX).collect());
            DeployCause::Image { reference: origin.unwrap_or(reference), image, change: settings }
        }
        DeploySource::Rollback { to } => {
            let view = server.core.view();
            DeployCause::Rollback { to: rollback_target(&view.records, &app, to)? }
        }
    };
    let deploy = caller.mutate(&server, move |actor| actor.start_deploy(&app, cause, request.hold)).await?;
    json(&AcceptedDeploy { deploy })
}

/// Refuses image settings with invalid, unknown or too many volumes, or with two volumes at the same path.
fn check_settings(server: &Server, app: &AppName, change: &ImageSettings) -> HttpResult<()> {
    for (name, path) in change.volumes.iter().filter(|(_, path)| !path.is_empty()) {
        gantry_build::check_volume(name, path).map_err(|why| Problem::new(ErrorCode::InvalidVolume, why))?;
    }
    Ok(check_image_settings(&server.core.view().records, app, change)?)
}

/// Query parameters of `follow`: `?until=`.
#[derive(Deserialize)]
pub(crate) struct FollowQuery {
    until: Option<FollowUntil>,
}

/// The point up to which the client asks to follow a deploy.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FollowUntil {
    Serving,
    Verdict,
    /// The point in the server's settings.
    Setting,
}

pub(crate) async fn follow(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((app, number)): Path<(String, u64)>,
    Params(query): Params<FollowQuery>,
    headers: HeaderMap,
) -> HttpResult {
    let app = caller.read_app(&app)?;
    let until = match query.until {
        None | Some(FollowUntil::Verdict) => FollowLimit::Verdict,
        Some(FollowUntil::Serving) => FollowLimit::Serving,
        Some(FollowUntil::Setting) => FollowLimit::of(&server.core.view().records.policy),
    };
    let number = DeployNumber(number);
    let view = server.core.view();
    if view.records.deploys.get(&app).is_none_or(|deploys| !deploys.contains_key(&number)) {
        return Err(Problem::new(ErrorCode::DeployNotFound, format!("{app} has no deploy {number}")).into());
    }
    stream::stream(&headers, follow::follow(&server, app, number, until))
}

pub(crate) async fn promote(server: State<Arc<Server>>, caller: Caller, app: Path<String>) -> HttpResult {
    order(server, caller, app, DeployOrder::Promote).await
}

pub(crate) async fn abort(server: State<Arc<Server>>, caller: Caller, app: Path<String>) -> HttpResult {
    order(server, caller, app, DeployOrder::Abort).await
}

async fn order(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    order: DeployOrder,
) -> HttpResult {
    let app = caller.deploy(&app)?;
    let deploy = caller.mutate(&server, move |actor| actor.order(&app, order)).await?;
    json(&AcceptedDeploy { deploy })
}
