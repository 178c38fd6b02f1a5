//! The embedded store's file. A damaged, truncated, empty, foreign, newer or missing file is named in the error and
//! left unchanged.

use std::path::{Path, PathBuf};

use gantry_store::{StoreAddress, StoreError, Txn, open};

async fn a_store(folder: &Path) -> PathBuf {
    let path = folder.join("store.db");
    let store = open(&StoreAddress::File(path.clone())).await.expect("a store");
    for n in 0..400 {
        store.commit(Txn::default().put(format!("key/{n}"), vec![b'x'; 100])).await.expect("written");
    }
    drop(store);
    // Make a clean copy without a log, as a stopped process leaves it.
    let copy = folder.join("copy.db");
    rusqlite::Connection::open(&path)
        .and_then(|c| c.execute("VACUUM INTO ?1", [copy.to_str().expect("text")]))
        .expect("a copy");
    copy
}

async fn why(path: &Path) -> StoreError {
    match open(&StoreAddress::File(path.to_owned())).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn refuses_a_damaged_file_and_leaves_it_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = std::fs::read(a_store(folder.path()).await).expect("the file");
    let path = folder.path().join("bad.db");
    let page = 4096;
    let middle = good.len() / 2 / page * page;
    let mut header_lost = good.clone();
    header_lost[..100].fill(0);
    let mut page_lost = good.clone();
    page_lost[middle..middle + page].fill(0xa5);
    let truncated = good[..good.len() - page].to_vec();
    for (what, bytes) in [("header", header_lost), ("page", page_lost), ("tail", truncated), ("all", Vec::new())] {
        std::fs::write(&path, &bytes).expect("written");
        let error = why(&path).await;
        assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("bad.db") && text.contains("`gantry restore FILE`"), "{error}");
        assert_eq!(std::fs::read(&path).expect("the file"), bytes, "{what}: it was changed");
    }
}

#[tokio::test]
async fn opens_an_undamaged_copy() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = a_store(folder.path()).await;
    let store = open(&StoreAddress::File(copy)).await.expect("a store");
    assert_eq!(store.list("key/").await.expect("a listing").entries.len(), 400);
}

#[tokio::test]
async fn refuses_a_newer_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = a_store(folder.path()).await;
    gantry_store::check_format(&path).expect("a format that is known");
    rusqlite::Connection::open(&path).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("changed");
    let refused = gantry_store::check_format(&path).expect_err("a newer one");
    assert!(matches!(refused, StoreError::Newer { found: 99, known: 2, .. }), "{refused}");
    assert!(matches!(why(&path).await, StoreError::Newer { found: 99, known: 2, .. }));
}

#[tokio::test]
async fn reads_the_format_while_another_process_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = open(&StoreAddress::File(path.clone())).await.expect("a store");
    for n in 0..20 {
        store.commit(Txn::default().put(format!("key/{n}"), "x")).await.expect("written");
        gantry_store::check_format(&path).expect("a format that is known");
    }
}

#[tokio::test]
async fn ends_leases_of_another_boot_and_of_an_earlier_gantry() {
    use std::time::Duration;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = open(&StoreAddress::File(path.clone())).await.expect("a store");
    let lease = store.grant(Duration::from_secs(600)).await.expect("a lease");
    store.commit(Txn::default().put_leased("leader", "m", lease)).await.expect("written");
    drop(store);
    let change = |sql: &str| rusqlite::Connection::open(&path).and_then(|c| c.execute_batch(sql)).expect("changed");
    let leader = async || {
        let store = open(&StoreAddress::File(path.clone())).await.expect("a store");
        for _ in 0..40 {
            if store.get("leader").await.expect("read").is_none() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        true
    };
    assert!(leader().await, "a restart of the process ends no lease");
    change("UPDATE leases SET boot = 'another'");
    assert!(!leader().await, "a reboot does");
    // The leases of an earlier Gantry have no boot column, and run by the wall clock.
    let store = open(&StoreAddress::File(path.clone())).await.expect("a store");
    let lease = store.grant(Duration::from_secs(600)).await.expect("a lease");
    store.commit(Txn::default().put_leased("leader", "m", lease)).await.expect("written");
    drop(store);
    change("UPDATE leases SET expires = 4000000000000; ALTER TABLE leases DROP COLUMN boot");
    assert!(!leader().await, "that one has ended");
}

#[tokio::test]
async fn refuses_a_file_of_another_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("other.db");
    rusqlite::Connection::open(&path).and_then(|c| c.execute_batch("CREATE TABLE t (x)")).expect("made");
    assert!(matches!(why(&path).await, StoreError::Damaged { .. }));
}

