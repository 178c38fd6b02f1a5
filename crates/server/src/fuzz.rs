//! Entry points of the fuzz targets (`fuzz/`): the parsers of untrusted bytes.

use http::HeaderValue;

use crate::http::{auth, range, registry, uploads};

/// Parses an `Authorization` header, which the server reads before it knows anything about the client.
pub fn authorization(bytes: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let _ = auth::secret(Some(&value));
    }
}

/// Parses the ranges, upload offsets, repository names and tags in the registry's URLs and headers.
///
/// # Panics
/// When a parser accepts an invalid range, repository name or tag.
pub fn registry(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let size = text.len() as u64;
    if let range::RequestedRange::Bytes(part) = range::parse_range(Some(text), size) {
        assert!(part.start < part.end && part.end <= size);
    }
    let _ = uploads::range_start(text);
    let parts: Vec<&str> = text.split('/').collect();
    if let Ok(repository) = registry::checked_repository(&parts) {
        assert!(!repository.contains("..") && !repository.starts_with(['/', '.', '-']));
    }
    assert!(!registry::is_tag(text) || !text.contains(['/', '\0', '\n']));
}
