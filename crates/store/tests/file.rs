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
    assert!(matches!(why(&path).await, StoreError::Newer { found: 99, known: 1, .. }));
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
