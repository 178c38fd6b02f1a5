//! Entry points of the fuzz targets (`fuzz/`): the parsers of foreign bytes. The result must not depend on how the
//! bytes are cut.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bytes::BytesMut;
use gantry_model::{AppName, AppNames, MachineAddress, MachineName, RoleName, RoutingTable, VirtualAddresses};
use http::{HeaderValue, Method};

use crate::dns::zone::{LocalAnswer, ZoneData, local_answer};
use crate::exchange::forward::rewrite;
use crate::exchange::origin::RequestOrigin;
use crate::exchange::upgrade;
use crate::exchange::upgrade_tunnel::FrameTracker;
use crate::headers;
use crate::tunnel::frames::{self, BadFrame, FIELDS_MAX, LaneFrame, WrittenRequest};
use crate::upstream::http1::chunks::{BadChunk, ChunkDecoder, ChunkPiece};
use crate::upstream::http1::head::{self, BodyLength};

/// Parses the head of a response in one piece and in two; both results must agree.
///
/// # Panics
/// If the results differ.
pub fn answer_head(bytes: &[u8]) {
    let whole = head::read(&mut BytesMut::from(bytes), &Method::GET);
    let mut received = BytesMut::from(&bytes[..bytes.len() / 2]);
    if let Ok(None) = head::read(&mut received, &Method::GET) {
        received.extend_from_slice(&bytes[bytes.len() / 2..]);
        let cut = head::read(&mut received, &Method::GET);
        assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
    }
}

/// Rewrites a request for an instance. The output must be one request with one host, one length, and no field of the
/// client's connection.
///
/// # Panics
/// If the output is anything else.
pub fn request(bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut received = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(_)) = received.parse(bytes) else { return };
    let mut builder =
        http::Request::builder().method(received.method.unwrap_or_default()).uri(received.path.unwrap_or_default());
    for field in received.headers.iter() {
        builder = builder.header(field.name, field.value);
    }
    let Ok(request) = builder.body(()) else { return };
    if headers::host_of(&request).is_none() || request.method() == Method::CONNECT {
        return;
    }
    let protocol = upgrade::requested_protocol(request.headers());
    let id = headers::request_id(request.headers());
    let (mut parts, ()) = request.into_parts();
    let trusted = bytes.len().is_multiple_of(2);
    let peer = HeaderValue::from_static("127.0.0.1");
    rewrite(&mut parts, RequestOrigin { peer: &peer, tls: false, trusted }, &id, protocol.as_ref());
    for length in [None, Some(BodyLength::Known(5)), Some(BodyLength::Chunked)] {
        let mut out = Vec::new();
        head::write(&parts, length, &mut out);
        let mut fields = [httparse::EMPTY_HEADER; 80];
        let mut sent = httparse::Request::new(&mut fields);
        assert_eq!(sent.parse(&out), Ok(httparse::Status::Complete(out.len())), "{:?}", String::from_utf8_lossy(&out));
        let count = |name: &str| sent.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
        for name in ["host", "x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
            assert_eq!(count(name), 1, "{name}");
        }
        let framed = (count("content-length"), count("transfer-encoding"));
        assert!(framed == (1, 0) || framed == (0, 1) || (length.is_none() && framed == (0, 0)), "{framed:?}");
        let of_connection =
            ["te", "trailer", "keep-alive", "proxy-connection", "proxy-authorization", "http2-settings"];
        assert!(of_connection.iter().all(|name| count(name) == 0));
        assert_eq!((count("connection"), count("upgrade")), if protocol.is_some() { (1, 1) } else { (0, 0) });
    }
}

/// Decodes a chunked body in pieces of any size; all results must agree.
///
/// # Panics
/// If the results differ.
pub fn chunks(bytes: &[u8]) {
    if let Some((cut, bytes)) = bytes.split_first() {
        assert_eq!(body(bytes, usize::from(*cut).max(1)).ok(), body(bytes, bytes.len().max(1)).ok());
    }
}

