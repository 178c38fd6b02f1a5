//! Messages of push queues whose subscriber is no receiver of requests: another queue, or a code.

use gantry_api::Problem;
use gantry_api::jobs::SubmitJob;
use gantry_model::RoleName;
use gantry_queue::PushHeaders;
use gantry_queue_store::{Forwarded, MessageQueueName, NewMessage};

use crate::jobs::StoredTemplate;
use crate::{Server, http};

/// The message for the queue with the name `target`, of the same project.
pub(super) fn message(from: MessageQueueName, target: String, headers: PushHeaders, body: String) -> Forwarded {
    Forwarded::Message(MessageQueueName { name: target, ..from }, NewMessage { body, delay: 0, headers })
}

/// The job of a code, with the message as its payload.
pub(super) async fn job(
    server: &Server,
    from: MessageQueueName,
    code: RoleName,
    body: String,
) -> Result<Forwarded, Problem> {
    let mut job = SubmitJob::from(StoredTemplate::of_role(from.project, code));
    job.payload = body;
    let resolved = http::resolve_job(server, job, format!("queue {}", from.name)).await;
    resolved.map(|job| Forwarded::Job(Box::new(job))).map_err(|error| error.0)
}
