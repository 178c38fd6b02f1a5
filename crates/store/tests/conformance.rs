//! Conformance suite: the same tests for each implementation of the store, SQLite and a real etcd from Debian.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gantry_store::{
    ChangeBatch, KeyChange, Store, StoreAddress, StoreError, StoreFault, StoreWatch, Txn, TxnCondition, TxnOutcome,
    open,
};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

/// A store's address and the process behind the store.
struct TestStore {
    address: StoreAddress,
    folder: TempDir,
    etcd: Option<(u16, u16, Child)>,
}

impl TestStore {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { address: StoreAddress::File(folder.path().join("store.db")), folder, etcd: None }
    }

    fn etcd() -> Self {
        Self::etcd_with(&[])
    }

    /// Starts etcd with more arguments.
    fn etcd_with(extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (client, peer) = (free_port(), free_port());
        let child = start_etcd(&folder, client, peer, extra);
        let address = format!("etcd://127.0.0.1:{client}/test").parse().expect("an address");
        Self { address, folder, etcd: Some((client, peer, child)) }
    }

    async fn open(&self) -> Arc<dyn Store> {
        let begun = std::time::Instant::now();
        loop {
            match open(&self.address).await {
                Ok(store) => return store,
                Err(error) if begun.elapsed() > DEADLINE => panic!("{error:?}"),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Kills and restarts the store's process; does nothing for SQLite, which has no process.
    fn kill_and_restart(&mut self) {
        if let Some((client, peer, child)) = &mut self.etcd {
            child.kill().expect("kill etcd");
            child.wait().expect("etcd's end");
            *child = start_etcd(&self.folder, *client, *peer, &[]);
        }
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        if let Some((_, _, child)) = &mut self.etcd {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn start_etcd(folder: &TempDir, client: u16, peer: u16, extra: &[&str]) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    Command::new("etcd")
        .args(["--name", "t", "--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("t={peer}")])
        .arg("--data-dir")
        .arg(folder.path().join("etcd"))
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd; install Debian's etcd-server")
}

macro_rules! for_each_store {
    ($($name:ident),* $(,)?) => {
        mod sqlite { $( #[tokio::test] async fn $name() { super::$name(super::TestStore::sqlite()).await; } )* }
        mod etcd { $( #[tokio::test] async fn $name() { super::$name(super::TestStore::etcd()).await; } )* }
    };
}

for_each_store!(
    reads_what_was_written,
    writes_all_or_nothing,
    writes_where_no_key_has_a_prefix,
    watches_without_gap_or_repeat,
    sees_deletes,
    refuses_a_compacted_revision,
    drops_leased_keys,
    keeps_acknowledged_writes_over_a_restart,
    serves_two_clients,
    serializes_contending_increments,
);

/// The quota of an etcd that a few writes fill.
const QUOTA: &str = "4000000";

#[tokio::test]
async fn etcd_refuses_writes_over_its_quota_and_says_so() {
    let test_store = TestStore::etcd_with(&["--quota-backend-bytes", QUOTA]);
    let store = test_store.open().await;
    let value = "x".repeat(500_000);
    let mut refused = None;
    for number in 0..50 {
        if let Err(error) = store.commit(Txn::default().put(format!("k{number}"), value.clone())).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(StoreError::Quota { .. })), "{refused:?}");
    assert!(matches!(store.faults().await[..], [StoreFault::Full { .. }]), "{:?}", store.faults().await);
    assert!(store.get("k0").await.expect("an answer").is_some(), "reads work");
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> i64 {
    committed(store.commit(Txn::default().put(key, value)).await)
}

fn committed(outcome: Result<TxnOutcome, StoreError>) -> i64 {
    match outcome.expect("an answer") {
        TxnOutcome::Committed(revision) => revision,
        TxnOutcome::Conflict => panic!("a conflict"),
    }
}

async fn next(watch: &mut Box<dyn StoreWatch>) -> ChangeBatch {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("in time").expect("a batch")
}

async fn reads_what_was_written(test_store: TestStore) {
    let store = test_store.open().await;
    assert_eq!(store.get("a/x").await.expect("an answer"), None);
    let first = put(&store, "a/x", "1").await;
    let second = put(&store, "a/x", "2").await;
    put(&store, "a/y", "3").await;
    put(&store, "b/x", "4").await;
    assert!(second > first);
    let entry = store.get("a/x").await.expect("an answer").expect("an entry");
    assert_eq!((entry.value.as_slice(), entry.created, entry.modified), (b"2".as_slice(), first, second));
    let listing = store.list("a/").await.expect("a listing");
    let keys: Vec<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["a/x", "a/y"]);
    assert_eq!(store.list("").await.expect("a listing").entries.len(), 3);
    assert!(listing.revision > second);
}

async fn writes_all_or_nothing(test_store: TestStore) {
    let store = test_store.open().await;
    let revision = put(&store, "x", "1").await;
    let both = |compare| Txn::default().when(compare).put("x", "2").put("y", "2");
    for wrong in [
        TxnCondition::Absent("x".into()),
        TxnCondition::Modified("x".into(), revision + 9),
        TxnCondition::Created("y".into(), 1),
    ] {
        assert_eq!(store.commit(both(wrong)).await.expect("an answer"), TxnOutcome::Conflict);
    }
    assert_eq!(store.get("y").await.expect("an answer"), None);
    let written = committed(store.commit(both(TxnCondition::Modified("x".into(), revision))).await);
    let (x, y) = (store.get("x").await, store.get("y").await);
    let (x, y) = (x.expect("an answer").expect("x"), y.expect("an answer").expect("y"));
    assert_eq!((x.created, x.modified, y.created), (revision, written, written));
    committed(store.commit(both(TxnCondition::Created("x".into(), revision))).await);
    let many = (0..200).fold(Txn::default(), |txn, n| txn.put(format!("k{n}"), "v"));
    assert!(matches!(store.commit(many).await, Err(StoreError::TooLarge { writes: 200 })));
    let twice = store.commit(Txn::default().put("x", "3").delete("x")).await;
    assert!(matches!(&twice, Err(StoreError::Twice { key }) if key == "x"), "{twice:?}");
}

async fn writes_where_no_key_has_a_prefix(test_store: TestStore) {
    let store = test_store.open().await;
    let when = |prefix: &str| Txn::default().when(TxnCondition::NoKeys(prefix.into())).put("p/mark", "1");
    let marked = committed(store.commit(when("")).await);
    for taken in ["", "p", "p/", "p/mark"] {
        assert_eq!(store.commit(when(taken)).await.expect("an answer"), TxnOutcome::Conflict, "{taken}");
    }
    for free in ["o", "p/mark2", "q"] {
        committed(store.commit(when(free)).await);
    }
    let entry = store.get("p/mark").await.expect("an answer").expect("an entry");
    assert_eq!(entry.created, marked);
    committed(store.commit(Txn::default().delete("p/mark")).await);
    committed(store.commit(when("")).await);
}

async fn watches_without_gap_or_repeat(test_store: TestStore) {
    let store = test_store.open().await;
    let start = put(&store, "w/0", "before").await;
    let writer = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        for n in 0..300 {
            put(&writer, &format!("w/{}", n % 7), &n.to_string()).await;
            put(&writer, "other", "noise").await;
        }
    });
    let (mut seen, mut from) = (Vec::new(), start);
    while seen.len() < 300 {
        // End the watch and start a new watch every few batches, as after a lost connection.
        let mut watch = store.watch("w/", from).await.expect("a watch");
        for _ in 0..7 {
            if seen.len() == 300 {
                break;
            }
            let batch = next(&mut watch).await;
            assert!(batch.revision > from, "a revision twice");
            from = batch.revision;
            for change in batch.changes {
                let KeyChange::Put(entry) = change else { panic!("nothing was deleted") };
                seen.push(String::from_utf8(entry.value).expect("text").parse::<u32>().expect("a number"));
            }
        }
    }
    writing.await.expect("the writer");
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
}

async fn sees_deletes(test_store: TestStore) {
    let store = test_store.open().await;
    let revision = put(&store, "d/x", "1").await;
    let mut watch = store.watch("d/", revision).await.expect("a watch");
    let txn = Txn::default().delete("d/x").put("d/y", "2").delete("d/none");
    let deleted = committed(store.commit(txn).await);
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, deleted);
    assert_eq!(batch.changes.len(), 2);
    assert!(batch.changes.contains(&KeyChange::Delete("d/x".into())));
}

async fn refuses_a_compacted_revision(test_store: TestStore) {
    let store = test_store.open().await;
    let first = put(&store, "c", "1").await;
    let mut last = first;
    for n in 0..5 {
        last = put(&store, "c", &n.to_string()).await;
    }
    store.compact(last).await.expect("compacted");
    let outcome = match store.watch("c", first - 1).await {
        Ok(mut watch) => tokio::time::timeout(DEADLINE, watch.next()).await.expect("in time").map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(outcome, Err(StoreError::Compacted { .. })), "{outcome:?}");
    let listing = store.list("c").await.expect("a listing");
    assert_eq!(listing.entries[0].value, b"4");
    let mut watch = store.watch("c", listing.revision).await.expect("a watch from the listing");
    let next_revision = put(&store, "c", "9").await;
    assert_eq!(next(&mut watch).await.revision, next_revision);
}

async fn drops_leased_keys(test_store: TestStore) {
    let store = test_store.open().await;
    let lease = store.grant(Duration::from_secs(2)).await.expect("a lease");
    let revision = committed(store.commit(Txn::default().put_leased("l/x", "1", lease)).await);
    let mut watch = store.watch("l/", revision).await.expect("a watch");
    store.keep_alive(lease).await.expect("alive");
    assert!(store.get("l/x").await.expect("an answer").is_some());
    let batch = next(&mut watch).await;
    assert_eq!(batch.changes, [KeyChange::Delete("l/x".into())], "the lease ran out");
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseGone(_))));
    let other = store.grant(Duration::from_secs(60)).await.expect("a lease");
    committed(store.commit(Txn::default().put_leased("l/y", "1", other)).await);
    store.revoke(other).await.expect("revoked");
    assert_eq!(store.get("l/y").await.expect("an answer"), None);
}

async fn keeps_acknowledged_writes_over_a_restart(mut test_store: TestStore) {
    let store = test_store.open().await;
    let revision = put(&store, "r", "kept").await;
    let mut watch = store.watch("r", revision).await.expect("a watch");
    if test_store.etcd.is_some() {
        test_store.kill_and_restart();
    }
    drop(store);
    let store = test_store.open().await;
    let entry = store.get("r").await.expect("an answer").expect("an entry");
    assert_eq!((entry.value.as_slice(), entry.modified), (b"kept".as_slice(), revision));
    let next_revision = put(&store, "r", "again").await;
    // The old watch either continues or reports that it broke. It never stays silent, and never skips a revision.
    match tokio::time::timeout(DEADLINE, watch.next()).await.expect("in time") {
        Ok(batch) => assert_eq!(batch.revision, next_revision),
        Err(StoreError::Unavailable { .. }) => {
            let mut watch = store.watch("r", revision).await.expect("a watch");
            assert_eq!(next(&mut watch).await.revision, next_revision);
        }
        Err(error) => panic!("{error:?}"),
    }
}

async fn serves_two_clients(test_store: TestStore) {
    let (one, two) = (test_store.open().await, test_store.open().await);
    let revision = put(&one, "t", "1").await;
    let mut watch = two.watch("t", revision).await.expect("a watch");
    assert_eq!(two.get("t").await.expect("an answer").expect("an entry").value, b"1");
    let second = put(&one, "t", "2").await;
    assert_eq!(next(&mut watch).await.revision, second);
    let third =
        committed(two.commit(Txn::default().when(TxnCondition::Modified("t".into(), second)).put("t", "3")).await);
    assert_eq!(one.get("t").await.expect("an answer").expect("an entry").modified, third);
}

async fn serializes_contending_increments(test_store: TestStore) {
    let store = test_store.open().await;
    put(&store, "n", "0").await;
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(increment(Arc::clone(&store), 25))).collect();
    for task in tasks {
        task.await.expect("a counter");
    }
    assert_eq!(store.get("n").await.expect("an answer").expect("an entry").value, b"200");
}

async fn increment(store: Arc<dyn Store>, times: u32) {
    for _ in 0..times {
        loop {
            let entry = store.get("n").await.expect("an answer").expect("an entry");
            let number: u32 = String::from_utf8(entry.value).expect("text").parse().expect("a number");
            let txn = Txn::default()
                .when(TxnCondition::Modified("n".into(), entry.modified))
                .put("n", (number + 1).to_string());
            if store.commit(txn).await.expect("an answer") != TxnOutcome::Conflict {
                break;
            }
        }
    }
}
