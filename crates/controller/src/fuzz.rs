//! What reads foreign bytes, for the fuzz targets (`fuzz/`).

use http::HeaderValue;

use crate::http::{auth, range, registry, uploads};

/// Who says that he is who: read before anything is known of him.
pub fn authorization(bytes: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let _ = auth::secret(Some(&value));
    }
}

/// Words of the registry's addresses and headers.
///
/// # Panics
/// When a part is beyond what there is.
pub fn registry(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let size = text.len() as u64;
    if let range::Part::Of(part) = range::part(Some(text), size) {
        assert!(part.start < part.end && part.end <= size);
    }
    let _ = uploads::begins_at(text);
    let parts: Vec<&str> = text.split('/').collect();
    if let Ok(repository) = registry::checked_repository(&parts) {
        assert!(!repository.contains("..") && !repository.starts_with(['/', '.', '-']));
    }
    assert!(!registry::is_tag(text) || !text.contains(['/', '\0', '\n']));
}
