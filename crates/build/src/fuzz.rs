//! Entry points for the fuzz targets (`fuzz/`): functions that read foreign bytes.

/// Scans the archive of a pushed tree and makes its layers.
///
/// # Panics
/// When the disk has no space for temporary files.
pub fn source(bytes: &[u8]) {
    let mut archive = std::io::Cursor::new(bytes);
    if let Ok(scanned) = crate::source::scan(&mut archive) {
        let scratch = tempfile::tempdir().expect("a folder");
        let (contents, commit) = (&scanned.contents, "a".repeat(40));
        let prints = contents.fingerprints(&commit, "base");
        let times = crate::times::Times::default().next(&prints, contents.committed, 1 << 31, true);
        let making =
            crate::source::LayerInput { contents, times: &times, commit: &commit, base: None, scratch: scratch.path() };
        let _ = crate::source::layers(&mut archive, &making);
    }
}
