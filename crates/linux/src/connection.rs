//! Options of TCP connections of untrusted clients.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay, set_tcp_user_timeout,
};

/// Idle time after which the kernel probes whether the other end of a connection still exists.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Interval of the probes of [`probe_often`], and the number of probes without an answer that ends the connection.
const PROBES: (Duration, u32) = (Duration::from_secs(10), 6);

/// Sets options so that responses are sent without delay and the kernel detects a client whose machine is gone. If
/// `untaken` is given, the kernel also ends a connection whose client accepts no data for this long. Options that
/// cannot be set stay unchanged.
pub fn set_stream_options(stream: impl AsFd, untaken: Option<Duration>) {
    let _ = set_tcp_nodelay(&stream, true);
    let _ = set_socket_keepalive(&stream, true).and_then(|()| set_tcp_keepidle(&stream, KEEPALIVE));
    if let Some(untaken) = untaken {
        // This timeout also ends a connection that waits for a window, which keepalive does not.
        let _ = set_tcp_user_timeout(&stream, u32::try_from(untaken.as_millis()).unwrap_or(u32::MAX));
    }
}

/// Has the kernel end a tuned connection two minutes after the last packet of a client whose machine is gone. A client
/// that lives answers each probe, even if it takes no data. Options that cannot be set stay unchanged.
pub fn probe_often(stream: impl AsFd) {
    let (interval, count) = PROBES;
    let _ = set_tcp_keepintvl(&stream, interval).and_then(|()| set_tcp_keepcnt(&stream, count));
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::sockopt::{socket_keepalive, tcp_keepcnt, tcp_keepidle, tcp_keepintvl};

    use super::*;

    #[test]
    fn a_client_that_is_gone_is_noticed_within_two_minutes() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        set_stream_options(&stream, None);
        probe_often(&stream);
        assert!(socket_keepalive(&stream).expect("an option"));
        let (idle, interval) = (tcp_keepidle(&stream).expect("an option"), tcp_keepintvl(&stream).expect("an option"));
        let probes = tcp_keepcnt(&stream).expect("an option");
        assert!(idle + probes * interval <= Duration::from_secs(120), "{idle:?} {interval:?} {probes}");
    }
}
