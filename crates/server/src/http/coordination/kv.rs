//! `/v1/kv`: the app's keys.

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_api::endpoints::applications as endpoints;
use gantry_api::keys::{DeletedKey, KeyChange, KeyChangeKind, KeyInfo, ListedKeys, WrittenKey};
use gantry_api::{ErrorCode, Problem};
use gantry_coordination::{
    Command, Comparison, Condition, Deletion, Event, Events, KeyRange, KeyValue, Operation, OperationReply, Put,
    RangeQuery, Reply, Revision, Subject, Transaction,
};

use super::super::call::{Call, Routes};
use super::super::{HttpResult, json};
use super::{AppCall, AppCaller};
use crate::coordination::{CoordinationError, ReplyAtRevision, new_lease};

/// Adds the endpoints of keys.
pub(super) fn routes(routes: Routes<AppCaller>) -> Routes<AppCaller> {
    routes.endpoint(list).endpoint(show).endpoint(put).endpoint(delete)
}

/// Bytes as text, or in base64 if they are none.
fn shown(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn described(entry: &KeyValue) -> KeyInfo {
    let ((key, key_base64), (value, value_base64)) = (shown(&entry.key), shown(&entry.value));
    let (revision, created, version) = (entry.modified, entry.created, entry.version);
    KeyInfo { created, key, key_base64, revision, value, value_base64, version }
}

fn not_found(key: &str) -> Problem {
    Problem::new(ErrorCode::KeyNotFound, format!("there is no key {key:?}"))
}

/// A reply of another command: a fault of the task.
fn mismatch() -> CoordinationError {
    CoordinationError::Stopping
}

async fn show(Call { caller, at, query, .. }: AppCall<endpoints::ShowKey>) -> HttpResult<Response> {
    let name = at.key;
    let range = KeyRange::One(name.clone().into_bytes());
    if let Some(after) = query.wait {
        let mut poll = caller.poll(true);
        loop {
            poll.mark_seen();
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
    json(&described(entry))
}

async fn list(Call { caller, query, .. }: AppCall<endpoints::ListKeys>) -> HttpResult<ListedKeys> {
    let range = KeyRange::prefix(query.prefix.as_bytes());
    let Some(mut after) = query.wait else {
        let read = caller.run(Command::One(Operation::Range(RangeQuery::of(range)))).await?;
        let Reply::One(OperationReply::Range(found)) = read.reply else { return Err(mismatch().into()) };
        let entries = found.entries.iter().map(|entry| described(entry)).collect();
        return Ok(ListedKeys::Keys { entries, revision: read.revision });
    };
    let mut poll = caller.poll(true);
    loop {
        poll.mark_seen();
        let found = watched(caller.run(Command::Watch(range.clone(), after + 1)).await?)?;
        after = found.through;
        if !found.events.is_empty() || !poll.changed().await? {
            let events = found.events.iter().map(change).collect();
            return Ok(ListedKeys::Changes { events, revision: after });
        }
    }
}

fn watched(answered: ReplyAtRevision) -> Result<Events, CoordinationError> {
    match answered.reply {
        Reply::Events(events) => Ok(events),
        _ => Err(mismatch()),
    }
}

fn change(event: &Event) -> KeyChange {
    let (key, key_base64) = shown(&event.key);
    let (kind, (value, value_base64)) = match &event.entry {
        Some(entry) => (KeyChangeKind::Put, shown(&entry.value)),
        None => (KeyChangeKind::Delete, (None, None)),
    };
    KeyChange { key, key_base64, revision: event.revision, kind, value, value_base64 }
}

/// Runs an operation if the key has the expected revision.
async fn compare_and_run(
    caller: &AppCaller,
    name: &str,
    cas: Option<Revision>,
    operation: Operation,
) -> HttpResult<OperationReply> {
    let range = KeyRange::One(name.as_bytes().to_vec());
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
    let expected_revision = cas.unwrap_or_default();
    let message =
        format!("the key {name:?} has revision {present}, and not {expected_revision}; a missing key has revision 0");
    Err(Problem::new(ErrorCode::RevisionConflict, message).into())
}

async fn put(Call { caller, at, query, body, .. }: AppCall<endpoints::PutKey>) -> HttpResult<WrittenKey> {
    let ttl = query.ttl.map(|ttl| (new_lease(), ttl));
    let put = Put { ttl, ..Put::new(at.key.as_bytes().to_vec(), body.to_vec()) };
    match compare_and_run(&caller, &at.key, query.cas, Operation::Put(put)).await? {
        OperationReply::Put { entry, .. } => {
            let ((key, key_base64), KeyValue { created, modified, version, .. }) = (shown(&entry.key), &*entry);
            Ok(WrittenKey { created: *created, key, key_base64, revision: *modified, version: *version })
        }
        _ => Err(mismatch().into()),
    }
}

async fn delete(Call { caller, at, query, .. }: AppCall<endpoints::DeleteKey>) -> HttpResult<DeletedKey> {
    let range = KeyRange::One(at.key.as_bytes().to_vec());
    let deletion = Operation::Delete(Deletion { range, previous: false });
    match compare_and_run(&caller, &at.key, query.cas, deletion).await? {
        OperationReply::Delete { deleted, .. } => Ok(DeletedKey { deleted: deleted > 0 }),
        _ => Err(mismatch().into()),
    }
}
