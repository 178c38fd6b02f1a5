//! What reads foreign bytes, for the fuzz targets (`fuzz/`).

/// The archive of a pushed tree: found in it, and made into layers.
///
/// # Panics
/// When there is no room for temporary files.
pub fn source(bytes: &[u8]) {
    if crate::source::scan(bytes).is_ok() {
        let scratch = tempfile::tempdir().expect("a folder");
        let _ = crate::source::layers(&mut std::io::Cursor::new(bytes), &"a".repeat(40), scratch.path());
    }
}
