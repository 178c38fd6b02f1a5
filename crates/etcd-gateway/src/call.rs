//! Calls: what a request asks for.

use gantry_coordination::{Command, Key, KeyRange, LeaseId, Operation, Revision};
use serde_json::{Deserializer, Value};

use crate::GatewayError;
use crate::fields::{Fields, choice};
use crate::operation::{deletion, lease_of, put, range, range_of, transaction};

/// Maximum number of messages in the body of a stream.
const STREAM_MAX: usize = 64;

/// Name of the leader of an election, as a client got it from a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderKey {
    /// Name of the election.
    pub name: Key,
    /// Key of the leader's place.
    pub key: Key,
    /// Create revision of the place.
    pub revision: Revision,
}

/// A watch to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOrder {
    /// The keys.
    pub range: KeyRange,
    /// First revision of the watch; zero begins with the next one.
    pub start: Revision,
    /// Leave out writes.
    pub no_put: bool,
    /// Leave out removals.
    pub no_delete: bool,
    /// Send the entries before.
    pub previous: bool,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A command with one reply.
    Command(Command),
    /// A grant; without an id, the server chooses one.
    Grant {
        /// The id.
        id: Option<LeaseId>,
        /// Time to live in seconds.
        ttl: i64,
    },
    /// Renewals, as a stream.
    KeepAlive(Vec<LeaseId>),
    /// A description of a lease.
    TimeToLive {
        /// The lease.
        id: LeaseId,
        /// List its keys, too.
        keys: bool,
    },
    /// Watches, as a stream.
    Watch(Vec<WatchOrder>),
    /// A lock, as long as the client waits.
    Lock {
        /// Name of the lock.
        name: Key,
        /// The lease; none makes one of 60 s.
        lease: Option<LeaseId>,
    },
    /// The removal of a lock's key.
    Unlock(Key),
    /// A campaign, as long as the client waits.
    Campaign {
        /// Name of the election.
        name: Key,
        /// The lease; none makes one of 60 s.
        lease: Option<LeaseId>,
        /// The candidate's value.
        value: Vec<u8>,
    },
    /// A new value of the leader.
    Proclaim {
        /// The leader.
        leader: LeaderKey,
        /// The value.
        value: Vec<u8>,
    },
    /// The leader of an election.
    Leader(Key),
    /// All leaders of an election from now on, as a stream.
    Observe(Key),
    /// The end of a leadership.
    Resign(LeaderKey),
    /// A login: there is none.
    Authenticate,
    /// The state of the server.
    Status,
}

/// Parses the request of a path below `/v3/`. Returns nothing for an unknown path.
///
/// # Errors
/// When the body cannot be read.
pub fn parse(path: &str, body: &[u8]) -> Result<Option<Call>, GatewayError> {
    let streamed = matches!(path, "watch" | "lease/keepalive");
    let messages = match is_known(path) {
        true => messages(body, streamed)?,
        false => return Ok(None),
    };
    let fields = Fields::of(messages.first().unwrap_or(&Value::Null))?;
    let lease_id = |fields: Fields<'_>| fields.number("ID").map(LeaseId);
    Ok(Some(match path {
        "kv/range" => Call::Command(Command::One(Operation::Range(range(fields)?))),
        "kv/put" => Call::Command(Command::One(Operation::Put(put(fields)?))),
        "kv/deleterange" => Call::Command(Command::One(Operation::Delete(deletion(fields)?))),
        "kv/txn" => Call::Command(Command::Transact(transaction(fields, 0)?)),
        "kv/compaction" => Call::Command(Command::Compact(fields.number("revision")?)),
        "lease/grant" => Call::Grant { id: lease_of(fields, "ID")?, ttl: fields.number("TTL")? },
        "lease/revoke" | "kv/lease/revoke" => Call::Command(Command::Revoke(lease_id(fields)?)),
        "lease/timetolive" | "kv/lease/timetolive" => {
            Call::TimeToLive { id: lease_id(fields)?, keys: fields.flag("keys")? }
        }
        "lease/leases" | "kv/lease/leases" => Call::Command(Command::Leases),
        "lease/keepalive" => {
            Call::KeepAlive(messages.iter().map(|message| lease_id(Fields::of(message)?)).collect::<Result<_, _>>()?)
        }
        "watch" => {
            let orders = messages.iter().map(watch).collect::<Result<Vec<_>, _>>()?;
            Call::Watch(orders.into_iter().flatten().collect())
        }
        "lock/lock" => Call::Lock { name: fields.bytes("name")?, lease: lease_of(fields, "lease")? },
        "lock/unlock" => Call::Unlock(fields.bytes("key")?),
        "election/campaign" => Call::Campaign {
            name: fields.bytes("name")?,
            lease: lease_of(fields, "lease")?,
            value: fields.bytes("value")?,
        },
        "election/proclaim" => Call::Proclaim { leader: leader(fields)?, value: fields.bytes("value")? },
        "election/leader" => Call::Leader(fields.bytes("name")?),
        "election/observe" => Call::Observe(fields.bytes("name")?),
        "election/resign" => Call::Resign(leader(fields)?),
        "auth/authenticate" => Call::Authenticate,
        _ => Call::Status,
    }))
}

