//! Chunked bodies (RFC 9112, section 7.1). Pure.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest size line of a chunk. The line includes chunk extensions, which the router drops.
const LINE_MAX: usize = 4096;

/// Maximum size of trailers, in bytes and in fields.
const TRAILERS_MAX: (usize, usize) = (16 * 1024, 64);

/// Position of the decoder in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ChunkDecoder {
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
pub(crate) enum ChunkPiece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// More bytes are needed.
    Wanting,
    Ended,
}

/// Error of a malformed chunked body.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunk in the response")]
pub(crate) struct BadChunk;

impl ChunkDecoder {
    /// Takes the next piece from the read buffer.
    pub(crate) fn next(&mut self, received: &mut BytesMut) -> Result<ChunkPiece, BadChunk> {
        loop {
            match *self {
                Self::Size => match httparse::parse_chunk_size(received).map_err(|_| BadChunk)? {
                    httparse::Status::Complete((line, size)) if line <= LINE_MAX => {
                        received.advance(line);
                        *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                    }
                    httparse::Status::Partial if received.len() <= LINE_MAX => return Ok(ChunkPiece::Wanting),
                    _ => return Err(BadChunk),
                },
                Self::Data(0) => *self = Self::Break,
                Self::Data(_) if received.is_empty() => return Ok(ChunkPiece::Wanting),
                Self::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(received.len());
                    *self = Self::Data(left - taken as u64);
                    return Ok(ChunkPiece::Data(received.split_to(taken).freeze()));
                }
                Self::Break => match received.get(..2) {
                    Some(b"\r\n") => {
                        received.advance(2);
                        *self = Self::Size;
                    }
                    Some(_) => return Err(BadChunk),
                    None => return Ok(ChunkPiece::Wanting),
                },
                Self::Trailers => return self.trailers(received),
                Self::Ended => return Ok(ChunkPiece::Ended),
            }
        }
    }

    fn trailers(&mut self, received: &mut BytesMut) -> Result<ChunkPiece, BadChunk> {
        let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX.1];
        match httparse::parse_headers(received, &mut fields).map_err(|_| BadChunk)? {
            httparse::Status::Complete((size, fields)) if size <= TRAILERS_MAX.0 => {
                let mut trailers = HeaderMap::new();
                for field in fields {
                    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadChunk)?;
                    trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| BadChunk)?);
                }
                received.advance(size);
                *self = Self::Ended;
                Ok(if trailers.is_empty() { ChunkPiece::Ended } else { ChunkPiece::Trailers(trailers) })
            }
            httparse::Status::Partial if received.len() <= TRAILERS_MAX.0 => Ok(ChunkPiece::Wanting),
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
        let (mut chunks, mut received) = (ChunkDecoder::default(), BytesMut::new());
        let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut pieces = bytes.chunks(cut);
        loop {
            match chunks.next(&mut received)? {
                ChunkPiece::Data(bytes) => data.extend_from_slice(&bytes),
                ChunkPiece::Trailers(found) => trailers = found,
                ChunkPiece::Ended => {
                    return Ok((data, trailers, [received.to_vec(), pieces.flatten().copied().collect()].concat()));
                }
                ChunkPiece::Wanting => received.extend_from_slice(pieces.next().ok_or(BadChunk)?),
            }
        }
    }

    #[test]
    fn leaves_bytes_behind_the_last_chunk() {
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
        fn decodes_chunked_bodies(
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
