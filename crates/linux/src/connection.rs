//! Options of TCP connections of untrusted clients.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_nodelay, set_tcp_user_timeout};

/// Idle time after which the kernel probes whether the other end of a connection still exists.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Sets options so that responses are sent without delay and the kernel detects a client whose machine is gone. If
/// `untaken` is given, the kernel also ends a connection whose client accepts no data for this long. Options that
/// cannot be set stay unchanged.
pub fn tune(stream: impl AsFd, untaken: Option<Duration>) {
    let _ = set_tcp_nodelay(&stream, true);
    let _ = set_socket_keepalive(&stream, true).and_then(|()| set_tcp_keepidle(&stream, KEEPALIVE));
    if let Some(untaken) = untaken {
        // This timeout also ends a connection that waits for a window, which keepalive does not.
        let _ = set_tcp_user_timeout(&stream, u32::try_from(untaken.as_millis()).unwrap_or(u32::MAX));
    }
}
