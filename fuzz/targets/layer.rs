//! An unpacked layer. Unpacking must not change files outside the target folder.
#![no_main]
use gantry_image::{Bounds, unpack};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let (into, outside) = (folder.path().join("into"), folder.path().join("victim"));
    std::fs::create_dir(&into).expect("made");
    std::fs::write(&outside, "untouched").expect("written");
    let _ = unpack(bytes, &into, Bounds { bytes: 1 << 20, entries: 200 });
    assert_eq!(std::fs::read(&outside).expect("there"), b"untouched");
    assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 2);
});
