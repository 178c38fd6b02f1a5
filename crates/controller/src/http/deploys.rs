//! `/v1/apps/{app}/deploys` and the orders to a deploy.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::StreamExt;
use gantry_api::Problem;
use gantry_api::types::{Accepted, StartDeploy, What};
use gantry_model::deploy::Order;
use gantry_model::{Cause, Deploy, DeployNumber};
use http::{HeaderMap, header};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::{Answer, Params, UNBUFFERED, body, json, registry};
use crate::follow::Until;
use crate::{Server, follow, mutations};

/// The longest name of an image's origin that is kept.
const ORIGIN_MAX: usize = 500;

pub(crate) async fn list(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> Answer {
    let app = caller.read_app(&app)?;
    let view = server.core.view();
    mutations::app(&view.mirror, &app)?;
    let deploys: Vec<&Deploy> =
        view.mirror.deploys.get(&app).into_iter().flat_map(|deploys| deploys.values()).map(AsRef::as_ref).collect();
    json(&deploys)
}

pub(crate) async fn start(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    text: Bytes,
) -> Answer {
    let app = caller.deploy(&app)?;
    let request: StartDeploy = body(&text)?;
    let cause = match request.what {
        What::Image { reference, origin } => {
            let image = registry::resolve(&server, &caller, &reference).await?;
            let origin = origin.map(|origin| origin.chars().take(ORIGIN_MAX).collect());
            Cause::Image { reference: origin.unwrap_or(reference), image }
        }
        What::Rollback { to } => {
            let view = server.core.view();
            Cause::Rollback { to: mutations::rollback_target(&view.mirror, &app, to)? }
        }
    };
    let by = caller.name;
    let deploy = server
        .core
        .mutate(move |mirror, now| mutations::start_deploy(mirror, now, &by, &app, cause, request.hold))
        .await?;
    json(&Accepted { deploy })
}

/// Values as they come: newline-delimited JSON, or server-sent events for whoever asks for those.
pub(crate) fn stream<T: serde::Serialize + Send + 'static>(headers: &HeaderMap, receiver: mpsc::Receiver<T>) -> Answer {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let events = accept.contains("text/event-stream");
    let (before, after) = if events { ("data: ", "\n\n") } else { ("", "\n") };
    let line = move |value: T| serde_json::to_string(&value).map(|text| Bytes::from(format!("{before}{text}{after}")));
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let stream = stream.map(line);
    let kind = if events { "text/event-stream" } else { "application/x-ndjson" };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, [UNBUFFERED], Body::from_stream(stream)).into_response())
}

/// `?until=`
#[derive(Deserialize)]
pub(crate) struct FollowQuery {
    until: Option<FollowUntil>,
}

/// How far a deploy is followed, as it is asked for.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FollowUntil {
    Serving,
    Verdict,
    /// As the server is set.
    Setting,
}

pub(crate) async fn follow(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((app, number)): Path<(String, u64)>,
    Params(query): Params<FollowQuery>,
    headers: HeaderMap,
) -> Answer {
    let app = caller.read_app(&app)?;
    let until = match query.until {
        None | Some(FollowUntil::Verdict) => Until::Verdict,
        Some(FollowUntil::Serving) => Until::Serving,
        Some(FollowUntil::Setting) => server.settings.until,
    };
    let number = DeployNumber(number);
    let view = server.core.view();
    if view.mirror.deploys.get(&app).is_none_or(|deploys| !deploys.contains_key(&number)) {
        return Err(Problem::missing(format!("{app} has no deploy {number}")).into());
    }
    stream(&headers, follow::follow(&server, app, number, until))
}

pub(crate) async fn promote(server: State<Arc<Server>>, caller: Caller, app: Path<String>) -> Answer {
    order(server, caller, app, Order::Promote).await
}

pub(crate) async fn abort(server: State<Arc<Server>>, caller: Caller, app: Path<String>) -> Answer {
    order(server, caller, app, Order::Abort).await
}

async fn order(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>, order: Order) -> Answer {
    let app = caller.deploy(&app)?;
    let by = caller.name;
    let deploy = server.core.mutate(move |mirror, now| mutations::order(mirror, now, &by, &app, order)).await?;
    json(&Accepted { deploy })
}
