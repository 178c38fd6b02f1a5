//! Leadership on a store in a file, and its renewal on a store that fails on demand.

use std::sync::Mutex;

use async_trait::async_trait;
use gantry_store::{Listing, StoreEntry, StoreWatch};

use super::*;

/// Behaviour of [`FailingStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreBehaviour {
    /// The lease is renewed.
    Works,
    /// The store does not respond.
    IsUnreachable,
    /// The disk is full.
    IsFull,
    /// The lease has ended, and the disk is full.
    IsFullWithoutLease,
    /// The lease has ended, and no other server leads.
    HasNoLeader,
    /// The lease has ended, and another server leads.
    HasOtherLeader,
}

/// A store for renewals of the leadership alone. The store keeps no keys.
struct FailingStore(Mutex<StoreBehaviour>);

impl FailingStore {
    fn behaviour(&self) -> StoreBehaviour {
        *self.0.lock().expect("no panic")
    }

    /// The error of a call that does not depend on a lease.
    fn error(&self) -> Result<(), StoreError> {
        match self.behaviour() {
            StoreBehaviour::IsUnreachable => {
                Err(StoreError::Unavailable { address: "etcd://test".to_owned(), source: "no route".into() })
            }
            StoreBehaviour::IsFull | StoreBehaviour::IsFullWithoutLease => {
                Err(StoreError::Full { path: "store.db".to_owned() })
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Store for FailingStore {
    async fn get(&self, _key: &str) -> Result<Option<StoreEntry>, StoreError> {
        unreachable!("a renewal reads no key")
    }

    async fn list(&self, _prefix: &str) -> Result<Listing, StoreError> {
        unreachable!("a renewal reads no keys")
    }

    async fn commit(&self, _txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.error()?;
        match self.behaviour() {
            StoreBehaviour::HasOtherLeader => Ok(TxnOutcome::Conflict),
            _ => Ok(TxnOutcome::Committed(NEXT_TOKEN)),
        }
    }

    async fn watch(&self, _prefix: &str, _revision: Revision) -> Result<Box<dyn StoreWatch>, StoreError> {
        unreachable!("a renewal watches no key")
    }

    async fn grant(&self, _ttl: Duration) -> Result<LeaseId, StoreError> {
        self.error().map(|()| LeaseId(2))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self.behaviour() {
            StoreBehaviour::IsFullWithoutLease | StoreBehaviour::HasNoLeader | StoreBehaviour::HasOtherLeader => {
                Err(StoreError::LeaseGone(lease.0))
            }
            _ => self.error(),
        }
    }

    async fn revoke(&self, _lease: LeaseId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn compact(&self, _revision: Revision) -> Result<(), StoreError> {
        unreachable!("a renewal compacts nothing")
    }
}

/// The fencing tokens of the leadership at first, and after the store granted another.
const FIRST_TOKEN: Revision = 7;
const NEXT_TOKEN: Revision = 8;

/// Leadership on a store that begins with this behaviour. The leadership is given up after 4 s; its TTL is 2 s.
fn led(behaviour: StoreBehaviour) -> (Arc<FailingStore>, Leadership) {
    let failing = Arc::new(FailingStore(Mutex::new(behaviour)));
    let store: Arc<dyn Store> = Arc::clone(&failing) as Arc<dyn Store>;
    let candidate = Candidate { give_up: GIVE_UP, ..Candidate::named("one").with_ttl(TTL) };
    let term = LeadershipTerm::new(LeaseId(1), FIRST_TOKEN);
    (failing, Leadership::of(&store, &candidate, term))
}

const TTL: Duration = Duration::from_secs(2);
const GIVE_UP: Duration = Duration::from_secs(4);

/// Interval of the renewals.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn a_leader_gives_up_once_the_store_was_unreachable_for_the_give_up_time() {
    let (_, leadership) = led(StoreBehaviour::IsUnreachable);
    let began = Instant::now();
    let lost = leadership.renew_until_lost().await;
    assert!(matches!(lost, ServerError::Store(StoreError::Unavailable { .. })), "{lost}");
    let lasted = began.elapsed();
    assert!((GIVE_UP..GIVE_UP + RENEWAL_INTERVAL).contains(&lasted), "{lasted:?}");
    assert!(!leadership.is_certain(), "no renewal succeeded");
}

#[tokio::test(start_paused = true)]
async fn each_renewal_begins_the_give_up_time_anew() {
    let (store, leadership) = led(StoreBehaviour::IsUnreachable);
    let nearly = GIVE_UP - Duration::from_millis(1);
    for _ in 0..3 {
        tokio::time::advance(nearly).await;
        leadership.renew().await.expect_err("the store is unreachable, and the leader waits");
        *store.0.lock().expect("no panic") = StoreBehaviour::Works;
        assert!(leadership.renew().await.expect("renewed").is_continue());
        *store.0.lock().expect("no panic") = StoreBehaviour::IsUnreachable;
    }
    tokio::time::advance(GIVE_UP).await;
    assert!(leadership.renew().await.expect("an end").is_break());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_never_ends_the_leadership() {
    for behaviour in [StoreBehaviour::IsFull, StoreBehaviour::IsFullWithoutLease] {
        let (store, leadership) = led(behaviour);
        let lost = tokio::time::timeout(100 * GIVE_UP, leadership.renew_until_lost()).await;
        assert!(lost.is_err(), "{behaviour:?}");
        assert!(leadership.is_certain(), "a store without writes lets no other server lead");
        // The give-up time begins with the last refusal.
        *store.0.lock().expect("no panic") = StoreBehaviour::IsUnreachable;
        leadership.renew().await.expect_err("the store is unreachable, and the leader waits");
    }
}

#[tokio::test(start_paused = true)]
async fn another_leader_ends_the_leadership_with_the_next_renewal() {
    let (_, leadership) = led(StoreBehaviour::HasOtherLeader);
    let began = Instant::now();
    let lost = leadership.renew_until_lost().await;
    assert!(matches!(lost, ServerError::NotLeading(_)), "{lost}");
    assert!(began.elapsed() < 2 * RENEWAL_INTERVAL, "{:?}", began.elapsed());
    assert_eq!(leadership.revision().await, FIRST_TOKEN);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_has_ended_takes_a_new_token() {
    let (_, leadership) = led(StoreBehaviour::HasNoLeader);
    assert!(leadership.renew().await.expect("an answer").is_continue());
    assert_eq!(leadership.revision().await, NEXT_TOKEN);
    assert!(leadership.is_certain());
}

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
    // The server that claimed before knows a leadership that has ended, and deposes no leader.
    depose(&store, other.modified).await.expect("an answer");
    assert!(matches!(write(&store, again.revision().await).await, TxnOutcome::Committed(_)));
}

#[tokio::test]
async fn no_server_leads_on_a_part_of_the_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store(&folder).await;
    store.commit(Txn::default().put(UNFINISHED, "backup.tar on machine m1")).await.expect("marked");
    let refused = acquire(&store, &Candidate::named("one")).await.err().expect("a part of the records");
    assert!(refused.to_string().contains("a copy from backup.tar on machine m1"), "{refused}");
    assert_eq!(refused.code(), Some(gantry_api::ErrorCode::StoreUnfinished));
    let keys: Vec<String> = store.list("").await.expect("a listing").entries.into_iter().map(|e| e.key).collect();
    assert_eq!(keys, [UNFINISHED], "nothing was written");
    store.commit(Txn::default().delete(UNFINISHED)).await.expect("all records are there");
    acquire(&store, &Candidate::named("one")).await.expect("the leadership");
}
