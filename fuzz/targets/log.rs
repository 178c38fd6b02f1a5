//! The lines of an instance's log, whose text the application controls.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let segments = gantry_relay::segments(folder.path());
    let (one, two) = bytes.split_at(bytes.len() / 2);
    std::fs::write(&segments[0], one).expect("written");
    std::fs::write(&segments[1], two).expect("written");
    let lines = gantry_relay::LogTail::new(segments).new_lines();
    assert!(lines.iter().all(|line| !line.text.contains('\n')));
});
