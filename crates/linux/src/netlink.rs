//! Route netlink without a runtime: requests are collected, and go to the kernel in one packet.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send, socket_with, sockopt,
};

/// Timeout of the kernel's answer. Requests queue on one lock of the kernel.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Length of a message's header, which every answer repeats.
const HEADER: usize = 16;

/// Size of the buffer for answers: the answer to a refused request repeats the request.
const ANSWER: usize = 16 << 10;

/// A socket of the network namespace that the calling thread is in.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open() -> std::io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(TIMEOUT))?;
        Ok(Self(socket))
    }

    /// The index of the device `name`.
    pub(crate) fn index_of(&self, name: &str) -> std::io::Result<u32> {
        Ok(netdevice::name_to_index(self.0.as_fd(), name)?)
    }

    /// Sends the requests and waits for an answer to each. The kernel carries out later requests even if it refuses an
    /// earlier one.
    ///
    /// # Errors
    /// The first refusal.
    pub(crate) fn send(&self, requests: &Requests) -> std::io::Result<()> {
        send(&self.0, &requests.bytes, SendFlags::empty())?;
        let mut buffer = vec![0; ANSWER];
        let (mut left, mut first) = (requests.count, Ok(()));
        while left > 0 {
            let (length, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            for answer in answers(&buffer[..length]) {
                left = left.saturating_sub(1);
                first = first.and(answer);
            }
        }
        Ok(first?)
    }
}

/// The answers in a packet of the kernel: success, or the error of the request.
fn answers(mut packet: &[u8]) -> Vec<Result<(), Errno>> {
    let number = |bytes: &[u8]| i32::from_ne_bytes(bytes.try_into().unwrap_or_default());
    let mut found = Vec::new();
    while packet.len() >= HEADER + 4 {
        let length = usize::try_from(number(&packet[..4])).unwrap_or_default();
        let kind = i32::from(u16::from_ne_bytes([packet[4], packet[5]]));
        if kind == libc::NLMSG_ERROR {
            let error = number(&packet[HEADER..HEADER + 4]);
            found.push(if error == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-error)) });
        }
        packet = packet.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Requests of one packet.
#[derive(Default)]
pub(crate) struct Requests {
    bytes: Vec<u8>,
    count: u32,
}

impl Requests {
    /// Adds a request: its type, its flags besides the usual ones, and its body.
    pub(crate) fn add(&mut self, kind: u16, flags: i32, body: impl FnOnce(&mut Attributes<'_>)) {
        let begin = self.bytes.len();
        let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).unwrap_or_default();
        self.count += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - begin).unwrap_or_default();
        self.bytes[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The body of a request: a fixed structure, then attributes. Every part begins at a multiple of four.
pub(crate) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    /// Adds the fixed structure of a link: its index and flags, of which the kernel sets those that are named.
    pub(crate) fn link(&mut self, index: u32, flags: i32) -> &mut Self {
        let flags = flags.to_ne_bytes();
        self.raw(&[&[0; 4][..], &index.to_ne_bytes(), &flags, &flags].concat())
    }

    /// Adds a fixed structure.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nest(kind, |inner| {
            inner.raw(value);
        })
    }

    /// Adds a text, which ends with NUL.
    pub(crate) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that contains others.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let begin = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(&mut Attributes(self.0));
        let length = u16::try_from(self.0.len() - begin).unwrap_or(u16::MAX);
        self.0[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[begin + 2..begin + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_attributes_and_counts_lengths() {
        let mut requests = Requests::default();
        requests.add(16, libc::NLM_F_CREATE, |link| {
            link.link(7, libc::IFF_UP).text(3, "eth0").nest(18, |info| {
                info.put(1, b"veth");
            });
        });
        let bytes = &requests.bytes;
        assert_eq!((bytes.len(), bytes[0]), (16 + 16 + 12 + 12, 56));
        // "eth0" with NUL has nine bytes with its header; the next attribute begins at twelve.
        assert_eq!((bytes[32], bytes[34], &bytes[36..44]), (9, 3, &b"eth0\0\0\0\0"[..]));
        assert_eq!((bytes[44], bytes[46], bytes[48], bytes[50]), (12, 18, 8, 1));
    }

    #[test]
    fn reads_several_answers_of_one_packet() {
        let answer = |error: i32| {
            let mut bytes = vec![0; 36];
            bytes[0] = 36;
            bytes[4] = 2;
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            bytes
        };
        let packet = [answer(0), answer(-17), answer(0)].concat();
        assert_eq!(answers(&packet), [Ok(()), Err(Errno::EXIST), Ok(())]);
        assert_eq!(answers(&packet[..30]), [Ok(())]);
        assert_eq!(answers(&[0; 40]), []);
    }

    #[test]
    fn the_kernel_s_refusal_is_an_error_and_later_requests_are_carried_out() {
        let netlink = Netlink::open().expect("a socket");
        assert_eq!(netlink.index_of("lo").expect("every namespace has it"), 1);
        let mut requests = Requests::default();
        for name in ["gantry-none-a", "gantry-none-b"] {
            requests.add(libc::RTM_DELLINK, 0, |link| {
                link.link(0, 0).text(libc::IFLA_IFNAME, name);
            });
        }
        let refused = netlink.send(&requests).expect_err("there is no such link");
        assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
        assert!(netlink.index_of("gantry-none-a").is_err());
    }
}
