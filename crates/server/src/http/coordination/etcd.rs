//! The JSON gateway of etcd v3, confined to the keys of the app. The crate `etcd-gateway` has the shapes.

use std::time::Duration;

use axum::body::Body;
use axum::extract::RawPathParams;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use gantry_coordination::{
    Command, Comparison, Condition, Deletion, KeyRange, LeaseId, Operation, Put, Refusal, Reply, Revision, Subject,
    Transaction,
};
use gantry_etcd_gateway::{Call, GatewayError, LeaderKey, Service, WatchOrder, parse, response};
use http::{Method, StatusCode, header};
use serde_json::Value;
use tokio::sync::mpsc;

use super::super::ErrorResponse;
use super::AppCaller;
use crate::coordination::{AcquireOrder, Coordination, CoordinationError, HeldPlace, ReplyAtRevision, new_lease};
use crate::tasks::STREAM;

/// Time to live of a lease for a lock without one, in seconds.
const SESSION_TTL: i64 = 60;

/// Messages that wait for a slow client.
const STREAM_BUFFER: usize = 16;

/// Longest silence of a stream before the server looks whether it still leads.
const LEADERSHIP_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Serves `/version`.
pub(super) async fn version(caller: Result<AppCaller, ErrorResponse>) -> Response {
    match caller {
        Ok(_) => json(StatusCode::OK, &response::version()),
        Err(error) => refuse(&of_problem(&error)),
    }
}

/// Serves a path below `/v3/`.
pub(super) async fn serve(
    caller: Result<AppCaller, ErrorResponse>,
    path: RawPathParams,
    method: Method,
    body: Bytes,
) -> Response {
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => return refuse(&of_problem(&error)),
    };
    let call = path.iter().find(|(name, _)| *name == "call").map_or("", |(_, value)| value);
    match (parse(call, &body), method) {
        (Ok(None), _) => plain(StatusCode::NOT_FOUND, "Not Found\n"),
        (_, Method::OPTIONS) => cross_origin(StatusCode::OK.into_response()),
        (_, method) if method != Method::POST => plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n"),
        (Err(error), _) => refuse(&error),
        (Ok(Some(call)), _) => answer(caller, call).await.unwrap_or_else(|error| refuse(&error)),
    }
}

fn of_problem(error: &ErrorResponse) -> GatewayError {
    match error.0.status {
        403 | 404 => GatewayError { code: 7, message: error.0.message.clone() },
        507 => GatewayError::exhausted(error.0.message.clone()),
        _ => GatewayError::unavailable(error.0.message.clone()),
    }
}

fn of_error(error: CoordinationError, service: Service) -> GatewayError {
    match error {
        CoordinationError::Refused(refusal) => GatewayError::of(refusal, service),
        CoordinationError::Busy | CoordinationError::Full { .. } => GatewayError::exhausted(error.to_string()),
        _ => GatewayError::unavailable(error.to_string()),
    }
}

