//! The servers of a cluster: which there are, and which live.
//!
//! Each server keeps two records in the store. The first makes the server known and has no end. A lease removes the second
//! soon after the server has ended. A third record is a secret by which servers know each other: a process that reads the
//! store is a server. None of these belongs to a backup.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gantry_records::schema::UNFINISHED;
use gantry_store::{LeaseId, Listing, Store, StoreError, Txn, TxnCondition, TxnOutcome};
use gantry_supervision::{Backoff, ReconcileLoop};
use gantry_trust::{Credentials, Peer, TrustError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::keys::{KNOWN, LIVE, PREFIX, SECRET};
use crate::settings::PeerAddress;
use crate::{ServerSettings, tokens};

/// Version of the records.
const VERSION: u32 = 1;

/// Time that a server counts as alive after it was last heard of.
const TTL: Duration = Duration::from_secs(5);

/// Interval of renewals, and of reading the records.
const INTERVAL: Duration = Duration::from_secs(1);

/// Record of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerRecord {
    version: u32,
    /// Name of the server.
    pub(crate) name: String,
    /// Address at which other servers reach it.
    #[serde(flatten)]
    pub(crate) address: PeerAddress,
}

impl ServerRecord {
    /// Returns what a connection to the server needs.
    pub(super) fn connection_target(&self) -> (&str, &PeerAddress) {
        (&self.name, &self.address)
    }
}

/// The records of all servers.
#[derive(Clone, Default, PartialEq, Eq)]
struct Members {
    live: BTreeMap<String, ServerRecord>,
    known: BTreeMap<String, ServerRecord>,
    secret: Option<String>,
}

/// Leaves out the secret.
impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members").field("live", &self.live).field("known", &self.known).finish_non_exhaustive()
    }
}

impl Members {
    /// Parses the records. A record of a later version that this server cannot read is left out.
    fn parse(listing: &Listing) -> Self {
        let under = |prefix: &str| {
            let entries = listing.entries.iter().filter(|entry| entry.key.starts_with(prefix));
            let records = entries.filter_map(|entry| serde_json::from_slice::<ServerRecord>(&entry.value).ok());
            records.map(|record| (record.name.clone(), record)).collect()
        };
        let secret = listing.entries.iter().find(|entry| entry.key == SECRET);
        let secret = secret.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        Self { live: under(LIVE), known: under(KNOWN), secret }
    }
}

/// Knowledge of one server about all servers.
pub(crate) struct Membership {
    own: ServerRecord,
    /// Makes connections to other servers, once this server has a certificate.
    connector: OnceLock<TlsConnector>,
    members: watch::Sender<Members>,
}

impl Membership {
    /// The membership of a server that has read no records yet.
    pub(crate) fn new(settings: &ServerSettings) -> Self {
        let own = ServerRecord { version: VERSION, name: settings.name.clone(), address: settings.peer_address() };
        Self { own, connector: OnceLock::new(), members: watch::Sender::default() }
    }

    /// Takes the certificate of this server, which other servers ask for.
    pub(crate) fn set_certificate(&self, credentials: &Credentials) -> Result<(), TrustError> {
        let _ = self.connector.set(credentials.client_config(&[b"http/1.1"])?.into());
        Ok(())
    }

    /// Returns what makes TLS connections to other servers, once this server has a certificate.
    pub(super) fn connector(&self) -> Option<TlsConnector> {
        self.connector.get().cloned()
    }

    /// Returns this server's record.
    pub(crate) fn own(&self) -> &ServerRecord {
        &self.own
    }

    /// Returns the other servers that live.
    pub(crate) fn peers(&self) -> Vec<ServerRecord> {
        let members = self.members.borrow();
        members.live.values().filter(|record| record.name != self.own.name).cloned().collect()
    }

    /// Returns every known server, and whether it lives.
    pub(crate) fn all(&self) -> Vec<(ServerRecord, bool)> {
        let members = self.members.borrow();
        let lives = |record: &ServerRecord| record.name == self.own.name || members.live.contains_key(&record.name);
        members.known.values().map(|record| (record.clone(), lives(record))).collect()
    }

    /// Subscribes to changes of the servers.
    pub(crate) fn changes(&self) -> watch::Receiver<impl Sized + use<>> {
        self.members.subscribe()
    }

    /// Returns the secret of the servers, once it was read.
    pub(crate) fn secret(&self) -> Option<String> {
        self.members.borrow().secret.clone()
    }

    /// Returns whether a request with this secret, on a connection with this peer, comes from a server. In a cluster a
    /// server also shows its certificate.
    pub(crate) fn is_server(&self, secret: &str, peer: Option<&Peer>) -> bool {
        let has_certificate = matches!(peer, Some(Peer::Machine { is_server: true, .. }));
        if self.own.address.tls && !has_certificate {
            return false;
        }
        // Hashes of equal length tell nothing by the time that their comparison takes.
        self.members.borrow().secret.as_ref().is_some_and(|own| tokens::hash(own) == tokens::hash(secret))
    }

