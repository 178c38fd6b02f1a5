//! Frames of a lane. Pure.
//!
//! ```text
//! kind (1 byte) │ exchange (8 bytes) │ length of the payload (4 bytes) │ payload
//! ```
//! The highest bit of the kind says that the frame is the last one of its exchange. Numbers are big-endian. The entry
//! router numbers the exchanges. Heads are those of HTTP/1.1 (RFC 9112): the peer sends the bytes of a request to the
//! instance as they are.

use bytes::{Buf, BufMut, BytesMut};
use http::Method;

/// Length of a frame without its payload.
const PREFIX: usize = 13;

/// Longest payload: a request with the largest accepted head.
pub(crate) const PAYLOAD_MAX: usize = 256 << 10;

/// Number of bytes of a response's body that the peer may send before the entry router grants more: the window of a stream.
pub(crate) const CREDIT: u32 = 256 << 10;

/// Maximum number of fields of a request.
pub(crate) const FIELDS_MAX: usize = 128;

/// Marks the last frame of an exchange.
const LAST: u8 = 0x80;

/// Kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Entry router: a complete request.
    Request,
    /// Entry router: the response is not wanted any more.
    Cancel,
    /// Entry router: number of bytes of the response's body that the peer may send in addition.
    Credit,
    /// Peer: head of an interim response.
    Interim,
    /// Peer: head of the response, or the peer's refusal in the same form (`wire::refuse`).
    Head,
    /// Peer: part of the response's body.
    Data,
    /// Peer: end of the response's body, with its trailers.
    End,
    /// Peer: the instance broke off its response.
    Broken,
    /// Peer: the lane takes no more requests. Concerns no exchange.
    Leaving,
}

/// All kinds; the place of a kind is its number.
const KINDS: [FrameKind; 9] = [
    FrameKind::Request,
    FrameKind::Cancel,
    FrameKind::Credit,
    FrameKind::Interim,
    FrameKind::Head,
    FrameKind::Data,
    FrameKind::End,
    FrameKind::Broken,
    FrameKind::Leaving,
];

/// Frame of a lane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LaneFrame {
    pub(crate) kind: FrameKind,
    /// The frame is the last one of its exchange.
    pub(crate) is_last: bool,
    pub(crate) exchange: u64,
    pub(crate) payload: BytesMut,
}

/// Error of a malformed frame; the lane cannot be used any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame on a lane")]
pub(crate) struct BadFrame;

/// Writes a frame, whose payload `write` writes.
pub(crate) fn put(
    out: &mut BytesMut,
    kind: FrameKind,
    is_last: bool,
    exchange: u64,
    write: impl FnOnce(&mut BytesMut),
) {
    let number = u8::try_from(KINDS.iter().position(|known| *known == kind).unwrap_or_default()).unwrap_or_default();
    out.put_u8(number | if is_last { LAST } else { 0 });
    out.put_u64(exchange);
    out.put_u32(0);
    let begin = out.len();
    write(out);
    let length = u32::try_from(out.len() - begin).unwrap_or(u32::MAX);
    out[begin - 4..begin].copy_from_slice(&length.to_be_bytes());
}

/// Takes the next frame from the read buffer; none if more bytes are needed.
pub(crate) fn take(received: &mut BytesMut) -> Result<Option<LaneFrame>, BadFrame> {
    let Some(mut prefix) = received.get(..PREFIX) else { return Ok(None) };
    let (kind, exchange, length) = (prefix.get_u8(), prefix.get_u64(), prefix.get_u32() as usize);
    let is_last = kind & LAST != 0;
    let kind = *KINDS.get(usize::from(kind & !LAST)).ok_or(BadFrame)?;
    if length > PAYLOAD_MAX {
        return Err(BadFrame);
    }
    if received.len() < PREFIX + length {
        return Ok(None);
    }
    received.advance(PREFIX);
    Ok(Some(LaneFrame { kind, is_last, exchange, payload: received.split_to(length) }))
}

/// A request on a lane, as its peer reads it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WrittenRequest {
    pub(crate) allocation: String,
    pub(crate) method: Method,
    /// Head and body, as sent to the instance.
    pub(crate) bytes: BytesMut,
}

impl WrittenRequest {
    /// Writes a request, whose bytes `write` writes.
    pub(crate) fn put(allocation: &[u8], out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
        out.put_u8(u8::try_from(allocation.len()).unwrap_or_default());
        out.put_slice(allocation);
        write(out);
    }

