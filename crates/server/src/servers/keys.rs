//! Keys of the records of servers in the store.

/// Prefix of the keys.
pub(super) const PREFIX: &str = "servers/";

/// Prefix of the records that end with their servers.
pub(super) const LIVE: &str = "servers/live/";

/// Prefix of the records without an end.
pub(super) const KNOWN: &str = "servers/known/";

/// Key of the secret by which servers know each other.
pub(super) const SECRET: &str = "servers/secret";

/// True for a key of the records of servers.
pub(crate) fn is_server_key(key: &str) -> bool {
    key.starts_with(PREFIX)
}
