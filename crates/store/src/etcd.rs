//! Store on etcd v3, for several machines.
//!
//! Written against 3.4, which Debian ships. This version loses no watch event on two conditions. The caller restarts a
//! broken watch after the last revision seen, and answers a compaction with a new listing. [`StoreError`] tells the
//! caller which of the two to do.

mod etcd_error;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, CompareOp, ConnectOptions, Error as ClientError, EventType, GetOptions, Identity, KeyValue,
    PutOptions, TlsOptions, TxnOp, WatchOptions, WatchStream,
};

use self::etcd_error::{EtcdError, has_no_space_alarm};
use crate::{
    ChangeBatch, EtcdTls, KeyChange, LeaseId, Listing, Revision, Store, StoreEntry, StoreError, StoreFault, StoreWatch,
    Txn, TxnCondition, TxnOutcome, TxnWrite,
};

/// Timeout of a call to etcd.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of one attempt of a renewal of a lease, or of a small read. A member that hangs must not cost a lease: the next
/// attempt goes to another one.
const SHORT_TIMEOUT: Duration = Duration::from_millis(700);

/// Timeout of a question about a member.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(2);

/// Size of a member's data that is most of etcd's default quota, 2 GiB.
const ALMOST_FULL: u64 = 3 << 29;

/// Pause before a call goes to the next member.
const NEXT_PAUSE: Duration = Duration::from_millis(50);

/// Size limit of a response. A listing of everything may be larger than tonic's default of 4 MiB.
const MESSAGE_MAX: usize = 64 << 20;

/// Number of times that a call may be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repetition {
    /// A second time changes nothing.
    Any,
    /// Only if no member has taken the call.
    IfNotTaken,
}

/// Runs a call on the present member. After a failure the next call goes to the next member; a call that may be repeated
/// goes there, too.
macro_rules! on_member {
    ($store:ident, $repetition:expr, $timeout:expr, |$client:ident| $call:expr) => {{
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        loop {
            let (turn, $client) = $store.member();
            match $store.call($timeout, $call).await {
                Err(error @ StoreError::Unavailable { .. }) if !is_answer(&error) => {
                    $store.turn(turn);
                    let may_repeat = $repetition == Repetition::Any || was_not_taken(&error);
                    if !may_repeat || tokio::time::Instant::now() >= deadline {
                        break Err(error);
                    }
                    tokio::time::sleep(NEXT_PAUSE).await;
                }
                result => break result,
            }
        }
    }};
}

pub(crate) struct EtcdStore {
    /// A client of each member. A client of all members would give each of them a part of the calls, whether it lives or
    /// not.
    clients: Vec<Client>,
    /// Counts turns to the next member.
    turns: AtomicUsize,
    address: String,
    endpoints: Vec<String>,
    options: ConnectOptions,
    prefix: String,
}

impl EtcdStore {
    pub(crate) async fn connect(endpoints: &[String], prefix: &str, tls: Option<&EtcdTls>) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(TIMEOUT)
            .with_keep_alive(Duration::from_secs(10), TIMEOUT)
            .with_require_leader(true);
        if let Some(tls) = tls {
            options = options.with_tls(tls_options(tls)?);
        }
        let address = endpoints.join(",");
        let mut clients = Vec::new();
        for endpoint in endpoints {
            let client = Client::connect([endpoint], Some(options.clone())).await;
            clients.push(client.map_err(|source| unavailable(&address, source))?);
        }
        let (turns, prefix) = (AtomicUsize::default(), prefix.to_owned());
        let store = Self { clients, turns, address, endpoints: endpoints.to_owned(), options, prefix };
        // The client connects lazily. A first read reports a wrong address here.
        store.get("").await?;
        Ok(store)
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn entry(&self, pair: &KeyValue) -> StoreEntry {
        StoreEntry {
            key: short(pair.key(), &self.prefix),
            value: pair.value().to_vec(),
            created: pair.create_revision(),
            modified: pair.mod_revision(),
        }
    }

    /// Returns the member that gets the next call, and its client.
    fn member(&self) -> (usize, &Client) {
        let turn = self.turns.load(Ordering::Relaxed);
        (turn, &self.clients[turn % self.clients.len()])
    }

