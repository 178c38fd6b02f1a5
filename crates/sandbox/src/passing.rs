//! Descriptors passed over a unix socket, with one byte.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Maximum number of descriptors of one message.
const DESCRIPTORS_MAX: usize = 3;

/// Sends descriptors.
pub(crate) fn send(socket: impl AsFd, descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(socket, &[IoSlice::new(b"d")], &mut control, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives the descriptors of one message; none at the end of the socket. No program that this process runs inherits
/// the descriptors.
pub(crate) fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    Ok(Some(rights.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn passes_descriptors_and_tells_the_end() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (mut reading, writing) = std::io::pipe().expect("a pipe");
        send(&one, &[writing.as_fd()], SendFlags::empty()).expect("sent");
        drop((one, writing));
        let received = receive(&other, RecvFlags::empty()).expect("received").expect("descriptors");
        assert_eq!(received.len(), 1);
        assert!(rustix::io::fcntl_getfd(&received[0]).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
        std::io::Write::write_all(&mut std::fs::File::from(received.into_iter().next().expect("one")), b"x")
            .expect("written");
        let mut text = String::new();
        reading.read_to_string(&mut text).expect("read");
        assert_eq!(text, "x");
        assert!(receive(&other, RecvFlags::empty()).expect("received").is_none());
    }
}
