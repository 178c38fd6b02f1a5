//! The embedded store's file: damaged, truncated, empty, foreign, newer or gone, it is named and left alone.

use std::path::{Path, PathBuf};

use gantry_store::{Address, StoreError, Txn, open};

async fn a_store(folder: &Path) -> PathBuf {
    let path = folder.join("store.db");
    let store = open(&Address::File(path.clone())).await.expect("a store");
    for n in 0..400 {
        store.commit(Txn::default().put(format!("key/{n}"), vec![b'x'; 100])).await.expect("written");
    }
    drop(store);
    // A clean copy without a log, as a stopped process leaves it.
    let copy = folder.join("copy.db");
    rusqlite::Connection::open(&path)
        .and_then(|c| c.execute("VACUUM INTO ?1", [copy.to_str().expect("text")]))
        .expect("a copy");
    copy
}

async fn why(path: &Path) -> StoreError {
    match open(&Address::File(path.to_owned())).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
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
        assert!(error.to_string().contains("bad.db"), "{error}");
        assert_eq!(std::fs::read(&path).expect("the file"), bytes, "{what}: it was changed");
    }
}

#[tokio::test]
async fn the_undamaged_copy_opens() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = a_store(folder.path()).await;
    let store = open(&Address::File(copy)).await.expect("a store");
    assert_eq!(store.list("key/").await.expect("a listing").entries.len(), 400);
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = a_store(folder.path()).await;
    rusqlite::Connection::open(&path).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("changed");
    assert!(matches!(why(&path).await, StoreError::Newer { found: 99, known: 2, .. }));
}

#[tokio::test]
async fn a_foreign_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("other.db");
    rusqlite::Connection::open(&path).and_then(|c| c.execute_batch("CREATE TABLE t (x)")).expect("made");
    assert!(matches!(why(&path).await, StoreError::Damaged { .. }));
}

#[tokio::test]
async fn a_lost_file_beside_its_log_is_not_begun_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    std::fs::write(folder.path().join("store.db-wal"), b"log").expect("written");
    assert!(matches!(why(&path).await, StoreError::Damaged { .. }));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_locked_file_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = a_store(folder.path()).await;
    let other = rusqlite::Connection::open(&path).expect("opened");
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;").expect("locked");
    let error = why(&path).await;
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
}

/// What a file says when it is opened: its records with the revision, or that it is refused.
async fn records(path: &Path) -> Option<(Vec<gantry_store::Entry>, i64)> {
    let store = open(&Address::File(path.to_owned())).await.ok()?;
    let listing = store.list("").await.ok()?;
    Some((listing.entries, listing.revision))
}

#[tokio::test]
async fn a_bit_that_flips_anywhere_is_noticed_or_changes_nothing() {
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
    // A prime step visits every place of a page and every bit of a byte.
    let places: Vec<usize> = (0..good.len()).step_by(97).collect();
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
    for cut in (1..good.len()).step_by(1021) {
        clear(&path);
        std::fs::write(&path, &good[..cut]).expect("written");
        assert!(records(&path).await.is_none(), "cut to {cut} bytes of {}", good.len());
    }
}

#[tokio::test]
async fn a_file_of_the_first_format_is_taken_over() {
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
