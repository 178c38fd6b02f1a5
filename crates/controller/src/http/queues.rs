//! `/v1/queues`: the queues of container jobs.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use bytes::Bytes;
use gantry_api::endpoint::AccessScope;
use gantry_api::jobs::{ChangeQueue, PurgedQueue, QueueInfo};
use gantry_api::{ErrorCode, Problem};
use gantry_queue::QueueName;
use gantry_queue_store::{self as stored, QueueSetting};

use super::auth::Caller;
use super::{HttpResult, json, parse_body, parse_name};
use crate::Server;

/// Routes below `/v1`.
pub(super) fn routes() -> Router<Arc<Server>> {
    Router::new()
        .route("/queues", get(list))
        .route("/queues/{project}/{code}", get(show).patch(change))
        .route("/queues/{project}/{code}/purge", post(purge))
}

/// `GET /v1/queues`.
async fn list(State(server): State<Arc<Server>>, caller: Caller) -> HttpResult {
    caller.check(AccessScope::Read, None)?;
    let queues = server.jobs.read(|reader| reader.queues()).await?;
    json(&queues.into_iter().map(queue_info).collect::<Vec<_>>())
}

/// `GET /v1/queues/{project}/{code}`.
async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((project, code)): Path<(String, String)>,
) -> HttpResult {
    let queue = QueueName { project: caller.read_app(&project)?, code: parse_name(&code)? };
    described(&server, queue).await
}

/// `PATCH /v1/queues/{project}/{code}`.
async fn change(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((project, code)): Path<(String, String)>,
    text: Bytes,
) -> HttpResult {
    let queue = QueueName { project: caller.deploy(&project)?, code: parse_name(&code)? };
    let change: ChangeQueue = parse_body(&text)?;
    let limit = change.limit.map(|limit| QueueSetting::Limit(Some(limit).filter(|limit| *limit > 0)));
    for setting in change.paused.map(QueueSetting::Paused).into_iter().chain(limit) {
        if !server.jobs.set(queue.clone(), setting).await? {
            return Err(unknown(&queue).into());
        }
    }
    described(&server, queue).await
}

/// `POST /v1/queues/{project}/{code}/purge`: cancels every job that waits.
async fn purge(
    State(server): State<Arc<Server>>,
    caller: Caller,
    Path((project, code)): Path<(String, String)>,
) -> HttpResult {
    let queue = QueueName { project: caller.deploy(&project)?, code: parse_name(&code)? };
    json(&PurgedQueue { cancelled: server.jobs.purge(&queue).await? })
}

async fn described(server: &Server, queue: QueueName) -> HttpResult {
    let queues = server.jobs.read(|reader| reader.queues()).await?;
    let found = queues.into_iter().find(|info| info.name == queue).ok_or_else(|| unknown(&queue))?;
    json(&queue_info(found))
}

fn unknown(queue: &QueueName) -> Problem {
    Problem::new(ErrorCode::QueueNotFound, format!("there is no queue {queue}; its first job makes it"))
        .hint("`gantry queue ls` lists them")
}

fn queue_info(queue: stored::QueueInfo) -> QueueInfo {
    let [delayed, held, ready, leased, ended] = queue.counts;
    QueueInfo {
        name: queue.name,
        paused: queue.paused,
        limit: queue.limit,
        ready,
        waiting: delayed + held,
        running: leased,
        ended,
        dead: queue.dead,
    }
}
