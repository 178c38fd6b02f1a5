//! Handover of listening sockets from `up` to a service. The service also reports readiness to `up`. Both use a unix
//! socket, which is the service's standard input.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt;

use crate::coded::require;

/// Environment variable; set when standard input is a handover socket.
pub(crate) const ON_STDIN: &str = "GANTRY_HANDOVER";

/// Environment variable with the router's number. A restart after a crash keeps the number; a replacement gets a new
/// number.
pub(crate) const ROUTER_NUMBER: &str = "GANTRY_ROUTER_NUMBER";

/// Reads the number from [`ROUTER_NUMBER`]. A router that was started by hand uses its process id.
pub(crate) fn router_number() -> u64 {
    let number = std::env::var(ROUTER_NUMBER).ok().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| u64::from(std::process::id()))
}

/// Maximum number of sockets that a service listens on.
const SOCKETS_MAX: usize = 3;

/// The end of `up`.
pub(crate) struct Offer {
    ours: UnixStream,
}

impl Offer {
    /// Sends the sockets. The returned descriptor becomes the service's standard input.
    pub(crate) fn new<'a>(sockets: impl Iterator<Item = &'a TcpListener>) -> anyhow::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair().context("cannot create the socket to the service")?;
        let descriptors: Vec<BorrowedFd<'_>> = sockets.map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        require!(
            descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(&descriptors)),
            ServiceNotStarted,
            "cannot pass {} listening sockets to the service; at most {SOCKETS_MAX} fit",
            descriptors.len()
        );
        sendmsg(&ours, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)
            .context("cannot pass the listening sockets to the service")?;
        Ok((Self { ours }, theirs.into()))
    }

    /// Waits until the service reports readiness.
    ///
    /// # Errors
    /// When the service ends before its report.
    pub(crate) async fn accepted(self) -> std::io::Result<()> {
        self.ours.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(self.ours)?.read_u8().await.map(drop)
    }
}

/// The service's end. Empty for a service that was started by hand; the report then has no effect.
pub(crate) struct Handover {
    stream: Option<UnixStream>,
    sockets: std::vec::IntoIter<TcpListener>,
}

impl Handover {
    pub(crate) fn take() -> anyhow::Result<Self> {
        if std::env::var_os(ON_STDIN).is_none() {
            return Ok(Self { stream: None, sockets: Vec::new().into_iter() });
        }
        let stdin = std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .context("cannot receive the listening sockets of `gantry up`")?;
        let stream = UnixStream::from(stdin);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)
            .context("cannot receive the listening sockets of `gantry up`")?;
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let sockets: Vec<TcpListener> = rights.flatten().map(TcpListener::from).collect();
        Ok(Self { stream: Some(stream), sockets: sockets.into_iter() })
    }

    /// The next socket, in the order of the offer; `None` for a service that opens its own sockets.
    pub(crate) fn socket(&mut self) -> Option<TcpListener> {
        self.sockets.next()
    }

    /// Reports readiness to `up`.
    pub(crate) fn accept(mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.write_all(&[0]);
        }
    }
}
