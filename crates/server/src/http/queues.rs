//! `/v1/queues`: the queues of container jobs.

use gantry_api::endpoints::jobs as endpoints;
use gantry_api::jobs::{PurgedQueue, QueueInfo};
use gantry_api::{ErrorCode, Problem};
use gantry_queue::QueueName;
use gantry_queue_store::{self as stored, QueueSetting};

use super::HttpResult;
use super::call::{Call, Routes};
use crate::Server;

/// Adds the endpoints of queues.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(list).endpoint(show).endpoint(change).endpoint(purge)
}

async fn list(Call { server, .. }: Call<endpoints::ListQueues>) -> HttpResult<Vec<QueueInfo>> {
    let queues = server.jobs.read(|reader| reader.queues()).await?;
    Ok(queues.into_iter().map(queue_info).collect())
}

async fn show(Call { server, at, .. }: Call<endpoints::ShowQueue>) -> HttpResult<QueueInfo> {
    described(&server, QueueName { project: at.project, code: at.code }).await
}

async fn change(Call { server, at, body, .. }: Call<endpoints::SetQueue>) -> HttpResult<QueueInfo> {
    let queue = QueueName { project: at.project, code: at.code };
    let limit = body.limit.map(|limit| QueueSetting::Limit(Some(limit).filter(|limit| *limit > 0)));
    for setting in body.paused.map(QueueSetting::Paused).into_iter().chain(limit) {
        if !server.jobs.set(queue.clone(), setting).await? {
            return Err(unknown(&queue).into());
        }
    }
    described(&server, queue).await
}

/// Cancels every job that waits.
async fn purge(Call { server, at, .. }: Call<endpoints::Purge>) -> HttpResult<PurgedQueue> {
    let queue = QueueName { project: at.project, code: at.code };
    Ok(PurgedQueue { cancelled: server.jobs.purge(&queue).await? })
}

async fn described(server: &Server, queue: QueueName) -> HttpResult<QueueInfo> {
    let queues = server.jobs.read(|reader| reader.queues()).await?;
    let found = queues.into_iter().find(|info| info.name == queue).ok_or_else(|| unknown(&queue))?;
    Ok(queue_info(found))
}

fn unknown(queue: &QueueName) -> Problem {
    Problem::new(ErrorCode::QueueNotFound, format!("there is no queue {queue}; its first job makes it"))
        .hint("`gantry queue ls` lists the queues")
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
        extra_runs: queue.extra_runs,
    }
}