#[tokio::test]
async fn refuses_to_replace_a_lost_file_beside_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    std::fs::write(folder.path().join("store.db-wal"), b"log").expect("written");
    assert!(matches!(why(&path).await, StoreError::Damaged { .. }));
    assert!(!path.exists());
}

#[tokio::test]
async fn reports_a_locked_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = a_store(folder.path()).await;
    let other = rusqlite::Connection::open(&path).expect("opened");
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;").expect("locked");
    let error = why(&path).await;
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
}

/// Opens a file and returns its records with the revision; none if the file is refused. The refusal must name the file
/// and the remedy.
async fn records(path: &Path) -> Option<(Vec<gantry_store::StoreEntry>, i64)> {
    let read = async {
        let listing = open(&StoreAddress::File(path.to_owned())).await?.list("").await?;
        Ok::<_, StoreError>((listing.entries, listing.revision))
    };
    match read.await {
        Ok(found) => Some(found),
        Err(error) => {
            let (said, name) = (error.to_string(), path.file_name().expect("a name").to_string_lossy());
            assert!(said.contains(&*name) && said.contains("`gantry restore FILE`"), "{said}");
            None
        }
    }
}

/// Distance between the damaged places, a prime: together they cover every place of a page and every bit of a byte. The
/// long form of the test uses `dense` instead.
fn every(step: usize, dense: usize) -> usize {
    if std::env::var_os("GANTRY_TEST_LONG").is_some() { dense } else { step }
}

#[tokio::test]
async fn detects_every_bit_flip_that_changes_a_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = std::fs::read(a_store(folder.path()).await).expect("the file");
    let path = folder.path().join("flipped.db");
    let clear = |path: &Path| {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    };
    std::fs::write(&path, &good).expect("written");
    let truth = records(&path).await.expect("a whole file opens");
    let mut noticed = 0;
    // Damage each byte of the header, which describes the rest of the file.
    let places: Vec<usize> = (0..100).chain((100..good.len()).step_by(every(97, 1))).collect();
    for (turn, place) in places.iter().enumerate() {
        clear(&path);
        let mut bytes = good.clone();
        bytes[*place] ^= 1 << (turn % 8);
        std::fs::write(&path, &bytes).expect("written");
        match records(&path).await {
            None => noticed += 1,
            Some(found) => assert!(found == truth, "byte {place}, bit {}: silently wrong", turn % 8),
        }
    }
    assert!(noticed > places.len() / 4, "{noticed} of {} were noticed", places.len());
    for cut in (1..good.len()).step_by(every(1021, 11)) {
        clear(&path);
        std::fs::write(&path, &good[..cut]).expect("written");
        assert!(records(&path).await.is_none(), "cut to {cut} bytes of {}", good.len());
    }
}

/// Files of a store whose process was killed: only the log has the last commits.
const PARTS: [&str; 3] = ["", "-wal", "-head"];

fn part(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

fn put(path: &Path, parts: &[Vec<u8>; 3]) {
    for (end, bytes) in PARTS.iter().zip(parts) {
        std::fs::write(part(path, end), bytes).expect("written");
    }
}

#[tokio::test]
async fn reports_commits_lost_from_a_damaged_or_cut_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let live = folder.path().join("live.db");
    // Use a new name each time: an opened store closes only a moment after its last handle is dropped.
    let mut turns = 0..;
    let mut fresh = || folder.path().join(format!("crashed-{}.db", turns.next().expect("no end")));
    let store = open(&StoreAddress::File(live.clone())).await.expect("a store");
    for n in 0..12 {
        store.commit(Txn::default().put(format!("key/{n}"), vec![b'x'; 100])).await.expect("written");
    }
    let good = PARTS.map(|end| std::fs::read(part(&live, end)).expect("read"));
    let path = fresh();
    put(&path, &good);
    let truth = records(&path).await.expect("a crash is survived");
    assert_eq!(truth.0.len(), 12);
    let log = &good[1];
    let flipped = (0..log.len()).step_by(every(487, 13)).enumerate().map(|(turn, place)| {
        let mut bytes = log.clone();
        bytes[place] ^= 1 << (turn % 8);
        (format!("bit {} of byte {place}", turn % 8), bytes)
    });
    let cut =
        (0..log.len()).step_by(every(1993, 37)).map(|length| (format!("cut to {length}"), log[..length].to_vec()));
    let (mut refused, mut lost_unmarked) = (0, 0);
    for (what, bytes) in flipped.chain(cut) {
        let parts = [good[0].clone(), bytes.clone(), good[2].clone()];
        let path = fresh();
        put(&path, &parts);
        match open(&StoreAddress::File(path.clone())).await {
            Ok(store) => {
                let listing = store.list("").await.expect("a listing");
                assert!((listing.entries, listing.revision) == truth, "{what}: silently wrong");
            }
            Err(error) => {
                refused += 1;
                assert!(
                    error.to_string().contains(".db is damaged") && error.to_string().contains("`gantry restore FILE`"),
                    "{what}: {error}"
                );
                assert!(std::fs::read(part(&path, "-wal")).expect("read") == bytes, "{what}: it was changed");
            }
        }
        // Without the high-water mark the same store opens, and lacks acknowledged commits.
        let path = fresh();
        put(&path, &parts);
        std::fs::remove_file(part(&path, "-head")).expect("removed");
        lost_unmarked += usize::from(records(&path).await.is_some_and(|found| found != truth));
        for path in std::fs::read_dir(folder.path()).expect("read").flatten().map(|entry| entry.path()) {
            let is_over = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("crashed-"));
            is_over.then(|| std::fs::remove_file(&path));
        }
    }
    assert!(refused > 100 && lost_unmarked > 100, "{refused} refused, {lost_unmarked} lost without the mark");
}