fn json(status: StatusCode, value: &Value) -> Response {
    let text = serde_json::to_vec(value).unwrap_or_default();
    cross_origin((status, [(header::CONTENT_TYPE, "application/json")], text).into_response())
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    cross_origin((status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

fn refuse(error: &GatewayError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, &error.body())
}

/// Adds the headers that etcd sends with every response.
fn cross_origin(mut response: Response) -> Response {
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
    ] {
        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    response
}

/// A response that is a stream of messages, each one chunk with an end of line.
fn streamed(receiver: mpsc::Receiver<Value>) -> Response {
    let lines = stream::unfold(receiver, |mut receiver| async move {
        let message = receiver.recv().await?;
        let mut text = serde_json::to_vec(&message).unwrap_or_default();
        text.push(b'\n');
        Some((Ok::<_, std::io::Error>(Bytes::from(text)), receiver))
    });
    let body = Body::from_stream(lines);
    cross_origin(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn answer(caller: AppCaller, call: Call) -> Result<Response, GatewayError> {
    let keys = |error| of_error(error, Service::Keys);
    let value = match call {
        Call::Command(command) => plain_reply(&caller.run(command).await.map_err(keys)?),
        Call::Grant { id, ttl } => {
            let id = id.unwrap_or_else(new_lease);
            plain_reply(&caller.run(Command::Grant { id, ttl }).await.map_err(keys)?)
        }
        Call::TimeToLive { id, keys: listed } => {
            let ReplyAtRevision { reply, revision } = caller.run(Command::Lease(id)).await.map_err(keys)?;
            let lease = if let Reply::Lease(lease) = &reply { Some(lease) } else { None };
            response::time_to_live(id, lease, listed, revision)
        }
        Call::KeepAlive(ids) => return keep_alive(&caller, ids).await,
        Call::Watch(orders) => return Ok(watch(caller, orders)),
        Call::Lock { name, lease } => {
            let (place, revision) = acquire(&caller, name, lease, None).await?;
            response::lock(&place.key, revision)
        }
        Call::Unlock(key) => {
            let deletion = Operation::Delete(Deletion { range: KeyRange::One(key), previous: false });
            let done = caller.run(Command::One(deletion)).await;
            response::done(done.map_err(|error| of_error(error, Service::Concurrency))?.revision)
        }
        Call::Campaign { name, lease, value } => {
            let (place, revision) = acquire(&caller, name.clone(), lease, Some(value)).await?;
            response::campaign(&name, &place, revision)
        }
        Call::Proclaim { leader, value } => {
            let put = Put { keep_lease: true, ..Put::new(leader.key.clone(), value) };
            let (succeeded, revision) = if_leader(&caller, &leader, Operation::Put(put)).await?;
            if !succeeded {
                return Err(GatewayError::unknown("election: not leader"));
            }
            response::done(revision)
        }
        Call::Resign(leader) => {
            let range = KeyRange::One(leader.key.clone());
            let deletion = Operation::Delete(Deletion { range, previous: false });
            response::done(if_leader(&caller, &leader, deletion).await?.1)
        }
        Call::Leader(name) => {
            let (holder, revision) = holder(&caller, name).await?;
            let holder = holder.ok_or_else(|| GatewayError::unknown("election: no leader"))?;
            response::leader(&holder, revision)
        }
        Call::Observe(name) => return Ok(observe(caller, name)),
        Call::Authenticate => {
            return Err(GatewayError { code: 9, message: "etcdserver: authentication is not enabled".to_owned() });
        }
        Call::Status => response::status(revision_of(&caller).await.map_err(keys)?),
    };
    Ok(json(StatusCode::OK, &value))
}

/// The response to a command of keys or leases.
fn plain_reply(ReplyAtRevision { reply, revision }: &ReplyAtRevision) -> Value {
    match reply {
        Reply::One(reply) => response::operation(reply, *revision),
        Reply::Transact(reply) => response::transaction(reply, *revision),
        Reply::Lease(lease) => response::granted(lease, *revision),
        Reply::Leases(ids) => response::leases(ids, *revision),
        _ => response::done(*revision),
    }
}

/// The newest revision of the app.
async fn revision_of(caller: &AppCaller) -> Result<Revision, CoordinationError> {
    // No lease has the id zero.
    Ok(caller.run(Command::Lease(LeaseId(0))).await?.revision)
}

async fn keep_alive(caller: &AppCaller, ids: Vec<LeaseId>) -> Result<Response, GatewayError> {
    let (sender, receiver) = mpsc::channel(ids.len().max(1));
    for id in ids {
        let renewed = caller.run(Command::KeepAlive(id)).await.map_err(|error| of_error(error, Service::Keys))?;
        let lease = if let Reply::Lease(lease) = &renewed.reply { Some(lease) } else { None };
        // The channel has room for all.
        let _ = sender.try_send(response::renewed(id, lease, renewed.revision));
    }
    Ok(streamed(receiver))
}

type AcquiredLock = (std::sync::Arc<gantry_coordination::KeyValue>, Revision);

async fn acquire(
    caller: &AppCaller,
    name: Vec<u8>,
    lease: Option<LeaseId>,
    value: Option<Vec<u8>>,
) -> Result<AcquiredLock, GatewayError> {
    let failed = |error| of_error(error, Service::Concurrency);
    let order = AcquireOrder { space: caller.space.clone(), name, lease, ttl: SESSION_TTL, value, wait: None };
    match Coordination::acquire(&caller.server, order).await.map_err(failed)? {
        HeldPlace::Held(place) => Ok((place, revision_of(caller).await.map_err(failed)?)),
        HeldPlace::Taken => Err(GatewayError::unknown("election: not leader")),
    }
}

/// Runs an operation if the place of a leader is still the one that the client knows.
async fn if_leader(
    caller: &AppCaller,
    leader: &LeaderKey,
    operation: Operation,
) -> Result<(bool, Revision), GatewayError> {
    if !response::is_place(leader) {
        return Err(GatewayError::unknown("election: not leader"));
    }
    let condition = Condition {
        range: KeyRange::One(leader.key.clone()),
        comparison: Comparison::Equal,
        subject: Subject::Created(leader.revision),
    };
    let transaction = Transaction { conditions: vec![condition], success: vec![operation], failure: Vec::new() };
    let done = caller.run(Command::Transact(transaction)).await;
    let done = done.map_err(|error| of_error(error, Service::Concurrency))?;
    Ok((matches!(&done.reply, Reply::Transact(reply) if reply.succeeded), done.revision))
}

type LockHolder = (Option<std::sync::Arc<gantry_coordination::KeyValue>>, Revision);

async fn holder(caller: &AppCaller, name: Vec<u8>) -> Result<LockHolder, GatewayError> {
    let found = caller.run(Command::Lock(name)).await.map_err(|error| of_error(error, Service::Concurrency))?;
    let holder = if let Reply::Lock(state) = found.reply { state.holder } else { None };
    Ok((holder, found.revision))
}

/// Sends each leader of an election, and nothing while there is none.
fn observe(caller: AppCaller, name: Vec<u8>) -> Response {
    let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
    let tasks = caller.server.tasks.clone();
    tasks.spawn(STREAM, async move {
        let mut changes = caller.server.coordination.watch(&caller.space);
        let mut known = None;
        loop {
            changes.borrow_and_update();
            let Ok((holder, revision)) = holder(&caller, name.clone()).await else { return };
            if let Some(holder) = holder.filter(|holder| known != Some(holder.modified)) {
                known = Some(holder.modified);
                if sender.send(response::result(response::leader(&holder, revision))).await.is_err() {
                    return;
                }
            }
            if !wait(&caller, &mut changes, &sender).await {
                return;
            }
        }
    });
    streamed(receiver)
}

/// Waits for a change; false once the client has left, or the term of leadership is over.
async fn wait(
    caller: &AppCaller,
    changes: &mut tokio::sync::watch::Receiver<Revision>,
    sender: &mpsc::Sender<Value>,
) -> bool {
    loop {
        tokio::select! {
            changed = changes.changed() => return changed.is_ok(),
            () = sender.closed() => return false,
            () = tokio::time::sleep(LEADERSHIP_POLL_INTERVAL) => {
                if !caller.server.coordination.is_open() {
                    return false;
                }
            }
        }
    }
}

/// A watch of a stream.
struct RunningWatch {
    id: i64,
    order: WatchOrder,
    /// The next revision to send.
    next: Revision,
    /// The history no longer has the next revision.
    over: bool,
}

/// Creates watches, and sends their changes.
fn watch(caller: AppCaller, orders: Vec<WatchOrder>) -> Response {
    let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
    let tasks = caller.server.tasks.clone();
    tasks.spawn(STREAM, async move {
        let mut changes = caller.server.coordination.watch(&caller.space);
        let Ok(revision) = revision_of(&caller).await else { return };
        let mut watches = Vec::new();
        for (id, order) in (0..).zip(orders) {
            if sender.send(response::watch_created(id, revision)).await.is_err() {
                return;
            }
            let next = if order.start == 0 { revision + 1 } else { order.start };
            watches.push(RunningWatch { id, order, next, over: false });
        }
        loop {
            changes.borrow_and_update();
            for watch in watches.iter_mut().filter(|watch| !watch.over) {
                if send_events(&caller, watch, &sender).await.is_none() {
                    return;
                }
            }
            if !wait(&caller, &mut changes, &sender).await {
                return;
            }
        }
    });
    streamed(receiver)
}

/// Sends all changes of a watch that are there. Returns nothing once the stream is over.
async fn send_events(caller: &AppCaller, watch: &mut RunningWatch, sender: &mpsc::Sender<Value>) -> Option<()> {
    loop {
        let look = Command::Watch(watch.order.range.clone(), watch.next);
        let (events, revision) = match caller.run(look).await {
            Ok(ReplyAtRevision { reply: Reply::Events(events), revision }) => (events, revision),
            Err(CoordinationError::Refused(Refusal::Compacted { compacted, .. })) => {
                watch.over = true;
                let revision = revision_of(caller).await.ok()?;
                return sender.send(response::watch_compacted(watch.id, compacted, revision)).await.ok();
            }
            _ => return None,
        };
        if let Some(message) = response::watch_events(watch.id, &watch.order, &events.events, revision) {
            sender.send(message).await.ok()?;
        }
        watch.next = watch.next.max(events.through + 1);
        if events.through >= revision {
            return Some(());
        }
    }
}