fn is_known(path: &str) -> bool {
    const KNOWN: [&str; 22] = [
        "kv/range",
        "kv/put",
        "kv/deleterange",
        "kv/txn",
        "kv/compaction",
        "lease/grant",
        "lease/revoke",
        "kv/lease/revoke",
        "lease/timetolive",
        "kv/lease/timetolive",
        "lease/leases",
        "kv/lease/leases",
        "lease/keepalive",
        "watch",
        "lock/lock",
        "lock/unlock",
        "election/campaign",
        "election/proclaim",
        "election/leader",
        "election/observe",
        "election/resign",
        "auth/authenticate",
    ];
    KNOWN.contains(&path) || path == "maintenance/status"
}

/// The messages of a body. An empty body is one empty message.
fn messages(body: &[u8], streamed: bool) -> Result<Vec<Value>, GatewayError> {
    let mut messages = Vec::new();
    for message in Deserializer::from_slice(body).into_iter::<Value>() {
        messages.push(message.map_err(|error| GatewayError::invalid(error.to_string()))?);
        // What follows the message of a call without a stream is not looked at.
        if !streamed {
            break;
        }
        if messages.len() > STREAM_MAX {
            return Err(GatewayError::invalid("too many messages in one stream"));
        }
    }
    if messages.is_empty() {
        messages.push(Value::Null);
    }
    Ok(messages)
}

/// The watch of a message; none for a message that creates none.
fn watch(message: &Value) -> Result<Option<WatchOrder>, GatewayError> {
    let fields = Fields::of(message)?;
    if !fields.has("create_request") {
        return Ok(None);
    }
    let fields = fields.message("create_request")?;
    let names = ["NOPUT", "NODELETE"];
    let filters = fields.list("filters")?.iter().map(|filter| choice("filters", filter, &names));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(WatchOrder {
        // A watch of the empty key and of no end watches the lowest key.
        range: match range_of(fields)? {
            KeyRange::One(key) if key.is_empty() => KeyRange::One(vec![0]),
            range => range,
        },
        start: fields.number("start_revision")?.max(0),
        no_put: filters.contains(&0),
        no_delete: filters.contains(&1),
        previous: fields.flag("prev_kv")?,
    }))
}

fn leader(fields: Fields<'_>) -> Result<LeaderKey, GatewayError> {
    if !fields.has("leader") {
        return Err(GatewayError::unknown("\"leader\" field must be provided"));
    }
    let leader = fields.message("leader")?;
    Ok(LeaderKey { name: leader.bytes("name")?, key: leader.bytes("key")?, revision: leader.number("rev")? })
}
