//! The client's connection after a change of protocol.

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use hyper::upgrade::OnUpgrade;
use tokio::sync::oneshot;

/// The client's connection, or the client's stream, once its protocol has changed.
pub(crate) enum ClientUpgrade {
    Http1(OnUpgrade),
    Http2(StreamUpgrade),
}

/// A stream of extended CONNECT (RFC 8441).
pub(crate) struct StreamUpgrade {
    pub(crate) from: RecvStream,
    /// The sending direction, once the response has accepted the request.
    pub(crate) to: oneshot::Receiver<SendStream<Bytes>>,
}