    /// Keeps this server's records, and reads those of all servers, for ever.
    pub(crate) async fn keep(&self, store: &Arc<dyn Store>) -> Infallible {
        let mut lease = None;
        let keeping = ReconcileLoop::new("record of this server", INTERVAL, Backoff::constant(INTERVAL));
        keeping.run(async || self.round(store, &mut lease).await).await
    }

    async fn round(&self, store: &Arc<dyn Store>, lease: &mut Option<LeaseId>) -> Result<(), StoreError> {
        if let Some(held) = *lease {
            match store.keep_alive(held).await {
                Err(StoreError::LeaseGone(_)) => *lease = None,
                kept => kept?,
            }
        }
        let mut members = Members::parse(&store.list(PREFIX).await?);
        // The listing decides: a lease may have ended and taken the record with it although its renewal succeeded.
        if lease.is_none() || members.live.get(&self.own.name) != Some(&self.own) {
            *lease = self.register(store).await?;
            members = Members::parse(&store.list(PREFIX).await?);
        }
        if members.secret.is_none() {
            let secret = serde_json::to_vec(&tokens::new_secret()).unwrap_or_default();
            store.commit(in_whole_store().when(TxnCondition::Absent(SECRET.to_owned())).put(SECRET, secret)).await?;
            members = Members::parse(&store.list(PREFIX).await?);
        }
        self.members.send_if_modified(|known| {
            let changed = *known != members;
            *known = members;
            changed
        });
        Ok(())
    }

    /// Writes this server's records, unless the store has only a part of its records. Returns their lease.
    async fn register(&self, store: &Arc<dyn Store>) -> Result<Option<LeaseId>, StoreError> {
        let lease = store.grant(TTL).await?;
        let value = serde_json::to_vec(&self.own).unwrap_or_default();
        let name = &self.own.name;
        let records = in_whole_store().put(format!("{KNOWN}{name}"), value.clone());
        match store.commit(records.put_leased(format!("{LIVE}{name}"), value, lease)).await? {
            TxnOutcome::Committed(_) => Ok(Some(lease)),
            TxnOutcome::Conflict => store.revoke(lease).await.map(|()| None),
        }
    }
}

/// A transaction for a store that has all of its records.
fn in_whole_store() -> Txn {
    Txn::default().when(TxnCondition::Absent(UNFINISHED.to_owned()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::servers) fn membership(name: &str) -> Membership {
        let address = PeerAddress { address: format!("{name}:1"), tls: false };
        let own = ServerRecord { version: VERSION, name: name.to_owned(), address };
        Membership { own, connector: OnceLock::new(), members: watch::Sender::default() }
    }

    #[test]
    fn debug_leaves_out_the_secret_of_the_servers() {
        let known = [("one".to_owned(), membership("one").own)].into();
        let members =
            format!("{:?}", Members { known, secret: Some("cluster-secret".to_owned()), live: BTreeMap::new() });
        assert!(members.contains("one") && !members.contains("cluster-secret"), "{members}");
    }

    #[tokio::test]
    async fn writes_no_record_of_a_server_beside_a_part_of_the_records() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = gantry_store::StoreAddress::File(folder.path().join("store.db"));
        let store = gantry_store::open(&address).await.expect("a store");
        store.commit(Txn::default().put(UNFINISHED, "backup.tar")).await.expect("marked");
        let (one, mut lease) = (membership("one"), None);
        one.round(&store, &mut lease).await.expect("a round");
        assert_eq!((lease, one.secret()), (None, None));
        let keys: Vec<String> = store.list("").await.expect("a listing").entries.into_iter().map(|e| e.key).collect();
        assert_eq!(keys, [UNFINISHED]);
        store.commit(Txn::default().delete(UNFINISHED)).await.expect("all records are there");
        one.round(&store, &mut lease).await.expect("a round");
        assert!(lease.is_some() && one.secret().is_some());
    }

    #[tokio::test]
    async fn servers_know_each_other_and_notice_an_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = gantry_store::StoreAddress::File(folder.path().join("store.db"));
        let store = gantry_store::open(&address).await.expect("a store");
        let (one, two) = (membership("one"), membership("two"));
        let (mut first, mut second) = (None, None);
        one.round(&store, &mut first).await.expect("a round");
        two.round(&store, &mut second).await.expect("a round");
        one.round(&store, &mut first).await.expect("a round");
        assert_eq!(one.peers(), std::slice::from_ref(&two.own));
        let secret = two.secret().expect("a secret");
        assert!(one.is_server(&secret, None) && !one.is_server("", None) && !one.is_server("other", None));
        store.revoke(second.expect("a lease")).await.expect("ended");
        one.round(&store, &mut first).await.expect("a round");
        assert_eq!(one.peers(), []);
        assert_eq!(one.all(), [(one.own.clone(), true), (two.own.clone(), false)]);
        // A server whose record was lost writes it again.
        two.round(&store, &mut second).await.expect("a round");
        one.round(&store, &mut first).await.expect("a round");
        assert_eq!(one.peers(), std::slice::from_ref(&two.own));
    }
}