    /// Turns to the next member, unless another call has done so.
    fn turn(&self, from: usize) {
        let _ = self.turns.compare_exchange(from, from.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Runs a call with a timeout and converts etcd's errors to [`StoreError`].
    async fn call<T>(
        &self,
        timeout: Duration,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if EtcdError::of(&error) == Some(EtcdError::OverQuota) => {
                Err(StoreError::Quota { address: self.address.clone() })
            }
            Ok(Err(error)) => Err(unavailable(&self.address, error)),
            Err(elapsed) => Err(unavailable(&self.address, elapsed)),
        }
    }

    /// Asks one member how it is.
    async fn fault(&self, endpoint: &str) -> Option<StoreFault> {
        let member = endpoint.split_once("://").map_or(endpoint, |(_, host)| host).to_owned();
        // A member that is cut off answers questions about itself all the same.
        let options = self.options.clone().with_require_leader(false);
        let asked = async { Client::connect([endpoint], Some(options)).await?.status().await };
        let Ok(Ok(status)) = tokio::time::timeout(MEMBER_TIMEOUT, asked).await else {
            return Some(StoreFault::Away { member });
        };
        let size = u64::try_from(status.db_size()).unwrap_or_default();
        if has_no_space_alarm(status.errors()) {
            return Some(StoreFault::Full { member, size });
        }
        if status.leader() == 0 {
            return Some(StoreFault::NoLeader { member });
        }
        (size >= ALMOST_FULL).then_some(StoreFault::AlmostFull { member, size })
    }
}

/// Reads the files for TLS.
fn tls_options(tls: &EtcdTls) -> Result<TlsOptions, StoreError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|source| StoreError::TlsFile { path: path.display().to_string(), source })
    };
    let options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    Ok(match &tls.client {
        Some(client) => options.identity(Identity::from_pem(read(&client.cert)?, read(&client.key)?)),
        None => options,
    })
}

fn unavailable(address: &str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable { address: address.to_owned(), source: Box::new(source) }
}

fn short(key: &[u8], prefix: &str) -> String {
    let key = String::from_utf8_lossy(key);
    key.strip_prefix(prefix).unwrap_or(&key).to_owned()
}

/// Returns the client's error, if there is one.
fn client_error(error: &StoreError) -> Option<&ClientError> {
    match error {
        StoreError::Unavailable { source, .. } => source.downcast_ref(),
        _ => None,
    }
}

/// Returns the kind of an error of etcd or of its client; none if no decision depends on the error.
fn kind(error: &StoreError) -> Option<EtcdError> {
    client_error(error).and_then(EtcdError::of)
}

/// Recognizes an answer of etcd: the same question to another member gets the same one.
fn is_answer(error: &StoreError) -> bool {
    matches!(kind(error), Some(EtcdError::LeaseGone | EtcdError::Compacted))
}