/// Returns the data of a chunked body; none if the body does not end.
fn body(bytes: &[u8], cut: usize) -> Result<Option<Vec<u8>>, BadChunk> {
    let (mut chunks, mut received, mut data) = (ChunkDecoder::default(), BytesMut::new(), Vec::new());
    let mut pieces = bytes.chunks(cut);
    loop {
        match chunks.next(&mut received)? {
            ChunkPiece::Data(bytes) => data.extend_from_slice(&bytes),
            ChunkPiece::Trailers(_) => {}
            ChunkPiece::Ended => return Ok(Some(data)),
            ChunkPiece::Wanting => match pieces.next() {
                Some(piece) => received.extend_from_slice(piece),
                None => return Ok(None),
            },
        }
    }
}

/// Takes the frames of a lane in pieces of any size; all results must agree. The bytes of an accepted request must be one
/// request with one host and one length.
///
/// # Panics
/// If the results differ, or a request is anything else.
pub fn lane(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = lane_frames(bytes, bytes.len().max(1));
    assert_eq!(whole, lane_frames(bytes, usize::from(*cut).max(1)));
    for request in whole.0.into_iter().filter_map(|frame| WrittenRequest::read(frame.payload).ok()) {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = parsed.parse(&request.bytes) else { panic!("no whole head") };
        let values = |name: &str| -> Vec<&[u8]> {
            let named = parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
            named.map(|field| field.value).collect()
        };
        assert_eq!((values("host").len(), values("transfer-encoding").len()), (1, 0));
        let length = match values("content-length")[..] {
            [] => 0,
            [digits] => String::from_utf8_lossy(digits).parse().expect("a number"),
            _ => panic!("several lengths"),
        };
        assert_eq!(head + length, request.bytes.len());
        let head = String::from_utf8_lossy(&request.bytes[..head]).into_owned();
        assert!(head.split("\r\n").all(|line| !line.contains(['\r', '\n'])), "{head:?}");
    }
}

/// Returns the frames up to the first malformed one, and the error.
fn lane_frames(bytes: &[u8], cut: usize) -> (Vec<LaneFrame>, Option<BadFrame>) {
    let (mut received, mut taken) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        received.extend_from_slice(piece);
        loop {
            match frames::take(&mut received) {
                Ok(Some(frame)) => taken.push(frame),
                Ok(None) => break,
                Err(error) => return (taken, Some(error)),
            }
        }
    }
    (taken, None)
}

/// Parses websocket frames in one piece and byte by byte; both parsers must find the same frame ends.
///
/// # Panics
/// If the frame ends differ.
pub fn websocket(bytes: &[u8]) {
    let (mut whole, mut cut) = (FrameTracker::default(), FrameTracker::default());
    whole.pass(bytes);
    bytes.chunks(1).for_each(|byte| cut.pass(byte));
    assert_eq!(whole.is_between(), cut.is_between());
}

/// Answers a question to the resolver.
///
/// # Panics
/// If the answer exceeds the size limit.
pub fn question(bytes: &[u8]) {
    let (shop, web) = (AppName::parse("shop").expect("a name"), RoleName::parse("web").expect("a name"));
    let here = MachineName::parse("m").expect("a name");
    let addresses = vec![MachineAddress::new(here.clone(), Ipv4Addr::LOCALHOST); 50];
    let ports = BTreeMap::from([(web.clone(), 8080)]);
    let names = AppNames { main: None, roles: BTreeMap::from([(web, addresses)]), ports };
    let table = RoutingTable { names: BTreeMap::from([(shop, names)]), ..RoutingTable::default() };
    let services =
        if bytes.len().is_multiple_of(2) { VirtualAddresses::default() } else { VirtualAddresses::of(&table.names) };
    if let LocalAnswer::Answer(answer) =
        local_answer(ZoneData { table: &table, services: &services, here: &here }, bytes, 512)
    {
        assert!(answer.len() <= 512, "longer than a datagram");
    }
}

/// Parses the PROXY protocol of a trusted proxy.
///
/// # Panics
/// If a parsed preamble is longer than the input.
pub fn preamble(bytes: &[u8]) {
    crate::client::proxy_protocol::fuzz(bytes);
}
