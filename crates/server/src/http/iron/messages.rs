//! The API of IronMQ, version 3, for clients that were written for it: `/3/projects/{project}/queues/{name}…`. The
//! project is an app. A name of a queue may contain slashes. `push` has the calls of push queues.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use gantry_admission::find_app;
use gantry_api::{ErrorCode, Problem};
use gantry_queue::{
    DeadLetterPolicy, MESSAGE_MAX, MESSAGE_QUEUE_NAME_MAX as NAME_MAX, MessageQueueKind, MessageQueueSettings,
    PushHeaders, Reservation, check_delay, check_headers, check_reservation,
};
use gantry_queue_store::{
    ConsumerToken, MessageCommand, MessageFault, MessageId, MessageQueueInfo, MessageQueueName, MessageReply,
    NewMessage, StoredMessage,
};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::jobs::require_shared_queue;
use super::super::{ErrorResponse, HttpResult};
use super::push::{self, PushFields};
use super::{IronCall, answer, respond};
use crate::Server;
use crate::core;
use crate::deliveries::parse_reservation_id;

/// Maximum number of messages of one call.
const BATCH_MAX: usize = 100;

/// Longest wait for messages.
const WAIT_MAX: u64 = 30;

/// Poll interval of a waiting consumer: the end of a delay or of a reservation wakes no consumer.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Queues of a page, and the most.
const PAGE: u32 = 30;
const PAGE_MAX: u32 = 100;

/// Serves every path of the API.
pub(in super::super) async fn messages(
    State(server): State<Arc<Server>>,
    Path((project, path)): Path<(String, String)>,
    request: Request,
) -> Response {
    respond(serve(server, &project, &path, request).await)
}

async fn serve(server: Arc<Server>, project: &str, path: &str, request: Request) -> HttpResult {
    let call = IronCall::read(server, project, request).await?;
    let path = path.trim_end_matches('/');
    if path == "queues" {
        return list(&call).await;
    }
    let unknown =
        || Problem::new(ErrorCode::EndpointNotFound, format!("Gantry does not have the IronMQ endpoint {path}"));
    let segments: Vec<&str> = path.strip_prefix("queues/").ok_or_else(unknown)?.split('/').collect();
    let (name, rest) = split(&segments);
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Problem::new(ErrorCode::InvalidName, format!("a queue's name has 1 to {NAME_MAX} bytes")).into());
    }
    let method = call.parts.method.clone();
    if method != Method::GET {
        call.may_change()?;
        require_shared_queue(&call.server)?;
        find_app(&call.server.core.view().records, &call.project)?;
    }
    call.may_read()?;
    let queue = MessageQueueName { project: call.project.clone(), name };
    match (&method, rest) {
        (&Method::PUT | &Method::PATCH, []) => set(&call, queue).await,
        (&Method::GET, []) => show(&call, queue).await,
        (&Method::DELETE, []) => {
            order(&call, &queue, MessageCommand::RemoveQueue).await?;
            Ok(answer(json!({ "msg": "Deleted" })))
        }
        (&Method::POST | &Method::PUT | &Method::DELETE, ["subscribers"]) => push::subscribe(&call, queue).await,
        (&Method::GET, ["messages", id, "subscribers"]) => push::statuses(&call, queue, id).await,
        (&Method::POST, ["messages"]) => post(&call, queue).await,
        (&Method::POST, ["webhook"]) => webhook(&call, queue).await,
        (&Method::POST, ["reservations"]) => reserve(&call, queue).await,
        (&Method::GET, ["messages"]) => peek(&call, queue).await,
        (&Method::DELETE, ["messages"]) => delete(&call, queue).await,
        (&Method::GET, ["messages", id]) => message(&call, queue, id).await,
        (&Method::DELETE, ["messages", id]) => delete_one(&call, queue, id).await,
        (&Method::POST, ["messages", id, "touch"]) => touch(&call, queue, id).await,
        (&Method::POST, ["messages", id, "release"]) => release(&call, queue, id).await,
        _ => Err(unknown().into()),
    }
}

/// Splits a path into the name of the queue and what follows.
fn split<'a, 'b>(segments: &'b [&'a str]) -> (String, &'b [&'a str]) {
    // A queue may have such a word as its whole name: at least one segment is the name.
    let after = match segments {
        [_, .., "messages", _, "touch" | "release" | "subscribers"] => 3,
        [_, .., "messages", _] => 2,
        [_, .., "messages" | "reservations" | "webhook" | "subscribers"] => 1,
        _ => 0,
    };
    let (name, rest) = segments.split_at(segments.len() - after);
    (name.join("/"), rest)
}

/// Carries out a command on messages.
pub(super) async fn order(
    call: &IronCall,
    queue: &MessageQueueName,
    command: MessageCommand,
) -> HttpResult<MessageReply> {
    match call.server.jobs.message(queue.clone(), command).await? {
        MessageReply::Refused(fault) => Err(refused(&fault)),
        reply => Ok(reply),
    }
}

