//! `/v1/kv`: the app's keys.

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gantry_api::{ErrorCode, Problem};
use gantry_coordination::{
    Command, Comparison, Condition, Deletion, Events, KeyRange, KeyValue, Operation, OperationReply, Put, RangeQuery,
    Reply, Revision, Subject, Transaction,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::{HttpResult, Params, json as json_response};
use super::AppCaller;
use crate::coordination::{CoordinationError, ReplyAtRevision, new_lease};

/// Query of a read.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ReadQuery {
    /// Wait for a change after this revision.
    wait: Option<Revision>,
    /// Respond with the value alone.
    #[serde(default)]
    raw: bool,
}

/// Query of a list.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    prefix: String,
    /// Respond with the changes after this revision, and wait for the first one.
    wait: Option<Revision>,
}

/// Query of a write.
#[derive(Debug, Default, Deserialize)]
pub(super) struct WriteQuery {
    /// The revision that the key must have; zero means that the key must not exist.
    cas: Option<Revision>,
    /// Seconds after which the key ends, unless it is written again.
    ttl: Option<i64>,
}

/// Bytes as text, or in base64 under another name.
fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => object.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes))),
    };
}

fn described(entry: &KeyValue) -> Value {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", &entry.key);
    insert_bytes(&mut object, "value", &entry.value);
    object.insert("revision".to_owned(), json!(entry.modified));
    object.insert("created".to_owned(), json!(entry.created));
    object.insert("version".to_owned(), json!(entry.version));
    Value::Object(object)
}

fn not_found(key: &str) -> Problem {
    Problem::new(ErrorCode::KeyNotFound, format!("there is no key {key:?}"))
}

/// A reply of another command: a fault of the task.
fn mismatch() -> CoordinationError {
    CoordinationError::Stopping
}

pub(super) async fn show(caller: AppCaller, Params(query): Params<ReadQuery>) -> HttpResult<Response> {
    let name = caller.parameter("key").to_owned();
    let range = KeyRange::One(name.clone().into_bytes());
    if let Some(after) = query.wait {
        let mut poll = caller.poll(true);
        loop {
            poll.look();
            let events = watched(caller.run(Command::Watch(range.clone(), after + 1)).await?)?;
            if !events.events.is_empty() || !poll.changed().await? {
                break;
            }
        }
    }
    let read = Command::One(Operation::Range(RangeQuery::of(range)));
    let Reply::One(OperationReply::Range(found)) = caller.run(read).await?.reply else { return Err(mismatch().into()) };
    let entry = found.entries.first().ok_or_else(|| not_found(&name))?;
    if query.raw {
        let head =
            [("content-type", "application/octet-stream".to_owned()), ("gantry-revision", entry.modified.to_string())];
        return Ok((head, entry.value.clone()).into_response());
    }
    json_response(&described(entry))
}

pub(super) async fn list(caller: AppCaller, Params(query): Params<ListQuery>) -> HttpResult<Response> {
    let range = KeyRange::prefix(query.prefix.as_bytes());
    let Some(mut after) = query.wait else {
        let read = caller.run(Command::One(Operation::Range(RangeQuery::of(range)))).await?;
        let Reply::One(OperationReply::Range(found)) = read.reply else { return Err(mismatch().into()) };
        let entries: Vec<Value> = found.entries.iter().map(|entry| described(entry)).collect();
        return json_response(&json!({ "revision": read.revision, "entries": entries }));
    };
    let mut poll = caller.poll(true);
    loop {
        poll.look();
        let found = watched(caller.run(Command::Watch(range.clone(), after + 1)).await?)?;
        after = found.through;
        if !found.events.is_empty() || !poll.changed().await? {
            let events: Vec<Value> = found.events.iter().map(event).collect();
            return json_response(&json!({ "revision": after, "events": events }));
        }
    }
}

fn watched(answered: ReplyAtRevision) -> Result<Events, CoordinationError> {
    match answered.reply {
        Reply::Events(events) => Ok(events),
        _ => Err(mismatch()),
    }
}

fn event(event: &gantry_coordination::Event) -> Value {
    let mut object = Map::new();
    let kind = if event.entry.is_some() { "put" } else { "delete" };
    object.insert("type".to_owned(), json!(kind));
    insert_bytes(&mut object, "key", &event.key);
    if let Some(entry) = &event.entry {
        insert_bytes(&mut object, "value", &entry.value);
    }
    object.insert("revision".to_owned(), json!(event.revision));
    Value::Object(object)
}

/// Runs an operation if the key has the expected revision.
async fn compare_and_run(
    caller: &AppCaller,
    cas: Option<Revision>,
    operation: Operation,
) -> HttpResult<OperationReply> {
    let name = caller.parameter("key").to_owned();
    let range = KeyRange::One(name.clone().into_bytes());
    let condition = cas.map(|revision| Condition {
        range: range.clone(),
        comparison: Comparison::Equal,
        subject: Subject::Modified(revision),
    });
    let transaction = Transaction {
        conditions: condition.into_iter().collect(),
        success: vec![operation],
        failure: vec![Operation::Range(RangeQuery::of(range))],
    };
    let Reply::Transact(mut done) = caller.run(Command::Transact(transaction)).await?.reply else {
        return Err(mismatch().into());
    };
    let reply = done.replies.pop().ok_or_else(mismatch)?;
    if done.succeeded {
        return Ok(reply);
    }
    let present = match reply {
        OperationReply::Range(found) => found.entries.first().map_or(0, |entry| entry.modified),
        _ => 0,
    };
    let wanted = cas.unwrap_or_default();
    let message = format!("the key {name:?} has revision {present}, and not {wanted}; a missing key has revision 0");
    Err(Problem::new(ErrorCode::RevisionConflict, message).into())
}

pub(super) async fn put(caller: AppCaller, Params(query): Params<WriteQuery>, body: Bytes) -> HttpResult<Response> {
    let ttl = query.ttl.map(|ttl| (new_lease(), ttl));
    let put = Put { ttl, ..Put::new(caller.parameter("key").as_bytes().to_vec(), body.to_vec()) };
    match compare_and_run(&caller, query.cas, Operation::Put(put)).await? {
        OperationReply::Put { entry, .. } => {
            let mut object = Map::new();
            insert_bytes(&mut object, "key", &entry.key);
            object.insert("revision".to_owned(), json!(entry.modified));
            object.insert("created".to_owned(), json!(entry.created));
            object.insert("version".to_owned(), json!(entry.version));
            json_response(&object)
        }
        _ => Err(mismatch().into()),
    }
}

pub(super) async fn delete(caller: AppCaller, Params(query): Params<WriteQuery>) -> HttpResult<Response> {
    let range = KeyRange::One(caller.parameter("key").as_bytes().to_vec());
    let deletion = Operation::Delete(Deletion { range, previous: false });
    match compare_and_run(&caller, query.cas, deletion).await? {
        OperationReply::Delete { deleted, .. } => json_response(&json!({ "deleted": deleted > 0 })),
        _ => Err(mismatch().into()),
    }
}
