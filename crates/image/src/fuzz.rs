//! Entry points for the fuzz targets (`fuzz/`), for private functions that read foreign bytes.

/// Reads a registry's authentication challenge. The address of the token service must use TLS, unless the registry is
/// local.
pub fn challenge(text: &str, remote: &crate::Remote) {
    if let Ok(url) = crate::pull::token_url(text, remote) {
        assert!(url.scheme() == "https" || remote.is_local(), "{url}");
    }
}
