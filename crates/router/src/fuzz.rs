//! What reads foreign bytes, for the fuzz targets (`fuzz/`): any bytes must do, however they are cut.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bytes::BytesMut;
use gantry_model::{AppName, RoleName, Table};
use http::Method;

use crate::names::{Known, known};
use crate::tunnel::Frames;
use crate::wire::chunks::{BadChunk, Chunks, Piece};
use crate::wire::head;

/// The head of an answer: the same in one piece and in two.
///
/// # Panics
/// When it is not.
pub fn answer_head(bytes: &[u8]) {
    let whole = head::read(&mut BytesMut::from(bytes), &Method::GET);
    let mut came = BytesMut::from(&bytes[..bytes.len() / 2]);
    if let Ok(None) = head::read(&mut came, &Method::GET) {
        came.extend_from_slice(&bytes[bytes.len() / 2..]);
        let cut = head::read(&mut came, &Method::GET);
        assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
    }
}

/// A body in chunks: the same in pieces of any size.
///
/// # Panics
/// When it is not.
pub fn chunks(bytes: &[u8]) {
    if let Some((cut, bytes)) = bytes.split_first() {
        assert_eq!(body(bytes, usize::from(*cut).max(1)).ok(), body(bytes, bytes.len().max(1)).ok());
    }
}

/// What is in the chunks; nothing of a body that does not end.
fn body(bytes: &[u8], cut: usize) -> Result<Option<Vec<u8>>, BadChunk> {
    let (mut chunks, mut came, mut data) = (Chunks::default(), BytesMut::new(), Vec::new());
    let mut pieces = bytes.chunks(cut);
    loop {
        match chunks.next(&mut came)? {
            Piece::Data(bytes) => data.extend_from_slice(&bytes),
            Piece::Trailers(_) => {}
            Piece::Ended => return Ok(Some(data)),
            Piece::Wanting => match pieces.next() {
                Some(piece) => came.extend_from_slice(piece),
                None => return Ok(None),
            },
        }
    }
}

/// The frames of a websocket: they end at the same places in one piece and byte by byte.
///
/// # Panics
/// When they do not.
pub fn websocket(bytes: &[u8]) {
    let (mut whole, mut cut) = (Frames::default(), Frames::default());
    whole.pass(bytes);
    bytes.chunks(1).for_each(|byte| cut.pass(byte));
    assert_eq!(whole.is_between(), cut.is_between());
}

/// A question to the resolver.
///
/// # Panics
/// When the answer is too long.
pub fn question(bytes: &[u8]) {
    let (shop, web) = (AppName::parse("shop").expect("a name"), RoleName::parse("web").expect("a name"));
    let roles = BTreeMap::from([(web, vec![Ipv4Addr::LOCALHOST; 50])]);
    let table = Table { names: BTreeMap::from([(shop, roles)]), ..Table::default() };
    if let Known::Answer(answer) = known(&table, bytes, 512) {
        assert!(answer.len() <= 512, "longer than a datagram");
    }
}
