//! Leadership: one server at a time writes. The create revision of the leadership key is the fencing token. Every write
//! carries the token, so a server that lost leadership without noticing writes nothing more.
//!
//! The value of the key names the leader and the address at which the other servers reach it. A lease removes the key of
//! a server that does not renew it; then the next server to ask takes leadership.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gantry_store::{LeaseId, Revision, Store, StoreAddress, StoreError, Txn, TxnCondition, TxnOutcome};
use serde::{Deserialize, Serialize};

use crate::clock::reading;
use crate::settings::PeerAddress;
use crate::{ServerError, ServerSettings};

/// Leadership key in the store.
pub(crate) const KEY: &str = "leader";

/// Version of the key's value. Earlier versions wrote the plain name.
const VERSION: u32 = 1;

/// Timeout for another server's leadership to end, where no follower can serve meanwhile.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// The value of the leadership key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaderRecord {
    version: u32,
    /// Name of the leading server.
    pub(crate) name: String,
    /// Address at which other servers reach the leader; none in the value of an earlier version.
    #[serde(flatten)]
    pub(crate) address: Option<PeerAddress>,
}

impl LeaderRecord {
    /// Parses a value. A value that is no record of this kind is the plain name of an earlier version.
    pub(crate) fn parse(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_else(|_| Self {
            version: 0,
            name: String::from_utf8_lossy(value).into_owned(),
            address: None,
        })
    }
}

/// A server that would lead.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    record: LeaderRecord,
    /// Time that leadership outlives a server that does not renew it.
    ttl: Duration,
    /// Time without a renewal after which the server counts itself as deposed. Until then a store that is briefly
    /// unreachable costs no term: the fencing token protects the records in any case.
    give_up: Duration,
    /// True if no other server can ever lead.
    is_sole: bool,
}

impl Candidate {
    /// The candidate with these settings. With etcd another server takes over within 3 s of the end of this one; etcd
    /// grants no shorter lease than 2 s. With a file no other server can take over.
    pub(crate) fn of(settings: &ServerSettings) -> Self {
        let seconds = |ttl, give_up| (Duration::from_secs(ttl), Duration::from_secs(give_up));
        let is_sole = matches!(settings.store, StoreAddress::File(_));
        let (ttl, give_up) = if is_sole { seconds(10, 10) } else { seconds(2, 4) };
        let record =
            LeaderRecord { version: VERSION, name: settings.name.clone(), address: Some(settings.peer_address()) };
        Self { record, ttl, give_up, is_sole }
    }

    /// A candidate of a test.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        let record = LeaderRecord { version: VERSION, name: name.to_owned(), address: None };
        Self { record, ttl: Duration::from_secs(10), give_up: Duration::from_secs(10), is_sole: false }
    }

    fn value(&self) -> Vec<u8> {
        // Text and numbers always serialize.
        serde_json::to_vec(&self.record).unwrap_or_default()
    }
}

/// Leadership of this server, until another server takes over. All clones share one state.
#[derive(Clone)]
pub(crate) struct Leadership {
    store: Arc<dyn Store>,
    candidate: Candidate,
    term: Arc<tokio::sync::Mutex<LeadershipTerm>>,
    /// Time since boot, in milliseconds, at which the last successful renewal began.
    renewed: Arc<AtomicU64>,
}

/// One term of leadership: a lease and its fencing token.
#[derive(Debug, Clone, Copy)]
struct LeadershipTerm {
    lease: LeaseId,
    /// The fencing token.
    revision: Revision,
}

/// Leadership of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtherLeader {
    /// The leader.
    pub(crate) record: LeaderRecord,
    /// Revision that wrote the key.
    pub(crate) modified: Revision,
}

/// Outcome of a claim.
pub(crate) enum Claim {
    /// This server leads.
    Leads(Leadership),
    /// Another server leads.
    Other(OtherLeader),
}

/// Takes leadership unless a server of another name leads. A server of the same name must be dead or about to be fenced
/// off, so takeover from that server is immediate.
pub(crate) async fn claim(store: &Arc<dyn Store>, candidate: &Candidate) -> Result<Claim, StoreError> {
    loop {
        if let Some(entry) = store.get(KEY).await? {
            let record = LeaderRecord::parse(&entry.value);
            if record.name != candidate.record.name {
                return Ok(Claim::Other(OtherLeader { record, modified: entry.modified }));
            }
            // The key is deleted first: the new key gets its own create revision, which fences off the old leader.
            depose(store, entry.modified).await?;
        }
        let lease = store.grant(candidate.ttl).await?;
        let absent = TxnCondition::Absent(KEY.to_owned());
        let taken = store.commit(Txn::default().when(absent).put_leased(KEY, candidate.value(), lease)).await?;
        if let TxnOutcome::Committed(revision) = taken {
            return Ok(Claim::Leads(Leadership::of(store, candidate, LeadershipTerm { lease, revision })));
        }
        store.revoke(lease).await?;
    }
}

