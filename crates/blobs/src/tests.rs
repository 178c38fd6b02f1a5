use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_model::Digest;

use crate::store::blob_path;
use crate::{BlobError, BlobStore, DigestHasher, OpenBlob, Replicas};

fn blobs() -> (tempfile::TempDir, BlobStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = BlobStore::in_folder(&folder.path().join("blobs")).expect("blobs");
    (folder, blobs)
}

#[tokio::test]
async fn reads_and_removes_a_stored_blob() {
    let (_folder, blobs) = blobs();
    let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
    assert_eq!(digest.hex(), "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    assert_eq!(blobs.put(Bytes::from_static(b"hello")).await.expect("put again"), digest);
    assert_eq!(blobs.read(&digest).await.expect("read"), "hello");
    assert_eq!(blobs.list().await.expect("a list"), [(digest.clone(), 5)]);
    blobs.delete(&digest).await.expect("removed");
    blobs.delete(&digest).await.expect("removed twice");
    assert!(matches!(blobs.read(&digest).await, Err(BlobError::Missing(_))));
    assert_eq!(blobs.size(&digest).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_damaged_blob_is_not_intact_until_it_is_written_again() {
    let (folder, blobs) = blobs();
    let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
    assert!(blobs.is_intact(&digest).await.expect("an answer"));
    let path = folder.path().join("blobs").join(blob_path(&digest).to_string());
    for damage in [&b"hellO"[..], b"hell", b"", b"hello!"] {
        std::fs::write(&path, damage).expect("damaged");
        assert!(!blobs.is_intact(&digest).await.expect("an answer"), "{}", damage.escape_ascii());
        blobs.put(Bytes::from_static(b"hello")).await.expect("put again");
        assert!(blobs.is_intact(&digest).await.expect("an answer"));
    }
    std::fs::remove_file(&path).expect("removed");
    assert!(!blobs.is_intact(&digest).await.expect("an answer"));
}

#[tokio::test]
async fn round_trips_a_large_blob_and_discards_one_with_a_wrong_digest() {
    let (folder, blobs) = blobs();
    let pieces = || futures_util::stream::iter((0..40u8).map(|n| Ok(Bytes::from(vec![n; 500_000])))).boxed();
    let (digest, size) = blobs.put_stream(pieces(), None).await.expect("put");
    assert_eq!(size, 20_000_000);
    let mut hasher = DigestHasher::default();
    let mut stream = blobs.get(&digest).await.expect("a blob").stream;
    while let Some(piece) = stream.next().await {
        hasher.update(&piece.expect("a piece"));
    }
    assert_eq!(hasher.finish(), digest);
    let other = DigestHasher::of(b"other");
    assert!(matches!(blobs.put_stream(pieces(), Some(&other)).await, Err(BlobError::WrongDigest { .. })));
    assert_eq!(blobs.size(&other).await.expect("an answer"), None);
    let broken = futures_util::stream::iter([Ok(Bytes::from_static(b"x")), Err(std::io::Error::other("gone"))]);
    assert!(blobs.put_stream(broken.boxed(), None).await.is_err());
    let left = || std::fs::read_dir(folder.path().join("blobs/uploads")).map_or(0, Iterator::count);
    while left() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn refuses_to_read_a_damaged_blob() {
    let (folder, blobs) = blobs();
    let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
    let path = folder.path().join("blobs").join(blob_path(&digest).as_ref());
    std::fs::write(path, b"hellp").expect("damaged");
    assert!(matches!(blobs.read(&digest).await, Err(BlobError::WrongDigest { .. })));
}

#[tokio::test]
async fn sweep_removes_unfinished_writes_only() {
    let (folder, blobs) = blobs();
    let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
    let path = folder.path().join("blobs").join(blob_path(&digest).to_string());
    let (staged, upload) = (path.with_extension("#1"), folder.path().join("blobs/uploads/x#1"));
    std::fs::create_dir_all(upload.parent().expect("a folder")).expect("made");
    for unfinished in [&staged, &upload] {
        std::fs::write(unfinished, b"hel").expect("written");
    }
    blobs.sweep();
    assert!(!staged.exists() && !upload.exists());
    assert_eq!(blobs.read(&digest).await.expect("read"), "hello");
    let mut file = blobs.local_file(&digest).await.expect("an answer").expect("a local folder");
    let mut content = String::new();
    std::io::Read::read_to_string(&mut file, &mut content).expect("read");
    assert_eq!(content, "hello");
}

/// The blobs of another folder stand for those of another server.
struct OtherServer(BlobStore);

impl Replicas for Arc<OtherServer> {
    fn copy(&self, digest: Digest) -> futures_util::future::BoxFuture<'_, Result<(), BlobError>> {
        Box::pin(async move {
            match digest.hex().starts_with("2cf2") {
                true => self.0.put(Bytes::from_static(b"hello")).await.map(drop),
                false => Err(BlobError::Copy { digest, server: "two".into(), source: "refused".into() }),
            }
        })
    }

    fn fetch(&self, digest: Digest) -> futures_util::future::BoxFuture<'_, Option<OpenBlob>> {
        Box::pin(async move { self.0.get(&digest).await.ok() })
    }
}

#[tokio::test]
async fn a_blob_is_acknowledged_once_another_server_has_it_and_is_fetched_from_there() {
    let ((folder, own), (other_folder, other)) = (blobs(), blobs());
    let blobs = own.with_replicas(Arc::new(Arc::new(OtherServer(other.clone()))));
    let digest = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
    assert_eq!(other.read(&digest).await.expect("a copy"), "hello");
    assert!(matches!(blobs.put(Bytes::from_static(b"x")).await, Err(BlobError::Copy { .. })));
    let path = |folder: &tempfile::TempDir| folder.path().join("blobs").join(blob_path(&digest).to_string());
    for lookup in 0..4 {
        own.delete(&digest).await.expect("removed");
        match lookup {
            0 => assert_eq!(blobs.read(&digest).await.expect("fetched"), "hello"),
            1 => assert_eq!(blobs.size(&digest).await.expect("fetched"), Some(5)),
            2 => assert!(blobs.local_file(&digest).await.expect("fetched").is_some()),
            _ => assert!(blobs.is_intact(&digest).await.expect("fetched")),
        }
        assert!(path(&folder).exists());
    }
    // A damaged copy is no copy.
    own.delete(&digest).await.expect("removed");
    std::fs::write(path(&other_folder), b"hellO").expect("damaged");
    assert!(matches!(blobs.read(&digest).await, Err(BlobError::Missing(_))));
    assert!(!path(&folder).exists());
}

/// Checks the grace period. Garbage collection without pause removes no blob that a caller has just written or
/// found to exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn garbage_collection_keeps_blobs_that_a_caller_is_about_to_use() {
    const GRACE: std::time::Duration = std::time::Duration::from_millis(300);
    let (_folder, blobs) = blobs();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (collected, collector) = (blobs.clone(), Arc::clone(&stop));
    let collecting = tokio::spawn(async move {
        let mut gone = 0;
        while !collector.load(std::sync::atomic::Ordering::Relaxed) {
            for (digest, _) in collected.list().await.expect("listed") {
                let gone_now = collected.delete_older(&digest, SystemTime::now() - GRACE).await.expect("an answer");
                gone += usize::from(gone_now);
            }
        }
        gone
    });
    let users = (0..8u64).map(|user| {
        let blobs = blobs.clone();
        tokio::spawn(async move {
            for turn in 0..250u64 {
                // Use few contents, so that the same blobs come and go again and again.
                let content = Bytes::from(format!("{}", (user * 31 + turn * 7) % 40));
                let digest = DigestHasher::of(&content);
                // Some users first ask whether the blob exists, and some write it again.
                if user % 2 == 0 || blobs.size(&digest).await.expect("an answer").is_none() {
                    let pieces = futures_util::stream::iter([Ok(content.clone())]).boxed();
                    blobs.put_stream(pieces, Some(&digest)).await.expect("written");
                }
                assert_eq!(blobs.read(&digest).await.expect("it is there"), content);
                if turn % 50 == 0 {
                    tokio::time::sleep(GRACE).await;
                }
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.expect("all was there");
    }
    tokio::time::sleep(GRACE * 2).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(collecting.await.expect("ended") > 0, "nothing was collected");
}
