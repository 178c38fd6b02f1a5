//! What reads foreign bytes and is private, for the fuzz targets (`fuzz/`).

/// A registry's challenge: where it sends for a token. Only over TLS, whatever it says.
pub fn challenge(text: &str, remote: &crate::Remote) {
    if let Ok(url) = crate::pull::token_url(text, remote) {
        assert!(url.scheme() == "https" || remote.is_local(), "{url}");
    }
}
