//! `/v1/apps/{app}/deploys` and the orders to a deploy.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use gantry_api::Problem;
use gantry_api::types::{Accepted, StartDeploy, What};
use gantry_model::deploy::Order;
use gantry_model::{AppName, Cause, Deploy, DeployNumber};
use http::header;
use tokio::sync::mpsc;

use super::auth::Caller;
use super::{Answer, body, json, name, registry};
use crate::{Server, follow, mutations};

pub(crate) async fn list(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>) -> Answer {
    let app: AppName = name(&app)?;
    caller.read_app(&app)?;
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
    let app: AppName = name(&app)?;
    caller.deploy(&app)?;
    let request: StartDeploy = body(&text)?;
    let cause = match request.what {
        What::Image { reference } => {
            let image = registry::resolve(&server, &reference).await?;
            Cause::Image { reference, image }
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

/// Values as newline-delimited JSON, as they come.
pub(crate) fn lines<T: serde::Serialize + Send + 'static>(receiver: mpsc::Receiver<T>) -> Answer {
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
        let value = receiver.recv().await?;
        let line = serde_json::to_vec(&value).map(|mut line| {
            line.push(b'\n');
            Bytes::from(line)
        });
        Some((line, receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

pub(crate) async fn follow(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((app, number)): Path<(String, u64)>,
) -> Answer {
    let app: AppName = name(&app)?;
    caller.read_app(&app)?;
    let number = DeployNumber(number);
    let view = server.core.view();
    if view.mirror.deploys.get(&app).is_none_or(|deploys| !deploys.contains_key(&number)) {
        return Err(Problem::missing(format!("{app} has no deploy {number}")).into());
    }
    lines(follow::follow(&server, app, number))
}

pub(crate) async fn promote(server: State<Arc<Server>>, caller: Caller, app: Path<String>) -> Answer {
    order(server, caller, app, Order::Promote).await
}

pub(crate) async fn abort(server: State<Arc<Server>>, caller: Caller, app: Path<String>) -> Answer {
    order(server, caller, app, Order::Abort).await
}

async fn order(State(server): State<Arc<Server>>, caller: Caller, Path(app): Path<String>, order: Order) -> Answer {
    let app: AppName = name(&app)?;
    caller.deploy(&app)?;
    let by = caller.name;
    let deploy = server.core.mutate(move |mirror, now| mutations::order(mirror, now, &by, &app, order)).await?;
    json(&Accepted { deploy })
}
