//! Store on etcd v3, for several machines.
//!
//! Written against 3.4, which Debian ships. This version loses no watch event on two conditions. The caller restarts a
//! broken watch after the last revision seen, and answers a compaction with a new listing. [`StoreError`] tells the
//! caller which of the two to do.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, CompareOp, ConnectOptions, Error as ClientError, EventType, GetOptions, KeyValue, PutOptions, TxnOp,
    WatchOptions, WatchStream,
};

use crate::{
    ChangeBatch, KeyChange, LeaseId, Listing, Revision, Store, StoreEntry, StoreError, StoreWatch, Txn, TxnCondition,
    TxnOutcome, TxnWrite,
};

/// Timeout of a call to etcd.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Size limit of a response. A listing of everything may be larger than tonic's default of 4 MiB.
const MESSAGE_MAX: usize = 64 << 20;

pub(crate) struct EtcdStore {
    client: Client,
    address: String,
    prefix: String,
}

impl EtcdStore {
    pub(crate) async fn connect(endpoints: &[String], prefix: &str) -> Result<Self, StoreError> {
        let options = ConnectOptions::new()
            .with_connect_timeout(TIMEOUT)
            .with_keep_alive(Duration::from_secs(10), TIMEOUT)
            .with_require_leader(true);
        let address = endpoints.join(",");
        let client = Client::connect(endpoints, Some(options)).await.map_err(|source| unavailable(&address, source))?;
        let store = Self { client, address, prefix: prefix.to_owned() };
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

    /// Runs a call with the timeout and converts etcd's errors to [`StoreError`].
    async fn call<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(unavailable(&self.address, error)),
            Err(elapsed) => Err(unavailable(&self.address, elapsed)),
        }
    }
}

fn unavailable(address: &str, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable { address: address.to_owned(), source: Box::new(source) }
}

fn short(key: &[u8], prefix: &str) -> String {
    let key = String::from_utf8_lossy(key);
    key.strip_prefix(prefix).unwrap_or(&key).to_owned()
}

/// Recognizes gRPC's `NOT_FOUND`, etcd's response for a lease that is gone.
fn is_not_found(error: &ClientError) -> bool {
    matches!(error, ClientError::GRpcStatus(status) if status.code() as i32 == 5)
        || matches!(error, ClientError::LeaseKeepAliveError(_))
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<StoreEntry>, StoreError> {
        let mut client = self.client.kv_client();
        let answer = self.call(client.get(self.full(key), None)).await?;
        Ok(answer.kvs().first().map(|pair| self.entry(pair)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut client = self.client.kv_client().max_decoding_message_size(MESSAGE_MAX);
        let answer = self.call(client.get(self.full(prefix), Some(GetOptions::new().with_prefix()))).await?;
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
        let mut client = self.client.kv_client();
        let answer = self.call(client.txn(etcd_client::Txn::new().when(compares).and_then(writes))).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(if answer.succeeded() { TxnOutcome::Committed(revision) } else { TxnOutcome::Conflict })
    }

    async fn watch(&self, prefix: &str, revision: Revision) -> Result<Box<dyn StoreWatch>, StoreError> {
        let mut client = self.client.watch_client();
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let stream = self.call(client.watch(self.full(prefix), Some(options))).await?;
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
        let mut client = self.client.lease_client();
        Ok(LeaseId(self.call(client.grant(seconds, None)).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.client.lease_client();
        // Opening the stream is one round trip that renews the lease; the stream is then dropped.
        match tokio::time::timeout(TIMEOUT, client.keep_alive(lease.0)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if is_not_found(&error) => Err(StoreError::LeaseGone(lease.0)),
            Ok(Err(error)) => Err(unavailable(&self.address, error)),
            Err(elapsed) => Err(unavailable(&self.address, elapsed)),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.client.lease_client();
        match tokio::time::timeout(TIMEOUT, client.revoke(lease.0)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if is_not_found(&error) => Ok(()),
            Ok(Err(error)) => Err(unavailable(&self.address, error)),
            Err(elapsed) => Err(unavailable(&self.address, elapsed)),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut client = self.client.kv_client();
        match tokio::time::timeout(TIMEOUT, client.compact(revision, None)).await {
            Ok(Ok(_)) => Ok(()),
            // Another client already compacted further, so the history before `revision` is gone as requested.
            Ok(Err(error)) if is_compacted(&error) => Ok(()),
            Ok(Err(error)) => Err(unavailable(&self.address, error)),
            Err(elapsed) => Err(unavailable(&self.address, elapsed)),
        }
    }
}

/// Recognizes a compacted revision by its message, because gRPC's `OUT_OF_RANGE` also stands for other errors.
fn is_compacted(error: &ClientError) -> bool {
    matches!(error, ClientError::GRpcStatus(status) if status.message().contains("has been compacted"))
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
