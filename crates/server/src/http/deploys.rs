//! `/v1/apps/{app}/deploys`, and the commands to promote or abort a deploy.

use gantry_admission::{check_image_settings, find_app, find_changeable_app, rollback_target};
use gantry_api::endpoints::deploys::{self as endpoints, FollowUntil};
use gantry_api::types::{AcceptedDeploy, DeployInfo, DeployPlan, DeployProgress, DeploySource};
use gantry_api::{ErrorCode, Problem};
use gantry_image::Remote;
use gantry_model::deploy::DeployOrder;
use gantry_model::{AppName, DeployCause, ImageSettings};
use http::HeaderMap;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::call::{Call, Routes};
use super::{HttpResult, pulls, registry};
use crate::follow::FollowLimit;
use crate::{Server, deploy_plans, follow};

/// Length limit of the stored origin of an image, in characters. Longer origins are cut.
const ORIGIN_MAX: usize = 500;

/// Adds the endpoints of deploys.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(list)
        .endpoint(start)
        .endpoint(plan)
        .endpoint(pulls::image)
        .endpoint(follow)
        .endpoint(promote)
        .endpoint(abort)
}

async fn list(Call { server, at, .. }: Call<endpoints::List>) -> HttpResult<Vec<DeployInfo>> {
    let view = server.core.view();
    find_app(&view.records, &at.app)?;
    let deploys = view.records.deploys.get(&at.app).into_iter().flat_map(|deploys| deploys.values());
    Ok(deploys.map(|deploy| DeployInfo::from(&**deploy)).collect())
}

async fn start(Call { server, caller, at, body, headers, .. }: Call<endpoints::Start>) -> HttpResult<AcceptedDeploy> {
    let app = at.app;
    let cause = cause_of(&server, &caller, &headers, &app, body.source).await?;
    if let Some(id) = body.plan
        && deploy_plans::plan(&server, &app, Some(&cause)).await?.id != id
    {
        let message = format!("plan {id} of {app} is stale: the app, its image or the machines changed after the plan");
        let remedy = "make a new plan with `--plan`, and apply the new plan";
        return Err(Problem::new(ErrorCode::PlanStale, message).hint(remedy).into());
    }
    let deploy = caller.mutate(&server, move |actor| actor.start_deploy(&app, cause, body.hold)).await?;
    Ok(AcceptedDeploy { deploy })
}

async fn plan(Call { server, caller, at, body, headers, .. }: Call<endpoints::Plan>) -> HttpResult<DeployPlan> {
    find_changeable_app(&server.core.view().records, &at.app)?;
    let cause = match body.source {
        Some(source) => Some(cause_of(&server, &caller, &headers, &at.app, source).await?),
        None => None,
    };
    deploy_plans::plan(&server, &at.app, cause.as_ref()).await
}

/// The cause of a deploy from a source.
async fn cause_of(
    server: &Server,
    caller: &Caller,
    headers: &HeaderMap,
    app: &AppName,
    source: DeploySource,
) -> HttpResult<DeployCause> {
    Ok(match source {
        DeploySource::Image { reference, origin, settings } => {
            let settings = ImageSettings::from(settings);
            check_settings(server, app, &settings)?;
            let remote = Remote::parse(&reference)
                .map_err(|error| Problem::new(ErrorCode::InvalidImageReference, error.to_string()))?;
            let reference = match remote {
                None => reference,
                Some(remote) => pulls::own_reference(server, headers, &remote).await.ok_or_else(|| {
                    Problem::new(ErrorCode::ImageElsewhere, format!("{reference} is in another registry"))
                        .hint(format!("`gantry deploy {app} --image {reference}` pulls the image first"))
                })?,
            };
            let image = registry::resolve(server, caller, &reference).await?;
            let origin = origin.map(|origin| origin.chars().take(ORIGIN_MAX).collect());
            DeployCause::Image { reference: origin.unwrap_or(reference), image, change: settings }
        }
        DeploySource::Rollback { to } => {
            let view = server.core.view();
            DeployCause::Rollback { to: rollback_target(&view.records, app, to)? }
        }
    })
}

/// Refuses image settings with invalid, unknown or too many volumes, or with two volumes at the same path.
fn check_settings(server: &Server, app: &AppName, change: &ImageSettings) -> HttpResult<()> {
    for (name, path) in change.volumes.iter().filter(|(_, path)| !path.is_empty()) {
        gantry_build::check_volume(name, path)
            .map_err(|error| Problem::new(ErrorCode::InvalidVolume, error.to_string()))?;
    }
    Ok(check_image_settings(&server.core.view().records, app, change)?)
}

async fn follow(Call { server, at, query, .. }: Call<endpoints::Follow>) -> HttpResult<mpsc::Receiver<DeployProgress>> {
    let endpoints::Follow { app, number } = at;
    let view = server.core.view();
    let until = match query.until {
        None | Some(FollowUntil::Verdict) => FollowLimit::Verdict,
        Some(FollowUntil::Serving) => FollowLimit::Serving,
        Some(FollowUntil::Setting) => FollowLimit::of(&view.records.policy),
    };
    if view.records.deploys.get(&app).is_none_or(|deploys| !deploys.contains_key(&number)) {
        return Err(Problem::new(ErrorCode::DeployNotFound, format!("{app} has no deploy {number}")).into());
    }
    Ok(follow::follow(&server, app, number, until))
}

async fn promote(Call { server, caller, at, .. }: Call<endpoints::Promote>) -> HttpResult<AcceptedDeploy> {
    order(&server, &caller, at.app, DeployOrder::Promote).await
}

async fn abort(Call { server, caller, at, .. }: Call<endpoints::Abort>) -> HttpResult<AcceptedDeploy> {
    order(&server, &caller, at.app, DeployOrder::Abort).await
}

async fn order(server: &Server, caller: &Caller, app: AppName, order: DeployOrder) -> HttpResult<AcceptedDeploy> {
    let deploy = caller.mutate(server, move |actor| actor.order(&app, order)).await?;
    Ok(AcceptedDeploy { deploy })
}
