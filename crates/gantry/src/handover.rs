//! What `up` gives a service it starts: its listening sockets, and a way to say that it serves. Both go over a unix socket,
//! the service's standard input.

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

/// Set when standard input is such a socket.
pub(crate) const ON_STDIN: &str = "GANTRY_HANDOVER";

/// Which of the machine's routers this is: the same when one that died is started again, another when one is replaced.
pub(crate) const ROUTER_NUMBER: &str = "GANTRY_ROUTER_NUMBER";

/// The number that [`ROUTER_NUMBER`] says; one that was started by hand has one of its own.
pub(crate) fn router_number() -> u64 {
    let said = std::env::var(ROUTER_NUMBER).ok().and_then(|text| text.parse().ok());
    said.unwrap_or_else(|| u64::from(std::process::id()))
}

/// The most sockets that one service listens on.
const SOCKETS_MAX: usize = 2;

/// `up`'s end.
pub(crate) struct Offer {
    ours: UnixStream,
}

impl Offer {
    /// Sends the sockets on their way; the other end becomes the service's standard input.
    pub(crate) fn new(sockets: &[TcpListener]) -> anyhow::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        anyhow::ensure!(
            descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(&descriptors)),
            "too many sockets to hand over"
        );
        sendmsg(&ours, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)
            .context("cannot hand a socket over")?;
        Ok((Self { ours }, theirs.into()))
    }

    /// Waits until the service says that it serves.
    ///
    /// # Errors
    /// When it ends without a word.
    pub(crate) async fn accepted(self) -> std::io::Result<()> {
        self.ours.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(self.ours)?.read_u8().await.map(drop)
    }
}

/// The service's end. When it was started by hand, with nothing handed over, saying that it serves goes nowhere.
pub(crate) struct Handover {
    stream: Option<UnixStream>,
    sockets: std::vec::IntoIter<TcpListener>,
}

impl Handover {
    pub(crate) fn take() -> anyhow::Result<Self> {
        if std::env::var_os(ON_STDIN).is_none() {
            return Ok(Self { stream: None, sockets: Vec::new().into_iter() });
        }
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("cannot take the listening sockets")?;
        let stream = UnixStream::from(stdin);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)
            .context("cannot take the listening sockets")?;
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let sockets: Vec<TcpListener> = rights.flatten().map(TcpListener::from).collect();
        Ok(Self { stream: Some(stream), sockets: sockets.into_iter() })
    }

    /// The next socket, in the order they were offered; none for a service that opens its own.
    pub(crate) fn socket(&mut self) -> Option<TcpListener> {
        self.sockets.next()
    }

    /// Tells whoever started this that it serves.
    pub(crate) fn accept(mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.write_all(&[0]);
        }
    }
}
