//! An image's user and the image's own files of users and groups: three texts separated by NUL.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let user = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("etc")).expect("made");
    for name in ["etc/passwd", "etc/group"] {
        std::fs::write(folder.path().join(name), parts.next().unwrap_or_default()).expect("written");
    }
    gantry_agent::fuzz::user(&user, &[folder.path().to_owned()]);
});
