//! An archive of uploaded code: a layer results whose entries are all below /app, or a refusal.
#![no_main]
use std::io::Write;
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut archive = tempfile::tempfile().expect("a file");
    archive.write_all(bytes).expect("written");
    if let Ok(code) = gantry_build::code::layer(archive, scratch.path(), &mut |_| Ok(())) {
        let layer = flate2::read::GzDecoder::new(code.layer.file);
        for entry in tar::Archive::new(layer).entries().expect("a layer") {
            let path = entry.expect("an entry").path().expect("a path").into_owned();
            assert!(path.starts_with("app") && !path.iter().any(|part| part == ".."), "{}", Path::new(&path).display());
        }
    }
    assert_eq!(std::fs::read_dir(scratch.path()).expect("there").count(), 0, "something was left in scratch");
});
