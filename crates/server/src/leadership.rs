//! Leadership: one server at a time writes. The create revision of the leadership key is the fencing token. Every write
//! carries the token, so a server that lost leadership without noticing writes nothing more.
//!
//! The value of the key names the leader and the address at which the other servers reach it. A lease removes the key of
//! a server that does not renew it; then the next server to ask takes leadership.

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gantry_records::schema::{SchemaError, UNFINISHED};
use gantry_store::{LeaseId, Revision, Store, StoreAddress, StoreError, Txn, TxnCondition, TxnOutcome};
use gantry_supervision::{Backoff, ReconcileLoop, Retry};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::reading;
use crate::settings::PeerAddress;
use crate::{ServerError, ServerSettings};

/// Leadership key in the store.
pub(crate) const KEY: &str = "leader";

/// Version of the key's value. Earlier versions wrote the plain name.
const VERSION: u32 = 1;

/// Timeout for another server's leadership to end, where no follower can serve meanwhile.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause before the next attempt to take over.
const TAKEOVER_PAUSE: Duration = Duration::from_millis(500);

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
    /// Time for which a leadership remains without a renewal.
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

    /// The candidate with another lifetime of its leadership.
    #[cfg(test)]
    pub(crate) fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// The transaction that takes a vacant leadership. No server leads on a store that has only a part of its records.
    fn takeover(&self, lease: LeaseId) -> Txn {
        // Text and numbers always serialize.
        let value = serde_json::to_vec(&self.record).unwrap_or_default();
        let is_vacant = TxnCondition::Absent(KEY.to_owned());
        let is_whole = TxnCondition::Absent(UNFINISHED.to_owned());
        Txn::default().when(is_vacant).when(is_whole).put_leased(KEY, value, lease)
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
    /// Time of the last renewal.
    renewed: Instant,
}

impl LeadershipTerm {
    fn new(lease: LeaseId, revision: Revision) -> Self {
        Self { lease, revision, renewed: Instant::now() }
    }
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
    /// The store has only a part of its records.
    Unfinished(SchemaError),
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
        if let TxnOutcome::Committed(revision) = store.commit(candidate.takeover(lease)).await? {
            return Ok(Claim::Leads(Leadership::of(store, candidate, LeadershipTerm::new(lease, revision))));
        }
        store.revoke(lease).await?;
        if let Some(mark) = store.get(UNFINISHED).await? {
            return Ok(Claim::Unfinished(SchemaError::unfinished(&mark.value)));
        }
    }
}

/// Ends the leadership that this revision wrote. From then on its leader writes nothing.
pub(crate) async fn depose(store: &Arc<dyn Store>, modified: Revision) -> Result<(), StoreError> {
    let removed = Txn::default().when(TxnCondition::Modified(KEY.to_owned(), modified)).delete(KEY);
    store.commit(removed).await.map(drop)
}

/// Takes leadership, and waits until the lease of a server of another name has run out.
pub(crate) async fn acquire(store: &Arc<dyn Store>, candidate: &Candidate) -> Result<Leadership, ServerError> {
    let deadline = Instant::now() + TAKEOVER_TIMEOUT;
    match claim(store, candidate).await? {
        Claim::Leads(leadership) => return Ok(leadership),
        Claim::Unfinished(error) => return Err(error.into()),
        Claim::Other(other) => {
            tracing::info!(
                leader = other.record.name,
                "another server leads; this server waits until the lease runs out"
            );
        }
    }
    // A failure of the store ends the wait, and so does a store with a part of its records.
    let attempt = || async {
        match claim(store, candidate).await {
            Ok(Claim::Leads(leadership)) => Ok(Ok(leadership)),
            Ok(Claim::Other(other)) => Err(ServerError::NotLeading(other.record.name)),
            Ok(Claim::Unfinished(error)) => Ok(Err(ServerError::from(error))),
            Err(error) => Ok(Err(error.into())),
        }
    };
    let retry = Retry::new("takeover of the leadership", Backoff::constant(TAKEOVER_PAUSE)).quiet_for(u64::MAX);
    retry.until(deadline, attempt).await?
}

impl Leadership {
    /// Leadership of a server that cannot write. The term is not in the store, so the store refuses every write under
    /// its token.
    pub(crate) fn none(store: &Arc<dyn Store>, candidate: &Candidate) -> Self {
        Self::of(store, candidate, LeadershipTerm::new(LeaseId(0), 0))
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
        match self.store.commit(self.candidate.takeover(lease)).await? {
            TxnOutcome::Committed(revision) => {
                tracing::warn!("the leadership lease ran out; no other server took over, and this server leads again");
                *term = LeadershipTerm::new(lease, revision);
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
        // The time before the first renewal does not count.
        self.term.lock().await.renewed = Instant::now();
        let leadership = self.clone();
        let pass = move || {
            let leadership = leadership.clone();
            async move { leadership.renew().await }
        };
        let every = self.candidate.ttl / 4;
        ReconcileLoop::new("renewal of the leadership", every, Backoff::constant(every)).delayed().run(pass).await
    }

    /// Renews leadership once.
    async fn renew(&self) -> Result<ControlFlow<ServerError>, ServerError> {
        let sent = reading().booted;
        let term = *self.term.lock().await;
        let kept = match self.store.keep_alive(term.lease).await {
            Err(StoreError::LeaseGone(_)) => self.take_again(term.revision).await,
            kept => kept.map_err(ServerError::from),
        };
        // A store that refuses writes also lets no other server take leadership.
        let is_kept = match &kept {
            Err(ServerError::Store(error)) => error.is_refusal(),
            kept => kept.is_ok(),
        };
        if is_kept {
            self.renewed.store(sent, Ordering::Relaxed);
            self.term.lock().await.renewed = Instant::now();
        }
        // A briefly unreachable store does not affect running workloads; only writes fail meanwhile.
        let may_wait = is_kept || term.renewed.elapsed() < self.candidate.give_up;
        match kept {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(error) if may_wait && !matches!(error, ServerError::NotLeading(_)) => Err(error),
            Err(error) => Ok(ControlFlow::Break(error)),
        }
    }

    /// Gives up leadership, so that the next server can take over at once.
    pub(crate) async fn resign(&self) {
        let lease = self.term.lock().await.lease;
        let _ = self.store.revoke(lease).await;
    }
}