    /// Reads a request. Its bytes must be one request and no more: other clients use the same connection to the instance.
    pub(crate) fn read(mut payload: BytesMut) -> Result<Self, BadFrame> {
        let length = usize::from(*payload.first().ok_or(BadFrame)?);
        if payload.len() <= length {
            return Err(BadFrame);
        }
        payload.advance(1);
        let allocation = payload.split_to(length);
        let allocation = std::str::from_utf8(&allocation).map_err(|_| BadFrame)?.to_owned();
        let method = whole_request(&payload)?;
        Ok(Self { allocation, method, bytes: payload })
    }
}

/// Checks that the bytes are one complete request with one host and one length, as a router writes it; returns its method.
fn whole_request(bytes: &[u8]) -> Result<Method, BadFrame> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut fields).map_err(|_| BadFrame)?;
    let httparse::Status::Complete(head) = parsed else { return Err(BadFrame) };
    if request.version != Some(1) || !has_whole_breaks(&bytes[..head]) {
        return Err(BadFrame);
    }
    let (mut length, mut hosts) = (None, 0);
    for field in request.headers.iter() {
        hosts += usize::from(field.name.eq_ignore_ascii_case("host"));
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(BadFrame);
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            let digits = Some(field.value).filter(|value| length.is_none() && value.iter().all(u8::is_ascii_digit));
            let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
            length = Some(digits.ok_or(BadFrame)?);
        }
    }
    let method = request.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok()).ok_or(BadFrame)?;
    let is_whole = bytes.len().checked_sub(head) == Some(length.unwrap_or_default());
    (is_whole && hosts == 1 && method != Method::CONNECT).then_some(method).ok_or(BadFrame)
}

/// Returns whether a head begins with its first line, and each of its lines ends with CR LF. The parser also accepts
/// empty lines before a head and a bare LF, which an instance may take for a part of a value.
fn has_whole_breaks(head: &[u8]) -> bool {
    let ends = head.iter().filter(|byte| **byte == b'\n').count();
    let pairs = head.windows(2).filter(|pair| *pair == b"\r\n").count();
    ends == pairs && !head.starts_with(b"\r")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_has_its_own_number() {
        for kind in KINDS {
            let mut out = BytesMut::new();
            put(&mut out, kind, true, 7, |_| {});
            let frame = LaneFrame { kind, is_last: true, exchange: 7, payload: BytesMut::new() };
            assert_eq!(take(&mut out), Ok(Some(frame)));
        }
        assert_eq!(take(&mut BytesMut::from(&[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..])), Err(BadFrame));
        assert_eq!(take(&mut BytesMut::from(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1][..])), Err(BadFrame), "too long");
    }

    #[test]
    fn takes_one_complete_request_alone() {
        let read = |bytes: &str| {
            let mut payload = BytesMut::new();
            WrittenRequest::put(b"shop.v1.web-1", &mut payload, |out| out.put_slice(bytes.as_bytes()));
            WrittenRequest::read(payload)
        };
        for good in ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"]
        {
            let read = read(good).expect("good");
            assert_eq!((read.allocation.as_str(), &read.bytes[..]), ("shop.v1.web-1", good.as_bytes()));
            assert!(good.starts_with(read.method.as_str()));
        }
        for bad in [
            "",
            "GET / HTTP/1.1\r\nhost: a\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx: b\rc: d\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\ncontent-length : 3\r\n\r\nabc",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nx: b\ncontent-length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551615\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: +3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: \r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        ] {
            assert_eq!(read(bad), Err(BadFrame), "{bad}");
        }
        assert_eq!(WrittenRequest::read(BytesMut::new()), Err(BadFrame));
        assert_eq!(WrittenRequest::read(BytesMut::from(&[3, b'a'][..])), Err(BadFrame));
    }

    proptest! {
        #[test]
        fn frames_round_trip_in_pieces_of_any_size(
            frames in prop::collection::vec((0..9usize, any::<bool>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)), 0..6),
            cut in 1..400usize,
        ) {
            let mut out = BytesMut::new();
            for (kind, is_last, exchange, payload) in &frames {
                put(&mut out, KINDS[*kind], *is_last, *exchange, |out| out.put_slice(payload));
            }
            let (mut received, mut taken) = (BytesMut::new(), Vec::new());
            for piece in out.chunks(cut) {
                received.extend_from_slice(piece);
                while let Some(frame) = take(&mut received).expect("good") {
                    taken.push(frame);
                }
            }
            let sent = frames.into_iter().map(|(kind, is_last, exchange, payload)| LaneFrame {
                kind: KINDS[kind], is_last, exchange, payload: BytesMut::from(&payload[..]),
            });
            prop_assert_eq!(taken, sent.collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut received = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut received) {}
            let _ = WrittenRequest::read(BytesMut::from(&bytes[..]));
        }
    }
}
