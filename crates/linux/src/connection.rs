//! TCP connections of clients that nobody vouches for.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_nodelay, set_tcp_user_timeout};

/// A connection without a word for this long is asked whether its other end still is; the kernel does it.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Answers are sent as they come, and a client whose machine is gone is noticed some time; so is one that takes nothing of what
/// is sent to it for as long as `untaken`, if that is given. What cannot be set is left as it is.
pub fn tune(stream: impl AsFd, untaken: Option<Duration>) {
    let _ = set_tcp_nodelay(&stream, true);
    let _ = set_socket_keepalive(&stream, true).and_then(|()| set_tcp_keepidle(&stream, KEEPALIVE));
    if let Some(untaken) = untaken {
        // It ends what waits for a window too, which keepalive does not.
        let _ = set_tcp_user_timeout(&stream, u32::try_from(untaken.as_millis()).unwrap_or(u32::MAX));
    }
}