/// Ends the leadership that this revision wrote. From then on its leader writes nothing.
pub(crate) async fn depose(store: &Arc<dyn Store>, modified: Revision) -> Result<(), StoreError> {
    let removed = Txn::default().when(TxnCondition::Modified(KEY.to_owned(), modified)).delete(KEY);
    store.commit(removed).await.map(drop)
}

/// Takes leadership, and waits until the lease of a server of another name has run out.
pub(crate) async fn acquire(store: &Arc<dyn Store>, candidate: &Candidate) -> Result<Leadership, ServerError> {
    let deadline = tokio::time::Instant::now() + TAKEOVER_TIMEOUT;
    loop {
        let other = match claim(store, candidate).await? {
            Claim::Leads(leadership) => return Ok(leadership),
            Claim::Other(other) => other.record.name,
        };
        if tokio::time::Instant::now() > deadline {
            return Err(ServerError::NotLeading(other));
        }
        tracing::info!(leader = other, "waiting until the other server's leadership ends");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

impl Leadership {
    /// Leadership of a server that cannot write. The term is not in the store, so the store refuses every write under
    /// its token.
    pub(crate) fn none(store: &Arc<dyn Store>, candidate: &Candidate) -> Self {
        Self::of(store, candidate, LeadershipTerm { lease: LeaseId(0), revision: 0 })
    }

    fn of(store: &Arc<dyn Store>, candidate: &Candidate, term: LeadershipTerm) -> Self {
        let term = Arc::new(tokio::sync::Mutex::new(term));
        Self { store: Arc::clone(store), candidate: candidate.clone(), term, renewed: Arc::default() }
    }

    /// Reports whether no other server can lead at this moment. A server that may have been deposed without noticing
    /// grants no lease.
    pub(crate) fn is_certain(&self) -> bool {
        let ttl = u64::try_from(self.candidate.ttl.as_millis()).unwrap_or_default();
        let age = reading().booted.saturating_sub(self.renewed.load(Ordering::Relaxed));
        self.candidate.is_sole || age < ttl
    }

    /// Returns the current fencing token.
    pub(crate) async fn revision(&self) -> Revision {
        self.term.lock().await.revision
    }

    /// Takes leadership again after the token `lost` became void, unless another server leads. The lease of a suspended
    /// process or machine runs out, but another server need not have taken over. The new token differs from the old
    /// one, so decisions made under the old token are not written.
    pub(crate) async fn take_again(&self, lost: Revision) -> Result<(), ServerError> {
        let mut term = self.term.lock().await;
        if term.revision != lost {
            return Ok(());
        }
        let lease = self.store.grant(self.candidate.ttl).await?;
        let absent = TxnCondition::Absent(KEY.to_owned());
        match self.store.commit(Txn::default().when(absent).put_leased(KEY, self.candidate.value(), lease)).await? {
            TxnOutcome::Committed(revision) => {
                tracing::warn!("the leadership lease ran out; no other server took over, and this server leads again");
                *term = LeadershipTerm { lease, revision };
                Ok(())
            }
            TxnOutcome::Conflict => {
                let _ = self.store.revoke(lease).await;
                Err(ServerError::NotLeading("another server took over the leadership".to_owned()))
            }
        }
    }

    /// Renews leadership periodically; returns the cause when leadership is lost.
    pub(crate) async fn renew_until_lost(&self) -> ServerError {
        let (mut renewed, mut logged) = (tokio::time::Instant::now(), false);
        let Candidate { ttl, give_up, .. } = self.candidate;
        loop {
            tokio::time::sleep(ttl / 4).await;
            let asked = reading().booted;
            let term = *self.term.lock().await;
            let kept = match self.store.keep_alive(term.lease).await {
                Err(gantry_store::StoreError::LeaseGone(_)) => self.take_again(term.revision).await,
                kept => kept.map_err(ServerError::from),
            };
            match kept {
                Ok(()) => {
                    self.renewed.store(asked, Ordering::Relaxed);
                    (renewed, logged) = (tokio::time::Instant::now(), false);
                }
                Err(error @ ServerError::NotLeading(_)) => return error,
                // A store that refuses writes also lets no other server take leadership.
                Err(ServerError::Store(error)) if error.is_refusal() => {
                    self.renewed.store(asked, Ordering::Relaxed);
                    renewed = tokio::time::Instant::now();
                    // Logged once, because the loop tries again every few seconds.
                    if !std::mem::replace(&mut logged, true) {
                        tracing::error!(%error, "cannot renew the leadership lease");
                    }
                }
                // A briefly unreachable store does not affect running workloads; only writes fail meanwhile.
                Err(error) if renewed.elapsed() < give_up => {
                    tracing::warn!(%error, "cannot renew the leadership lease")
                }
                Err(error) => return error,
            }
        }
    }

    /// Gives up leadership, so that the next server can take over at once.
    pub(crate) async fn resign(&self) {
        let lease = self.term.lock().await.lease;
        let _ = self.store.revoke(lease).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
        let address = gantry_store::StoreAddress::File(folder.path().join("store.db"));
        gantry_store::open(&address).await.expect("a store")
    }

    async fn write(store: &Arc<dyn Store>, token: Revision) -> TxnOutcome {
        let guarded = Txn::default().when(TxnCondition::Created(KEY.to_owned(), token)).put("x", "1");
        store.commit(guarded).await.expect("an answer")
    }

    #[tokio::test]
    async fn a_suspended_leader_leads_again_under_a_new_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let leadership = acquire(&store, &Candidate::named("one")).await.expect("the leadership");
        let old = leadership.revision().await;
        assert!(matches!(write(&store, old).await, TxnOutcome::Committed(_)));
        // Stands for a lease that ran out while the server was suspended.
        leadership.resign().await;
        assert_eq!(write(&store, old).await, TxnOutcome::Conflict, "the old token writes nothing");
        leadership.take_again(old).await.expect("no other leader");
        let new = leadership.revision().await;
        assert_ne!(new, old);
        assert_eq!(write(&store, old).await, TxnOutcome::Conflict, "the old token stays void");
        assert!(matches!(write(&store, new).await, TxnOutcome::Committed(_)));
        leadership.take_again(old).await.expect("leads already");
        assert_eq!(leadership.revision().await, new);
    }

    #[tokio::test]
    async fn a_replaced_leader_writes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let leadership = acquire(&store, &Candidate::named("one")).await.expect("the leadership");
        let old = leadership.revision().await;
        leadership.resign().await;
        let other = acquire(&store, &Candidate::named("two")).await.expect("the leadership");
        let refused = leadership.take_again(old).await.expect_err("another server leads");
        assert!(matches!(refused, ServerError::NotLeading(_)), "{refused}");
        assert_eq!(write(&store, leadership.revision().await).await, TxnOutcome::Conflict);
        assert!(matches!(write(&store, other.revision().await).await, TxnOutcome::Committed(_)));
    }

    #[test]
    fn reads_the_plain_name_of_earlier_versions() {
        let plain = LeaderRecord::parse(b"m1");
        assert_eq!((plain.name.as_str(), plain.address), ("m1", None));
        let address = PeerAddress { address: "10.0.0.1:7000".into(), tls: true };
        let record = LeaderRecord { version: VERSION, name: "m1".into(), address: Some(address) };
        assert_eq!(LeaderRecord::parse(&serde_json::to_vec(&record).expect("JSON")), record);
    }

    #[tokio::test]
    async fn a_claim_names_the_other_leader_and_one_of_the_same_name_succeeds() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder).await;
        let first = acquire(&store, &Candidate::named("one")).await.expect("the leadership");
        let Claim::Other(other) = claim(&store, &Candidate::named("two")).await.expect("an answer") else {
            panic!("two servers lead");
        };
        assert_eq!(other.record.name, "one");
        let Claim::Leads(again) = claim(&store, &Candidate::named("one")).await.expect("an answer") else {
            panic!("not taken over");
        };
        assert_eq!(write(&store, first.revision().await).await, TxnOutcome::Conflict);
        assert!(matches!(write(&store, again.revision().await).await, TxnOutcome::Committed(_)));
        // The server that claimed before knows a leadership that has ended: it deposes nobody.
        depose(&store, other.modified).await.expect("an answer");
        assert!(matches!(write(&store, again.revision().await).await, TxnOutcome::Committed(_)));
    }
}
