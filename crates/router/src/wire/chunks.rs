//! Chunked bodies (RFC 9112, section 7.1). Pure.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest size line of a chunk. The line includes chunk extensions, which the router drops.
const LINE_MAX: usize = 4096;

/// Maximum size of trailers, in bytes and in fields.
const TRAILERS_MAX: (usize, usize) = (16 * 1024, 64);

/// Position of the decoder in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Chunks {
    #[default]
    Size,
    Data(u64),
    /// The line break after a chunk.
    Break,
    Trailers,
    Ended,
}

/// Result of one decoding step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// More bytes are needed.
    Wanting,
    Ended,
}

/// Error of a malformed chunked body.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("its answer's chunks are broken")]
pub(crate) struct BadChunk;

impl Chunks {
    /// Takes the next piece from the read buffer.
    pub(crate) fn next(&mut self, came: &mut BytesMut) -> Result<Piece, BadChunk> {
        loop {
            match *self {
                Self::Size => match httparse::parse_chunk_size(came).map_err(|_| BadChunk)? {
                    httparse::Status::Complete((line, size)) if line <= LINE_MAX => {
                        came.advance(line);
                        *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                    }
                    httparse::Status::Partial if came.len() <= LINE_MAX => return Ok(Piece::Wanting),
                    _ => return Err(BadChunk),
                },
                Self::Data(0) => *self = Self::Break,
                Self::Data(_) if came.is_empty() => return Ok(Piece::Wanting),
                Self::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(came.len());
                    *self = Self::Data(left - taken as u64);
                    return Ok(Piece::Data(came.split_to(taken).freeze()));
                }
                Self::Break => match came.get(..2) {
                    Some(b"\r\n") => {
                        came.advance(2);
                        *self = Self::Size;
                    }
                    Some(_) => return Err(BadChunk),
                    None => return Ok(Piece::Wanting),
                },
                Self::Trailers => return self.trailers(came),
                Self::Ended => return Ok(Piece::Ended),
            }
        }
    }

    fn trailers(&mut self, came: &mut BytesMut) -> Result<Piece, BadChunk> {
        let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX.1];
        match httparse::parse_headers(came, &mut fields).map_err(|_| BadChunk)? {
            httparse::Status::Complete((size, fields)) if size <= TRAILERS_MAX.0 => {
                let mut trailers = HeaderMap::new();
                for field in fields {
                    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadChunk)?;
                    trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| BadChunk)?);
                }
                came.advance(size);
                *self = Self::Ended;
                Ok(if trailers.is_empty() { Piece::Ended } else { Piece::Trailers(trailers) })
            }
            httparse::Status::Partial if came.len() <= TRAILERS_MAX.0 => Ok(Piece::Wanting),
            _ => Err(BadChunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes a body that arrives in pieces of `cut` bytes: returns its data, its trailers, and the bytes behind it.
    fn decoded(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), BadChunk> {
        let (mut chunks, mut came) = (Chunks::default(), BytesMut::new());
        let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut pieces = bytes.chunks(cut);
        loop {
            match chunks.next(&mut came)? {
                Piece::Data(bytes) => data.extend_from_slice(&bytes),
                Piece::Trailers(found) => trailers = found,
                Piece::Ended => {
                    return Ok((data, trailers, [came.to_vec(), pieces.flatten().copied().collect()].concat()));
                }
                Piece::Wanting => came.extend_from_slice(pieces.next().ok_or(BadChunk)?),
            }
        }
    }

    #[test]
    fn what_is_behind_the_last_chunk_is_not_the_body_s() {
        let bytes = b"3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nGrpc-Status: 0\r\n\r\nHTTP/1.1 200";
        for cut in 1..bytes.len() {
            let (data, trailers, rest) = decoded(bytes, cut).expect("good");
            assert_eq!((&data[..], &rest[..]), (&b"abc0123456789"[..], &b"HTTP/1.1 200"[..]));
            assert_eq!(trailers["grpc-status"], "0");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for bytes in [
            &b"g\r\n"[..],
            b"-1\r\n",
            b"3\r\nabcX\r\n",
            b"3\r\nabc\n\n",
            b"fffffffffffffffff\r\n",
            b"\r\n",
            b"0\r\nA : b\r\n\r\n",
        ] {
            assert_eq!(decoded(bytes, 1).err(), Some(BadChunk), "{}", bytes.escape_ascii());
        }
        assert_eq!(decoded(&[&b"1;"[..], &[b'x'; 2 * LINE_MAX]].concat(), 100).err(), Some(BadChunk));
        assert_eq!(decoded(&[&b"0\r\nA: "[..], &[b'x'; 2 * TRAILERS_MAX.0]].concat(), 100).err(), Some(BadChunk));
    }

    proptest! {
        #[test]
        fn what_was_put_in_chunks_comes_out(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6),
            cut in 1..400usize,
        ) {
            let mut bytes = Vec::new();
            for piece in &pieces {
                bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                bytes.extend(piece);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            let (data, trailers, rest) = decoded(&bytes, cut).expect("good");
            prop_assert_eq!(data, pieces.concat());
            prop_assert!(trailers.is_empty() && rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1..50usize) {
            let _ = decoded(&bytes, cut);
        }
    }
}
