//! Heads of HTTP/1.1 messages (RFC 9112): writes the head of a request, reads the head of a response. Pure.

use std::mem::MaybeUninit;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, StatusCode};

/// Maximum number of header fields of a response.
const FIELDS_MAX: usize = 1000;

/// Longest head of a message in bytes: larger than any server's default.
pub(crate) const HEAD_MAX: usize = 64 * 1024;

/// Length of a message body, and its framing (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// A known number of bytes.
    Known(u64),
    /// Chunks; the last chunk is empty.
    Chunked,
    /// Response only: up to the end of the connection.
    UntilClosed,
}

/// Head of a response.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) length: BodyLength,
    /// The connection may be used again after the response.
    pub(crate) keeps: bool,
}

/// Error of a malformed response head.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHead {
    #[error("the response is not HTTP/1.1 ({0})")]
    Syntax(httparse::Error),
    #[error("the head of the response is longer than {HEAD_MAX} bytes")]
    TooLong,
    #[error("the head of the response has more than {FIELDS_MAX} header fields")]
    TooMany,
    #[error("invalid header in the response")]
    Field,
    #[error("conflicting Content-Length headers in the response")]
    Length,
}

/// Writes the head of a request. The fields for the body's length are written again, from `length`.
pub(crate) fn write(request: &Parts, length: Option<BodyLength>, out: &mut impl BufMut) {
    let target = request.uri.path_and_query().map_or("/", |path| path.as_str());
    for text in [request.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.put_slice(text.as_bytes());
    }
    write_fields(&request.headers, out);
    let expects_body = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    match length {
        Some(BodyLength::Known(bytes)) => out.put_slice(format!("content-length: {bytes}\r\n").as_bytes()),
        Some(_) => out.put_slice(b"transfer-encoding: chunked\r\n"),
        // Without this field some servers wait for a body (RFC 9110, section 8.6).
        None if expects_body || request.headers.contains_key(CONTENT_LENGTH) => {
            out.put_slice(b"content-length: 0\r\n");
        }
        None => {}
    }
    out.put_slice(b"\r\n");
}

/// Writes fields, except the fields for the body's length.
pub(crate) fn write_fields(fields: &HeaderMap, out: &mut impl BufMut) {
    for (name, value) in fields {
        if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
            for bytes in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                out.put_slice(bytes);
            }
        }
    }
}

/// Writes the head of a response that is not the last hop's: status and fields, and `Content-Length` if there is one.
pub(crate) fn write_response(status: StatusCode, fields: &HeaderMap, out: &mut impl BufMut) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_slice(b" \r\n");
    write_fields(fields, out);
    for length in fields.get_all(CONTENT_LENGTH) {
        for bytes in [&b"content-length: "[..], length.as_bytes(), b"\r\n"] {
            out.put_slice(bytes);
        }
    }
    out.put_slice(b"\r\n");
}

/// Takes the head of a response from the read buffer, once the head is complete.
pub(crate) fn read(received: &mut BytesMut, request_method: &Method) -> Result<Option<ResponseHead>, BadHead> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, received, &mut fields);
    let parsed = parsed.map_err(|error| match error {
        httparse::Error::TooManyHeaders => BadHead::TooMany,
        error => BadHead::Syntax(error),
    });
    let size = match parsed? {
        httparse::Status::Complete(size) if size <= HEAD_MAX => size,
        httparse::Status::Partial if received.len() <= HEAD_MAX => return Ok(None),
        _ => return Err(BadHead::TooLong),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadHead::Field)?;
    let recent = answer.version == Some(1);
    // Values are slices of `received`, not copies. Record their positions before `received` gives the head away.
    let start = received.as_ptr().addr();
    let part = |bytes: &[u8]| {
        let from = bytes.as_ptr().addr().wrapping_sub(start);
        from..from + bytes.len()
    };
    let places = answer.headers.iter().map(|field| (part(field.name.as_bytes()), part(field.value)));
    let places: Vec<_> = places.collect();
    let head = received.split_to(size).freeze();
    let mut headers = HeaderMap::with_capacity(places.len());
    for (name, value) in places {
        let name = HeaderName::from_bytes(&head[name]).map_err(|_| BadHead::Field)?;
        // The position of an empty value is arbitrary.
        let value = if value.is_empty() { Bytes::new() } else { head.slice(value) };
        headers.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| BadHead::Field)?);
    }
    let (length, framed) = length(&mut headers, status, request_method)?;
    let keeps = framed && length != BodyLength::UntilClosed && keeps(&headers, recent);
    Ok(Some(ResponseHead { status, headers, length, keeps }))
}

