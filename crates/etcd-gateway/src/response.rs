//! The JSON of responses.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_coordination::{
    Event, KeyValue, LeaseId, LeaseInfo, OperationReply, RangeReply, Revision, TransactionReply,
};
use serde_json::{Map, Value, json};

use crate::{ETCD_VERSION, LeaderKey, WatchOrder};

/// A message without the fields that are zero, false or empty.
#[derive(Default)]
struct Message(Map<String, Value>);

impl Message {
    /// A message with the header of a response.
    fn headed(revision: Revision) -> Self {
        Self::default().with("header", header(revision))
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    fn number(self, name: &str, number: i64) -> Self {
        if number == 0 { self } else { self.with(name, number.to_string().into()) }
    }

    fn count(self, name: &str, count: usize) -> Self {
        self.number(name, i64::try_from(count).unwrap_or(i64::MAX))
    }

    fn flag(self, name: &str, flag: bool) -> Self {
        if flag { self.with(name, true.into()) } else { self }
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.with(name, STANDARD.encode(bytes).into()) }
    }

    fn list(self, name: &str, values: Vec<Value>) -> Self {
        if values.is_empty() { self } else { self.with(name, values.into()) }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn header(revision: Revision) -> Value {
    json!({ "cluster_id": "7305808883204516609", "member_id": "1", "revision": revision.to_string(), "raft_term": "2" })
}

/// A response with nothing but a header.
#[must_use]
pub fn done(revision: Revision) -> Value {
    Message::headed(revision).done()
}

/// A key with its value.
fn pair(entry: &KeyValue) -> Value {
    Message::default()
        .bytes("key", &entry.key)
        .number("create_revision", entry.created)
        .number("mod_revision", entry.modified)
        .number("version", entry.version)
        .bytes("value", &entry.value)
        .number("lease", entry.lease.map_or(0, |lease| lease.0))
        .done()
}

fn pairs(entries: &[Arc<KeyValue>]) -> Vec<Value> {
    entries.iter().map(|entry| pair(entry)).collect()
}

/// The reply to one operation.
#[must_use]
pub fn operation(reply: &OperationReply, revision: Revision) -> Value {
    of_operation(reply, Message::headed(revision), revision)
}

/// The reply to a transaction.
#[must_use]
pub fn transaction(reply: &TransactionReply, revision: Revision) -> Value {
    of_transaction(reply, Message::headed(revision), revision)
}

fn of_operation(reply: &OperationReply, message: Message, revision: Revision) -> Value {
    match reply {
        OperationReply::Range(RangeReply { entries, count, more }) => {
            message.list("kvs", pairs(entries)).flag("more", *more).count("count", *count).done()
        }
        OperationReply::Put { previous, .. } => match previous {
            Some(previous) => message.with("prev_kv", pair(previous)).done(),
            None => message.done(),
        },
        OperationReply::Delete { deleted, previous } => {
            message.count("deleted", *deleted).list("prev_kvs", pairs(previous)).done()
        }
        OperationReply::Nested(nested) => of_transaction(nested, message, revision),
    }
}

fn of_transaction(reply: &TransactionReply, message: Message, revision: Revision) -> Value {
    let one = |reply: &OperationReply| {
        let name = match reply {
            OperationReply::Range(_) => "response_range",
            OperationReply::Put { .. } => "response_put",
            OperationReply::Delete { .. } => "response_delete_range",
            OperationReply::Nested(_) => "response_txn",
        };
        // Within a transaction, a header has the revision alone.
        let head = Message::default().with("header", json!({ "revision": revision.to_string() }));
        json!({ name: of_operation(reply, head, revision) })
    };
    message.flag("succeeded", reply.succeeded).list("responses", reply.replies.iter().map(one).collect()).done()
}

/// A granted lease.
#[must_use]
pub fn granted(lease: &LeaseInfo, revision: Revision) -> Value {
    Message::headed(revision).number("ID", lease.id.0).number("TTL", lease.granted).done()
}

/// A renewed lease; without a lease, the reply for an unknown one.
#[must_use]
pub fn renewed(id: LeaseId, lease: Option<&LeaseInfo>, revision: Revision) -> Value {
    let message = Message::headed(revision).number("ID", id.0);
    result(message.number("TTL", lease.map_or(0, |lease| lease.granted)).done())
}

/// A description of a lease; without a lease, the reply for an unknown one.
#[must_use]
pub fn time_to_live(id: LeaseId, lease: Option<&LeaseInfo>, keys: bool, revision: Revision) -> Value {
    let message = Message::headed(revision).number("ID", id.0);
    let Some(lease) = lease else { return message.number("TTL", -1).done() };
    let keys = if keys { lease.keys.iter().map(|key| STANDARD.encode(key).into()).collect() } else { Vec::new() };
    message.number("TTL", lease.remaining).number("grantedTTL", lease.granted).list("keys", keys).done()
}

/// All leases.
#[must_use]
pub fn leases(ids: &[LeaseId], revision: Revision) -> Value {
    let one = |id: &LeaseId| json!({ "ID": id.0.to_string() });
    Message::headed(revision).list("leases", ids.iter().map(one).collect()).done()
}

/// A lock.
#[must_use]
pub fn lock(key: &[u8], revision: Revision) -> Value {
    Message::headed(revision).bytes("key", key).done()
}

/// A won campaign.
#[must_use]
pub fn campaign(name: &[u8], place: &KeyValue, revision: Revision) -> Value {
    let leader = Message::default()
        .bytes("name", name)
        .bytes("key", &place.key)
        .number("rev", place.created)
        .number("lease", place.lease.map_or(0, |lease| lease.0));
    Message::headed(revision).with("leader", leader.done()).done()
}

/// The leader of an election.
#[must_use]
pub fn leader(place: &KeyValue, revision: Revision) -> Value {
    Message::headed(revision).with("kv", pair(place)).done()
}

/// One message of a stream.
#[must_use]
pub fn result(message: Value) -> Value {
    json!({ "result": message })
}

/// The first message of a watch.
#[must_use]
pub fn watch_created(id: i64, revision: Revision) -> Value {
    result(Message::headed(revision).number("watch_id", id).flag("created", true).done())
}

/// The message of a watch whose revisions are gone.
#[must_use]
pub fn watch_compacted(id: i64, compacted: Revision, revision: Revision) -> Value {
    let message = Message::headed(revision).number("watch_id", id).flag("canceled", true);
    // The lowest revision that a watch may begin with.
    result(message.number("compact_revision", compacted + 1).done())
}

/// Changes of a watch; none if the filters leave nothing.
#[must_use]
pub fn watch_events(id: i64, order: &WatchOrder, events: &[Event], revision: Revision) -> Option<Value> {
    let is_included = |event: &&Event| if event.entry.is_some() { !order.no_put } else { !order.no_delete };
    let one = |event: &Event| {
        let removed = || Message::default().bytes("key", &event.key).number("mod_revision", event.revision).done();
        let message = match &event.entry {
            Some(entry) => Message::default().with("kv", pair(entry)),
            None => Message::default().with("type", "DELETE".into()).with("kv", removed()),
        };
        match event.previous.as_ref().filter(|_| order.previous) {
            Some(previous) => message.with("prev_kv", pair(previous)).done(),
            None => message.done(),
        }
    };
    let events: Vec<Value> = events.iter().filter(is_included).map(one).collect();
    let any = !events.is_empty();
    any.then(|| result(Message::headed(revision).number("watch_id", id).list("events", events).done()))
}

/// The state of the server.
#[must_use]
pub fn status(revision: Revision) -> Value {
    Message::headed(revision).with("version", ETCD_VERSION.into()).with("leader", "1".into()).done()
}

/// The response of `/version`.
#[must_use]
pub fn version() -> Value {
    json!({ "etcdserver": ETCD_VERSION, "etcdcluster": "3.5.0" })
}

/// The place that a proclamation or a resignation names is one of this election.
#[must_use]
pub fn is_place(leader: &LeaderKey) -> bool {
    leader.key.starts_with(&leader.name) && leader.key.get(leader.name.len()) == Some(&b'/')
}
