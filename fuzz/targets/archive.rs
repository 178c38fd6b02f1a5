//! An imported OCI archive of a base: each stored blob has its own digest, and the import writes no file outside its
//! folders.
#![no_main]
use futures_util::StreamExt;
use gantry_blobs::BlobStore;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let (scratch, victim) = (folder.path().join("scratch"), folder.path().join("victim"));
    std::fs::create_dir(&scratch).expect("made");
    std::fs::write(&victim, "untouched").expect("written");
    let pieces: Vec<_> = bytes.chunks(1000).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let blobs = BlobStore::in_folder(&folder.path().join("blobs")).expect("blobs");
        let imported = gantry_image::import(futures_util::stream::iter(pieces).boxed(), &blobs, &scratch).await;
        for (digest, _) in blobs.list().await.expect("listed") {
            blobs.read(&digest).await.expect("it is what its name says");
        }
        if let Ok(image) = imported {
            blobs.read(&image).await.expect("it is there");
        }
    });
    assert_eq!(std::fs::read(&victim).expect("there"), b"untouched");
    assert_eq!(std::fs::read_dir(&scratch).expect("there").count(), 0, "something was left in scratch");
});