/// Returns the length of the body, and whether the length was given in a single way.
fn length(headers: &mut HeaderMap, status: StatusCode, request_method: &Method) -> Result<(BodyLength, bool), BadHead> {
    let announced = content_length(headers)?;
    let coded = headers.get_all(TRANSFER_ENCODING).iter().next_back().map(|coding| {
        let last = coding.to_str().unwrap_or_default().rsplit(',').next().unwrap_or_default();
        last.trim().eq_ignore_ascii_case("chunked")
    });
    if *request_method == Method::HEAD
        || status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
    {
        return Ok((BodyLength::Known(0), true));
    }
    match coded {
        Some(chunked) => {
            // The next program might believe the other length (RFC 9112, section 6.3).
            headers.remove(CONTENT_LENGTH);
            Ok((if chunked { BodyLength::Chunked } else { BodyLength::UntilClosed }, announced.is_none()))
        }
        None => Ok((announced.map_or(BodyLength::UntilClosed, BodyLength::Known), true)),
    }
}

/// Returns the value of `Content-Length`. Several fields are accepted if they agree.
fn content_length(headers: &mut HeaderMap) -> Result<Option<u64>, BadHead> {
    let (mut announced, mut count) = (None, 0);
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length: u64 = digits.and_then(|text| text.parse().ok()).ok_or(BadHead::Length)?;
        if announced.is_some_and(|announced| announced != length) {
            return Err(BadHead::Length);
        }
        (announced, count) = (Some(length), count + 1);
    }
    if let Some(length) = announced.filter(|_| count > 1) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(announced)
}

fn keeps(headers: &HeaderMap, recent: bool) -> bool {
    let lists = |word: &str| {
        let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    if recent { !lists("close") } else { lists("keep-alive") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;

    fn answer(text: &str) -> Result<Option<ResponseHead>, BadHead> {
        read(&mut BytesMut::from(text), &Method::GET)
    }

    fn good(text: &str) -> ResponseHead {
        answer(text).expect("good").expect("whole")
    }

    #[test]
    fn a_request_is_written_with_one_length() {
        let request = Request::post("http://shop.localhost/a?b=c").header("content-length", "7").header("x-a", "1");
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let written = |length| {
            let mut out = Vec::new();
            write(&parts, length, &mut out);
            String::from_utf8(out).expect("text")
        };
        let known = "POST /a?b=c HTTP/1.1\r\nx-a: 1\r\ncontent-length: 9\r\n\r\n";
        assert_eq!(written(Some(BodyLength::Known(9))), known);
        assert!(written(Some(BodyLength::Chunked)).ends_with("x-a: 1\r\ntransfer-encoding: chunked\r\n\r\n"));
        assert!(written(None).ends_with("content-length: 0\r\n\r\n"));
    }

    #[test]
    fn reads_length_and_reuse_of_a_response() {
        let of = |fields: &str| {
            let head = good(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            (head.length, head.keeps)
        };
        assert_eq!(of("Content-Length: 5\r\n"), (BodyLength::Known(5), true));
        assert_eq!(of("Content-Length: 5\r\nConnection: x, Close\r\n"), (BodyLength::Known(5), false));
        assert_eq!(of("Transfer-Encoding: gzip, Chunked\r\n"), (BodyLength::Chunked, true));
        assert_eq!(of("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), (BodyLength::Chunked, false));
        assert_eq!(of("Transfer-Encoding: chunked, gzip\r\n"), (BodyLength::UntilClosed, false));
        assert_eq!(of(""), (BodyLength::UntilClosed, false));
        let old = good("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n");
        assert!(old.keeps && !good("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n").keeps);
        assert_eq!(good("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").length, BodyLength::Known(0));
        let both = good("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(both.headers.get_all(CONTENT_LENGTH).iter().count(), 1);
    }

    #[test]
    fn refuses_ambiguous_heads() {
        for length in ["5\r\nContent-Length: 6", "+5", "5, 5", "", "99999999999999999999", "0x5"] {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(answer(&text).err(), Some(BadHead::Length), "{length}");
        }
        for text in [
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "SSH-2.0-x\r\n",
        ] {
            assert!(matches!(answer(text), Err(BadHead::Syntax(_))), "{text}");
        }
        assert_eq!(answer(&format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(HEAD_MAX))).err(), Some(BadHead::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_cutting_changes_nothing(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "(HTTP/1.[01] [0-9]{3}( [a-z]{0,5})?\r?\n)?((content-length|a|connection): [a-z0-9 ]{0,9}\r?\n){0,5}\r?\n[a-z]{0,5}"
                    .prop_map(String::into_bytes),
            ],
            cut in 0..200usize,
        ) {
            let mut whole = BytesMut::from(&bytes[..]);
            let at_once = read(&mut whole, &Method::GET);
            let cut = cut.min(bytes.len());
            let mut received = BytesMut::from(&bytes[..cut]);
            let mut pieces = read(&mut received, &Method::GET);
            if matches!(pieces, Ok(None)) {
                received.extend_from_slice(&bytes[cut..]);
                pieces = read(&mut received, &Method::GET);
            }
            match (at_once, pieces) {
                (Ok(Some(one)), Ok(Some(two))) => {
                    prop_assert_eq!((one.status, one.headers, one.length), (two.status, two.headers, two.length));
                    prop_assert!(whole.len() >= received.len());
                }
                (Ok(None), Ok(None)) => {}
                (Err(one), Err(two)) => prop_assert_eq!(one, two),
                (one, two) => prop_assert!(false, "{:?} but {:?} in pieces", one, two),
            }
        }
    }
}
