//! The client of a connection.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;

use crate::client::interim::InterimResponses;
use crate::timer::IdleTimer;

/// Client side of a connection.
pub(crate) struct ClientPeer {
    /// The connection uses TLS.
    pub(crate) tls: bool,
    /// Address of the client; IPv4 even where the socket is IPv6.
    pub(crate) address: IpAddr,
    /// The address as header text for applications.
    pub(crate) text: HeaderValue,
    /// Queue of interim responses to the client.
    pub(crate) interims: Arc<InterimResponses>,
    pub(crate) timers: IdleTimer,
}

impl ClientPeer {
    pub(crate) fn new(address: IpAddr, tls: bool) -> Self {
        let address = address.to_canonical();
        // The text of an address is always a valid header value.
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("-"));
        Self { tls, address, text, interims: Arc::default(), timers: IdleTimer::default() }
    }
}
