//! What reads foreign bytes, for the fuzz targets (`fuzz/`).

/// The archive of a pushed tree: found in it, and made into layers.
///
/// # Panics
/// When there is no room for temporary files.
pub fn source(bytes: &[u8]) {
    let mut archive = std::io::Cursor::new(bytes);
    if let Ok(scanned) = crate::source::scan(&mut archive) {
        let scratch = tempfile::tempdir().expect("a folder");
        let (contents, commit) = (&scanned.contents, "a".repeat(40));
        let prints = contents.prints(&commit, "base");
        let times = crate::times::Times::default().next(&prints, contents.committed, 1 << 31, true);
        let making =
            crate::source::Making { contents, times: &times, commit: &commit, base: None, scratch: scratch.path() };
        let _ = crate::source::layers(&mut archive, &making);
    }
}
