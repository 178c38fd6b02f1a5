//! Keyspaces over a real store, with leaders that come and go.

use std::sync::Arc;

use gantry_coordination::{
    Command, Deletion, KeyRange, LeaseId, Operation, OperationReply, Put, RangeQuery, RangeReply, Reply,
};
use gantry_model::AppName;
use gantry_store::{Store, StoreAddress, Txn};
use tokio::task::JoinHandle;

use super::records;
use super::{Coordination, CoordinationError, ReplyAtRevision};
use crate::leadership::{self, Candidate, Leadership};

/// Keyspaces of one leader.
struct Leader {
    own: Coordination,
    leadership: Leadership,
    task: JoinHandle<()>,
}

impl Leader {
    #[expect(clippy::disallowed_methods, reason = "a test has no set of tasks")]
    async fn start(store: &Arc<dyn Store>, name: &str) -> Self {
        let leadership = leadership::acquire(store, &Candidate::named(name)).await.expect("the leadership");
        let (own, task) = Coordination::start(Arc::clone(store), leadership.clone());
        Self { own, leadership, task: tokio::spawn(task) }
    }

    async fn run(&self, app: &AppName, command: Command) -> ReplyAtRevision {
        self.own.run(app, command).await.expect("a reply")
    }

    async fn put(&self, app: &AppName, key: &str) -> i64 {
        let put = Operation::Put(Put::new(key.into(), b"x".to_vec()));
        self.run(app, Command::One(put)).await.revision
    }

    async fn count(&self, app: &AppName) -> usize {
        let all = Command::One(Operation::Range(RangeQuery::of(KeyRange::prefix(b""))));
        let Reply::One(OperationReply::Range(RangeReply { count, .. })) = self.run(app, all).await.reply else {
            panic!("no range");
        };
        count
    }

    /// Ends as a killed process does.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        self.leadership.resign().await;
    }
}

async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    gantry_store::open(&StoreAddress::File(folder.path().join("store.db"))).await.expect("a store")
}

fn shop() -> AppName {
    AppName::parse("shop").expect("a name")
}

#[tokio::test]
async fn keys_and_locks_outlive_their_leader() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, app) = (store(&folder).await, shop());
    let first = Leader::start(&store, "one").await;
    first.put(&app, "a").await;
    let enter = Command::Enter { name: b"l".to_vec(), lease: LeaseId(-7), ttl: Some(60), value: None };
    let Reply::Place(place) = first.run(&app, enter).await.reply else { panic!("no place") };
    first.kill().await;
    let second = Leader::start(&store, "two").await;
    assert_eq!(second.count(&app).await, 2);
    let Reply::Lock(lock) = second.run(&app, Command::Lock(b"l".to_vec())).await.reply else { panic!("no lock") };
    assert_eq!(lock.holder.map(|holder| holder.created), Some(place.created));
    assert!(second.put(&app, "b").await > place.created);
}

#[tokio::test]
async fn a_removal_of_many_keys_is_whole_after_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, app) = (store(&folder).await, shop());
    let first = Leader::start(&store, "one").await;
    for number in 0..300 {
        first.put(&app, &format!("a/{number}")).await;
    }
    let kept = first.put(&app, "b").await;
    // The first transaction of the removal alone, as a killed server leaves it.
    let clearing = gantry_coordination::Clearing::Range { range: KeyRange::prefix(b"a/"), before: kept + 1 };
    first.kill().await;
    let head = records::head(kept + 1, &[clearing]);
    store.commit(Txn::default().put(records::head_key(&app), head)).await.expect("written");
    let second = Leader::start(&store, "two").await;
    assert_eq!(second.count(&app).await, 1);
    let left = store.list(&records::app_prefix(&app)).await.expect("listed").entries.len();
    assert_eq!(left, 2, "the head and the other key");
    // A removal that is not killed leaves no description.
    for number in 0..300 {
        second.put(&app, &format!("a/{number}")).await;
    }
    let all = Operation::Delete(Deletion { range: KeyRange::prefix(b""), previous: false });
    second.run(&app, Command::One(all)).await;
    let left = store.list(&records::app_prefix(&app)).await.expect("listed").entries;
    assert_eq!(left.len(), 1);
    assert!(!String::from_utf8_lossy(&left[0].value).contains("clearings"));
}

#[tokio::test]
async fn no_revision_is_used_twice_after_an_app_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, app) = (store(&folder).await, shop());
    let first = Leader::start(&store, "one").await;
    let revision = first.put(&app, "a").await;
    first.own.retain(Default::default()).await.expect("sent");
    assert_eq!(first.count(&app).await, 0);
    assert!(first.put(&app, "a").await > revision);
    assert!(store.list(&records::app_prefix(&app)).await.expect("listed").entries.len() == 2);
}

#[tokio::test]
async fn a_replaced_leader_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, app) = (store(&folder).await, shop());
    let first = Leader::start(&store, "one").await;
    let revision = first.put(&app, "a").await;
    first.leadership.resign().await;
    let second = Leader::start(&store, "two").await;
    let put = Command::One(Operation::Put(Put::new(b"b".to_vec(), Vec::new())));
    let refused = first.own.run(&app, put).await;
    assert!(matches!(refused, Err(CoordinationError::Store(_))));
    assert_eq!(second.put(&app, "c").await, revision + 1);
    assert_eq!(second.count(&app).await, 2);
}
