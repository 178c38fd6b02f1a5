//! The git door: `/git/<app>.git/…`, a token as the password.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use gantry_api::Problem;
use gantry_git::Service;
use gantry_model::AppName;
use http::{HeaderMap, header};
use serde::Deserialize;

use super::auth::Caller;
use super::{Answer, name};
use crate::{Server, mutations};

/// `?service=`
#[derive(Deserialize)]
pub(crate) struct Refs {
    service: Option<String>,
}

struct Door {
    app: AppName,
    service: Service,
    protocol: Option<String>,
}

/// Checks who asks for what, and that the repository is there.
async fn open(server: &Server, caller: &Caller, app: &str, service: Option<&str>, headers: &HeaderMap) -> Answer<Door> {
    let app: AppName = name(app.strip_suffix(".git").unwrap_or(app))?;
    let service = service.and_then(Service::parse).ok_or_else(|| Problem::invalid("only smart HTTP is served"))?;
    match service {
        Service::ReceivePack => caller.deploy(&app)?,
        Service::UploadPack => caller.read_app(&app)?,
    }
    let view = server.core.view();
    let branch = &mutations::app(&view.mirror, &app)?.branch;
    server.repositories.ensure(&app, branch).await.map_err(|error| Problem::internal(error.to_string()))?;
    let protocol = headers.get("git-protocol").and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok(Door { app, service, protocol })
}

fn typed(service: Service, what: &str, body: Body) -> Response {
    let kind = format!("application/x-{}-{what}", service.name());
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache".to_owned())], body).into_response()
}

pub(crate) async fn advertise(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path(app): Path<String>,
    Query(query): Query<Refs>,
    headers: HeaderMap,
) -> Answer {
    let door = open(&server, &caller, &app, query.service.as_deref(), &headers).await?;
    let refs = server
        .repositories
        .advertise(&door.app, door.service, door.protocol.as_deref())
        .await
        .map_err(|error| Problem::internal(error.to_string()))?;
    Ok(typed(door.service, "advertisement", refs.into()))
}

pub(crate) async fn serve(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((app, service)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let door = open(&server, &caller, &app, Some(&service), &parts.headers).await?;
    if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        // git compresses only what it asks for, and only when that is long.
        return Err(Problem::new(415, "compressed requests are not taken; use git -c http.postBuffer=524288000").into());
    }
    let push = server.pushes.begin(&door.app, &caller.name);
    let pieces = body.into_data_stream().map(|piece| piece.map_err(std::io::Error::other)).boxed();
    let served = server.repositories.serve(&door.app, door.service, door.protocol.as_deref(), &push, pieces).await;
    match served {
        Ok(stream) => Ok(typed(door.service, "result", Body::from_stream(stream))),
        Err(error) => {
            server.pushes.forget(&push);
            Err(Problem::internal(error.to_string()).into())
        }
    }
}
