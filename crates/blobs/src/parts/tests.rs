//! Lists of parts: made once, bound to their blobs, and removed with them.

use std::path::PathBuf;

use super::*;

/// A blob of two and a half parts.
async fn blob() -> (tempfile::TempDir, BlobStore, Digest, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = BlobStore::in_folder(folder.path()).expect("blobs");
    let size = usize::try_from(PART_SIZE * 5 / 2).expect("small");
    let mut content = vec![0; size];
    content.chunks_mut(1000).zip((0..251).cycle()).for_each(|(chunk, value)| chunk.fill(value));
    let pieces: Vec<_> = content.chunks(700_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let (digest, _) = blobs.put_stream(futures_util::stream::iter(pieces).boxed(), None).await.expect("put");
    (folder, blobs, digest, content)
}

/// Timeout within which every list of these tests is made.
const TIMEOUT: Duration = Duration::from_secs(600);

async fn parts(blobs: &BlobStore, digest: &Digest) -> Result<BlobParts, Arc<BlobError>> {
    blobs.parts(digest, TIMEOUT).await.map(|parts| parts.expect("made in time"))
}

fn path(folder: &tempfile::TempDir, path: &Path) -> PathBuf {
    folder.path().join(path.to_string())
}

#[tokio::test]
async fn a_list_has_the_digest_of_each_part() {
    let (folder, blobs, digest, content) = blob().await;
    let made = parts(&blobs, &digest).await.expect("parts");
    let part_size = usize::try_from(PART_SIZE).expect("small");
    let expected: Vec<Digest> = content.chunks(part_size).map(DigestHasher::of).collect();
    assert_eq!(made, BlobParts { size: content.len() as u64, part_size: PART_SIZE, digests: expected });
    // The list is no blob.
    assert_eq!(blobs.list().await.expect("a list").len(), 1);
    assert!(path(&folder, &parts_path(&digest)).exists());
}

#[tokio::test]
async fn a_list_is_made_once_and_again_if_it_is_damaged() {
    let (folder, blobs, digest, content) = blob().await;
    let made = parts(&blobs, &digest).await.expect("parts");
    // The kept list needs no second look at the content.
    std::fs::write(path(&folder, &blob_path(&digest)), "damaged").expect("damaged");
    assert_eq!(parts(&blobs, &digest).await.expect("the kept list"), made);
    std::fs::write(path(&folder, &blob_path(&digest)), &content).expect("mended");
    let list = std::fs::read_to_string(path(&folder, &parts_path(&digest))).expect("a list");
    for damaged in [list.replacen('a', "b", 1), list[..list.len() / 2].to_owned(), list[70..].to_owned(), String::new()]
    {
        assert_ne!(damaged, list);
        std::fs::write(path(&folder, &parts_path(&digest)), &damaged).expect("damaged");
        assert_eq!(parts(&blobs, &digest).await.expect("made again"), made, "{damaged:?}");
    }
}

#[tokio::test]
async fn a_list_is_made_even_if_the_request_ends_before() {
    let (folder, blobs, digest, _) = blob().await;
    let all = u32::try_from(LISTS_AT_ONCE).expect("few");
    let busy = blobs.part_lists.room.acquire_many(all).await.expect("open");
    assert_eq!(blobs.parts(&digest, Duration::ZERO).await.expect("no failure"), None);
    let mut making = blobs.making_parts(&digest);
    assert!(making.borrow().is_none(), "other lists are made");
    assert_eq!(blobs.part_lists.making.lock().expect("no panic").len(), 1, "one task for all requests");
    drop(busy);
    assert!(making.wait_for(Option::is_some).await.expect("no panic").as_ref().is_some_and(Result::is_ok));
    assert!(path(&folder, &parts_path(&digest)).exists());
}

#[tokio::test]
async fn a_damaged_blob_has_no_parts() {
    let (folder, blobs, digest, mut content) = blob().await;
    content[5_000_000] ^= 1;
    std::fs::write(path(&folder, &blob_path(&digest)), content).expect("damaged");
    let damaged = parts(&blobs, &digest).await.expect_err("damaged");
    assert!(matches!(&*damaged, BlobError::WrongDigest { .. }), "{damaged}");
    assert!(!path(&folder, &parts_path(&digest)).exists());
    let missing = parts(&blobs, &DigestHasher::of(b"none")).await.expect_err("missing");
    assert!(matches!(&*missing, BlobError::Missing(_)), "{missing}");
}

#[tokio::test]
async fn a_list_goes_with_its_blob() {
    let (folder, blobs, digest, _) = blob().await;
    let made = parts(&blobs, &digest).await.expect("parts");
    blobs.delete(&digest).await.expect("removed");
    assert!(!path(&folder, &parts_path(&digest)).exists());
    blobs.keep_parts(&digest, &made).await.expect("passed over");
    assert!(!path(&folder, &parts_path(&digest)).exists(), "a list without a blob");
}

#[test]
fn small_blobs_have_one_part_or_none() {
    for (content, count) in [(&b""[..], 0), (b"x", 1)] {
        let (whole, part) = (DigestHasher::default(), DigestHasher::default());
        let mut hasher = PartHasher { whole, part, size: 0, digests: Vec::new() };
        hasher.update(content);
        let (digest, parts) = hasher.finish();
        assert_eq!((digest, parts.digests.len()), (DigestHasher::of(content), count));
        assert_eq!(BlobParts::read(&parts.write()), Some(parts));
    }
}