/// Recognizes a call that no member has taken. The outcome of other failed calls is unknown.
fn was_not_taken(error: &StoreError) -> bool {
    matches!(kind(error), Some(EtcdError::NotConnected | EtcdError::NoLeader))
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError> {
        let key = self.full(key);
        let answer =
            on_member!(self, Repetition::Any, SHORT_TIMEOUT, |client| client.kv_client().get(key.clone(), None))?;
        Ok(answer.kvs().first().map(|pair| self.entry(pair)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let (prefix, options) = (self.full(prefix), GetOptions::new().with_prefix());
        let answer = on_member!(self, Repetition::Any, TIMEOUT, |client| client
            .kv_client()
            .max_decoding_message_size(MESSAGE_MAX)
            .get(prefix.clone(), Some(options.clone())))?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(Listing { entries: answer.kvs().iter().map(|pair| self.entry(pair)).collect(), revision })
    }

    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        txn.check()?;
        let compares: Vec<_> = txn
            .compares
            .iter()
            .map(|compare| match compare {
                TxnCondition::Absent(key) => etcd_client::Compare::create_revision(self.full(key), CompareOp::Equal, 0),
                // etcd compares each key of the range; without any key, it compares a version of zero.
                TxnCondition::NoKeys(prefix) => {
                    etcd_client::Compare::version(self.full(prefix), CompareOp::Equal, 0).with_prefix()
                }
                TxnCondition::Modified(key, revision) => {
                    etcd_client::Compare::mod_revision(self.full(key), CompareOp::Equal, *revision)
                }
                TxnCondition::Created(key, revision) => {
                    etcd_client::Compare::create_revision(self.full(key), CompareOp::Equal, *revision)
                }
            })
            .collect();
        let writes: Vec<_> = txn
            .writes
            .into_iter()
            .map(|write| match write {
                TxnWrite::Put(key, value, lease) => {
                    let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                    TxnOp::put(self.full(&key), value, options)
                }
                TxnWrite::Delete(key) => TxnOp::delete(self.full(&key), None),
            })
            .collect();
        let txn = etcd_client::Txn::new().when(compares).and_then(writes);
        let answer = on_member!(self, Repetition::IfNotTaken, TIMEOUT, |client| client.kv_client().txn(txn.clone()))?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(if answer.succeeded() { TxnOutcome::Committed(revision) } else { TxnOutcome::Conflict })
    }

    async fn watch(&self, prefix: &str, revision: Revision) -> Result<Box<dyn StoreWatch>, StoreError> {
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let prefix = self.full(prefix);
        let stream = on_member!(self, Repetition::Any, TIMEOUT, |client| client
            .watch_client()
            .watch(prefix.clone(), Some(options.clone())))?;
        Ok(Box::new(EtcdWatch {
            stream,
            address: self.address.clone(),
            prefix: self.prefix.clone(),
            asked: revision,
            ready: VecDeque::new(),
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let granted =
            on_member!(self, Repetition::Any, SHORT_TIMEOUT, |client| client.lease_client().grant(seconds, None));
        Ok(LeaseId(granted?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // Opening the stream is one round trip that renews the lease; the stream is then dropped.
        let kept = on_member!(self, Repetition::Any, SHORT_TIMEOUT, |client| client.lease_client().keep_alive(lease.0));
        match kept {
            Err(error) if kind(&error) == Some(EtcdError::LeaseGone) => Err(StoreError::LeaseGone(lease.0)),
            kept => kept.map(drop),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = on_member!(self, Repetition::Any, TIMEOUT, |client| client.lease_client().revoke(lease.0));
        match revoked {
            Err(error) if kind(&error) == Some(EtcdError::LeaseGone) => Ok(()),
            revoked => revoked.map(drop),
        }
    }

    async fn faults(&self) -> Vec<StoreFault> {
        let asked = self.endpoints.iter().map(|endpoint| self.fault(endpoint));
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let compacted = on_member!(self, Repetition::Any, TIMEOUT, |client| client.kv_client().compact(revision, None));
        match compacted {
            // Another client already compacted further, so the history before `revision` is gone as requested.
            Err(error) if kind(&error) == Some(EtcdError::Compacted) => Ok(()),
            compacted => compacted.map(drop),
        }
    }
}

struct EtcdWatch {
    stream: WatchStream,
    address: String,
    prefix: String,
    asked: Revision,
    ready: VecDeque<ChangeBatch>,
}

impl EtcdWatch {
    fn change(&self, event: &etcd_client::Event) -> Option<(Revision, KeyChange)> {
        let pair = event.kv()?;
        let key = short(pair.key(), &self.prefix);
        let change = match event.event_type() {
            EventType::Put => KeyChange::Put(StoreEntry {
                key,
                value: pair.value().to_vec(),
                created: pair.create_revision(),
                modified: pair.mod_revision(),
            }),
            EventType::Delete => KeyChange::Delete(key),
        };
        Some((pair.mod_revision(), change))
    }
}

#[async_trait]
impl StoreWatch for EtcdWatch {
    async fn next(&mut self) -> Result<ChangeBatch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.asked = batch.revision;
                return Ok(batch);
            }
            let message = match self.stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(unavailable(&self.address, std::io::Error::other("etcd ended the watch"))),
                Err(error) => return Err(unavailable(&self.address, error)),
            };
            if message.compact_revision() > 0 {
                return Err(StoreError::Compacted { asked: self.asked });
            }
            if message.canceled() {
                let why = std::io::Error::other(message.cancel_reason().to_owned());
                return Err(unavailable(&self.address, why));
            }
            for (revision, change) in message.events().iter().filter_map(|event| self.change(event)).collect::<Vec<_>>()
            {
                match self.ready.back_mut() {
                    Some(batch) if batch.revision == revision => batch.changes.push(change),
                    _ => self.ready.push_back(ChangeBatch { revision, changes: vec![change] }),
                }
            }
        }
    }
}