#[tokio::test]
async fn reports_a_damaged_high_water_mark_and_a_file_lost_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = open(&StoreAddress::File(path.clone())).await.expect("a store");
    store.commit(Txn::default().put("key".to_owned(), b"x".to_vec())).await.expect("written");
    let good = PARTS.map(|end| std::fs::read(part(&path, end)).expect("read"));
    drop(store);
    let path = folder.path().join("other.db");
    let bit = |bit: usize| {
        let mut mark = good[2].clone();
        mark[bit / 8] ^= 1 << (bit % 8);
        mark
    };
    let bad =
        (0..good[2].len() * 8).map(bit).chain([Vec::new(), good[2][..15].to_vec(), [&good[2][..], b"x"].concat()]);
    for mark in bad {
        let _ = std::fs::remove_file(part(&path, "-shm"));
        put(&path, &[good[0].clone(), good[1].clone(), mark]);
        let error = why(&path).await;
        assert!(matches!(error, StoreError::Damaged { .. }) && error.to_string().contains("other.db-head"), "{error}");
    }
    put(&path, &good);
    std::fs::remove_file(&path).expect("removed");
    std::fs::remove_file(part(&path, "-wal")).expect("removed");
    assert!(matches!(why(&path).await, StoreError::Damaged { .. }) && !path.exists());
    gantry_store::remove_high_water_mark(&path).expect("forgotten");
    assert_eq!(records(&path).await.expect("a new one").0.len(), 0);
}

#[tokio::test]
async fn upgrades_a_file_of_format_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = a_store(folder.path()).await;
    let before = records(&path).await.expect("opened");
    let old = rusqlite::Connection::open(&path).expect("opened");
    let undo = "ALTER TABLE head DROP COLUMN seal; ALTER TABLE entries DROP COLUMN seal; \
                ALTER TABLE changes DROP COLUMN seal; PRAGMA user_version = 1;";
    old.execute_batch(undo).expect("undone");
    drop(old);
    assert_eq!(gantry_store::check_file(&path).expect("sound"), None);
    assert_eq!(records(&path).await.expect("opened"), before);
    assert_eq!(gantry_store::check_file(&path).expect("sound"), Some(400));
}

/// Number of revisions that the history keeps, as in `write.rs`.
const HISTORY: usize = 10_000;

#[tokio::test]
async fn bounds_the_history_of_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = open(&StoreAddress::File(path.clone())).await.expect("a store");
    let mut sizes = Vec::new();
    for _ in 0..3 {
        for n in 0..HISTORY / 2 {
            store.commit(Txn::default().put("key".to_owned(), vec![b'x'; 100 + n % 7])).await.expect("kept");
        }
        sizes.push(std::fs::metadata(&path).expect("there").len());
    }
    assert!(sizes[1] > sizes[0] * 3 / 2 && sizes[2] < sizes[1] * 5 / 4, "{sizes:?}");
    let outcome = match store.watch("", 1).await {
        Ok(mut watch) => watch.next().await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(outcome, Err(StoreError::Compacted { .. })), "{outcome:?}");
}