pub(super) fn refused(fault: &MessageFault) -> ErrorResponse {
    let code = match fault {
        MessageFault::UnknownQueue => ErrorCode::MessageQueueNotFound,
        MessageFault::UnknownMessage(_) => ErrorCode::MessageNotFound,
        MessageFault::Refused(..) | MessageFault::NotDelivered(..) => ErrorCode::MessageNotReserved,
        MessageFault::OtherKind(_)
        | MessageFault::PushQueue
        | MessageFault::PayloadTooLarge { .. }
        | MessageFault::TooManyCopies
        | MessageFault::Invalid(_) => ErrorCode::InvalidMessage,
        MessageFault::Full => ErrorCode::QueueFull,
    };
    Problem::new(code, fault.to_string()).into()
}

pub(super) fn invalid(error: impl std::fmt::Display) -> Problem {
    Problem::new(ErrorCode::InvalidMessage, error.to_string())
}

fn unexpected() -> Problem {
    Problem::internal("the queue gave another reply")
}

pub(super) fn id_of(text: &str) -> HttpResult<MessageId> {
    let unknown = || Problem::new(ErrorCode::MessageNotFound, format!("there is no message {text:?}"));
    Ok(text.parse().map(MessageId).map_err(|_| unknown())?)
}

fn reservation_of(text: &str) -> HttpResult<Reservation> {
    let other = || Problem::new(ErrorCode::MessageNotReserved, format!("{text:?} is not a reservation"));
    Ok(text.parse().map(Reservation).map_err(|_| other())?)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct QueueBody {
    queue: QueueFields,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct QueueFields {
    #[serde(rename = "type")]
    kind: Option<String>,
    message_timeout: Option<u64>,
    message_expiration: Option<u64>,
    push: Option<PushFields>,
    dead_letter: Option<DeadLetter>,
}

#[derive(Deserialize)]
struct DeadLetter {
    queue_name: String,
    max_reservations: Option<u32>,
}

/// Creates a queue, or changes the settings that the body names.
async fn set(call: &IronCall, queue: MessageQueueName) -> HttpResult {
    let QueueBody { queue: fields } = call.parse()?;
    let read = queue.clone();
    let known = call.server.jobs.read(move |reader| reader.message_queue(&read)).await?;
    if known.is_none() && call.parts.method == Method::PATCH {
        return Err(refused(&MessageFault::UnknownQueue));
    }
    let is_new = known.is_none();
    let mut settings = known.map(|known| known.settings).unwrap_or_default();
    settings.kind = match (fields.kind.as_deref(), is_new && fields.push.is_some()) {
        (Some("pull"), _) => MessageQueueKind::Pull,
        (Some("unicast"), _) => MessageQueueKind::Unicast,
        (Some("multicast"), _) | (None, true) => MessageQueueKind::Multicast,
        (None, false) => settings.kind,
        (Some(_), _) => return Err(invalid("a queue is of the type pull, unicast or multicast").into()),
    };
    let names_subscribers = fields.push.as_ref().is_some_and(push::PushFields::names_subscribers);
    if let Some(fields) = fields.push {
        settings.push = Some(push::merged(call, &queue, settings.push, fields)?);
    }
    settings.timeout = fields.message_timeout.unwrap_or(settings.timeout);
    settings.expiration = fields.message_expiration.unwrap_or(settings.expiration);
    if let Some(DeadLetter { queue_name, max_reservations }) = fields.dead_letter {
        if queue_name == queue.name {
            return Err(invalid("a queue cannot be its own queue of dead letters").into());
        }
        settings.dead_letter = Some(DeadLetterPolicy { queue: queue_name, most: max_reservations.unwrap_or(10) });
    }
    settings.check().map_err(invalid)?;
    // Subscribers may come and go between the read above and the write.
    let change = if names_subscribers { MessageCommand::SetQueue } else { MessageCommand::Reconfigure };
    order(call, &queue, change(settings)).await?;
    show(call, queue).await
}

async fn show(call: &IronCall, queue: MessageQueueName) -> HttpResult {
    let info = call.server.jobs.read(move |reader| reader.message_queue(&queue)).await?;
    let MessageQueueInfo { name, settings, size, total } = info.ok_or_else(|| refused(&MessageFault::UnknownQueue))?;
    let MessageQueueSettings { kind, push, timeout, expiration, dead_letter } = settings;
    let dead = dead_letter.map(|dead| json!({ "queue_name": dead.queue, "max_reservations": dead.most }));
    Ok(answer(json!({ "queue": {
        "project_id": call.project,
        "name": name,
        "type": kind,
        "size": size,
        "total_messages": total,
        "message_timeout": timeout,
        "message_expiration": expiration,
        "push": push.as_ref().map(|push| push::described(call, push)),
        "dead_letter": dead,
    } })))
}

async fn list(call: &IronCall) -> HttpResult {
    #[derive(Deserialize)]
    struct Parameters {
        per_page: Option<u32>,
        previous: Option<String>,
        prefix: Option<String>,
    }
    call.may_read()?;
    let Parameters { per_page, previous, prefix } = call.query()?;
    let project = call.project.clone();
    let most = per_page.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let (prefix, previous) = (prefix.unwrap_or_default(), previous.unwrap_or_default());
    let names = call.server.jobs.read(move |reader| reader.message_queues(&project, &prefix, &previous, most)).await?;
    let queues: Vec<Value> = names.into_iter().map(|name| json!({ "name": name })).collect();
    Ok(answer(json!({ "queues": queues })))
}

#[derive(Deserialize)]
struct PostedMessages {
    messages: Vec<PostedMessage>,
}

#[derive(Deserialize)]
struct PostedMessage {
    body: String,
    delay: Option<u64>,
    #[serde(default)]
    push_headers: Option<PushHeaders>,
}

async fn post(call: &IronCall, queue: MessageQueueName) -> HttpResult {
    let PostedMessages { messages } = call.parse()?;
    let new = |posted: PostedMessage| NewMessage {
        body: posted.body,
        delay: posted.delay.unwrap_or_default(),
        headers: posted.push_headers.unwrap_or_default(),
    };
    post_all(call, queue, messages.into_iter().map(new).collect()).await
}

/// Posts the body as one message.
async fn webhook(call: &IronCall, queue: MessageQueueName) -> HttpResult {
    let body = std::str::from_utf8(&call.body).map_err(|_| invalid("the body is not UTF-8"))?.to_owned();
    post_all(call, queue, vec![NewMessage { body, ..NewMessage::default() }]).await
}

async fn post_all(call: &IronCall, queue: MessageQueueName, messages: Vec<NewMessage>) -> HttpResult {
    if messages.is_empty() || messages.len() > BATCH_MAX {
        return Err(invalid(format!("a call posts 1 to {BATCH_MAX} messages, this one {}", messages.len())).into());
    }
    for NewMessage { body, delay, headers } in &messages {
        check_delay(*delay).map_err(invalid)?;
        check_headers(headers).map_err(invalid)?;
        if body.is_empty() || body.len() > MESSAGE_MAX {
            return Err(invalid(format!("a message has 1 to {MESSAGE_MAX} bytes, this one {}", body.len())).into());
        }
    }
    let MessageReply::Posted(ids) = order(call, &queue, MessageCommand::Post(messages)).await? else {
        return Err(unexpected().into());
    };
    let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    let mut response = answer(json!({ "ids": ids, "msg": "Messages put on queue." }));
    *response.status_mut() = http::StatusCode::CREATED;
    Ok(response)
}

/// Reserves messages, and waits for one if there is none.
async fn reserve(call: &IronCall, queue: MessageQueueName) -> HttpResult {
    #[derive(Deserialize)]
    struct Reserve {
        n: Option<u32>,
        timeout: Option<u64>,
        wait: Option<u64>,
        delete: Option<bool>,
    }
    let Reserve { n, timeout, wait, delete } = call.parse()?;
    let most = n.unwrap_or(1);
    if !(1..=BATCH_MAX as u32).contains(&most) {
        return Err(invalid(format!("n is {most}; choose 1 to {BATCH_MAX}")).into());
    }
    timeout.map_or(Ok(()), check_reservation).map_err(invalid)?;
    let end = Instant::now() + Duration::from_secs(wait.unwrap_or_default().min(WAIT_MAX));
    let command = MessageCommand::Reserve { most, timeout, delete: delete.unwrap_or_default() };
    loop {
        let posted = call.server.jobs.posted.notified();
        tokio::pin!(posted);
        posted.as_mut().enable();
        let MessageReply::Reserved(found) = order(call, &queue, command.clone()).await? else {
            return Err(unexpected().into());
        };
        let left = end.saturating_duration_since(Instant::now());
        if !found.is_empty() || left.is_zero() {
            let messages: Vec<Value> = found.iter().map(described).collect();
            return Ok(answer(json!({ "messages": messages })));
        }
        let _ = tokio::time::timeout(left.min(POLL_INTERVAL), posted).await;
    }
}

fn described(message: &StoredMessage) -> Value {
    json!({
        "id": message.id.0.to_string(),
        "body": message.body,
        "reserved_count": message.count,
        "reservation_id": message.reservation.map(|reservation| reservation.0.to_string()),
    })
}

async fn peek(call: &IronCall, queue: MessageQueueName) -> HttpResult {
    #[derive(Deserialize)]
    struct Parameters {
        n: Option<u32>,
    }
    let Parameters { n } = call.query()?;
    let most = n.unwrap_or(1).clamp(1, BATCH_MAX as u32);
    let found = call.server.jobs.read(move |reader| reader.peek_messages(&queue, most, core::now())).await?;
    let found = found.ok_or_else(|| refused(&MessageFault::UnknownQueue))?;
    let messages: Vec<Value> = found.iter().map(described).collect();
    Ok(answer(json!({ "messages": messages })))
}

async fn message(call: &IronCall, queue: MessageQueueName, id: &str) -> HttpResult {
    let id = id_of(id)?;
    let found = call.server.jobs.read(move |reader| reader.message(&queue, id, core::now())).await?;
    let found = found.ok_or_else(|| refused(&MessageFault::UnknownMessage(id)))?;
    Ok(answer(json!({ "message": described(&found) })))
}

#[derive(Deserialize)]
struct Reserved {
    id: Option<String>,
    reservation_id: Option<String>,
}

impl Reserved {
    /// The proof that the caller has the message. The id of a push names its delivery, and with it the subscriber.
    fn token(&self) -> HttpResult<Option<ConsumerToken>> {
        let token = |text: &str| match parse_reservation_id(text) {
            Some((delivery, reservation)) => Ok(ConsumerToken::Delivery(delivery, reservation)),
            None => reservation_of(text).map(ConsumerToken::Reservation),
        };
        self.reservation_id.as_deref().map(token).transpose()
    }
}

/// Deletes the messages that the body names, or all.
async fn delete(call: &IronCall, queue: MessageQueueName) -> HttpResult {
    #[derive(Deserialize)]
    struct Delete {
        ids: Option<Vec<Reserved>>,
    }
    let Delete { ids } = call.parse()?;
    let command = match ids {
        None => MessageCommand::Clear,
        Some(ids) if ids.len() > BATCH_MAX => {
            return Err(invalid(format!("a call deletes up to {BATCH_MAX} messages, this one {}", ids.len())).into());
        }
        Some(ids) => {
            let pair = |named: &Reserved| Ok((id_of(named.id.as_deref().unwrap_or_default())?, named.token()?));
            MessageCommand::Delete(ids.iter().map(pair).collect::<HttpResult<_>>()?)
        }
    };
    order(call, &queue, command).await?;
    Ok(answer(json!({ "msg": "Deleted" })))
}

async fn delete_one(call: &IronCall, queue: MessageQueueName, id: &str) -> HttpResult {
    // The URL that a subscriber gets with a message names the reservation in its query.
    let Reserved { id: _, reservation_id } = call.query()?;
    let body: Reserved = call.parse()?;
    let named = Reserved { reservation_id: body.reservation_id.or(reservation_id), ..body };
    order(call, &queue, MessageCommand::Delete(vec![(id_of(id)?, named.token()?)])).await?;
    Ok(answer(json!({ "msg": "Deleted" })))
}

#[derive(Deserialize)]
struct Change {
    reservation_id: String,
    timeout: Option<u64>,
    delay: Option<u64>,
}

async fn touch(call: &IronCall, queue: MessageQueueName, id: &str) -> HttpResult {
    let Change { reservation_id, timeout, .. } = call.parse()?;
    timeout.map_or(Ok(()), check_reservation).map_err(invalid)?;
    let command = MessageCommand::Touch(id_of(id)?, reservation_of(&reservation_id)?, timeout);
    let MessageReply::Changed(reservation) = order(call, &queue, command).await? else {
        return Err(unexpected().into());
    };
    Ok(answer(json!({ "reservation_id": reservation.0.to_string(), "msg": "Touched" })))
}

async fn release(call: &IronCall, queue: MessageQueueName, id: &str) -> HttpResult {
    let Change { reservation_id, delay, .. } = call.parse()?;
    let delay = delay.unwrap_or_default();
    check_delay(delay).map_err(invalid)?;
    let command = MessageCommand::Release(id_of(id)?, reservation_of(&reservation_id)?, delay);
    order(call, &queue, command).await?;
    Ok(answer(json!({ "msg": "Released" })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_queue_may_contain_slashes() {
        for (path, name, rest) in [
            ("a", "a", ""),
            ("a/b", "a/b", ""),
            ("a/b/messages", "a/b", "messages"),
            ("a/messages/7", "a", "messages/7"),
            ("a/b/messages/7/touch", "a/b", "messages/7/touch"),
            ("a/reservations", "a", "reservations"),
            ("messages", "messages", ""),
            ("messages/messages", "messages", "messages"),
        ] {
            let segments: Vec<&str> = path.split('/').collect();
            let (found, after) = split(&segments);
            assert_eq!((found.as_str(), after.join("/").as_str()), (name, rest), "{path}");
        }
    }
}
