//! PROXY protocol, versions 1 and 2: a trusted proxy names the client of a connection before the connection's first
//! byte.
//!
//! The router reads a preamble only from addresses of the cluster's trusted proxies; the preamble is optional. From any
//! other address the same bytes are a malformed request. Layout: HAProxy's `doc/proxy-protocol.txt`, sections 2.1 and
//! 2.2.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// The longest line of version 1, line end included (section 2.1).
const LINE_MAX: usize = 107;

/// The longest preamble that is read: an address pair and the extensions that proxies send.
const PREAMBLE_MAX: usize = 2048;

/// The first bytes of version 2 (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of version 1.
const VERSION_ONE_PREFIX: &[u8] = b"PROXY ";

/// Extension: the client's connection to the proxy used TLS (section 2.2.5).
const TLS_EXTENSION: u8 = 0x20;

/// Time that the rest of a preamble may take after its first byte.
const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Poll interval for a preamble that arrives in pieces.
const POLL: Duration = Duration::from_millis(5);

/// A proxy's description of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProxyPreamble {
    /// The client's address; none for a connection of the proxy's own, such as a health check.
    pub(crate) client: Option<IpAddr>,
    /// The client spoke TLS with the proxy.
    pub(crate) tls: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum ParsedPreamble {
    /// The connection begins with something else.
    Absent,
    /// More bytes are needed to tell.
    Partial,
    Malformed,
    /// A preamble, and its length in bytes.
    Found(ProxyPreamble, usize),
}

/// Takes the preamble off a connection, if the connection begins with a preamble.
///
/// # Errors
/// If the preamble is malformed or late, or the connection breaks.
pub(crate) async fn take(stream: &mut TcpStream, first_byte: Duration) -> io::Result<Option<ProxyPreamble>> {
    let mut bytes = [0; PREAMBLE_MAX];
    let mut deadline = Instant::now() + first_byte;
    loop {
        // Peeking leaves the bytes for HTTP where there is no preamble.
        let length = timeout_at(deadline, stream.peek(&mut bytes)).await??;
        match parse(&bytes[..length]) {
            ParsedPreamble::Absent => return Ok(None),
            ParsedPreamble::Found(preamble, length) => {
                stream.read_exact(&mut bytes[..length]).await?;
                return Ok(Some(preamble));
            }
            ParsedPreamble::Partial if length == 0 => return Ok(None),
            ParsedPreamble::Partial if length < bytes.len() => {
                deadline = deadline.min(Instant::now() + PREAMBLE_TIMEOUT)
            }
            ParsedPreamble::Partial | ParsedPreamble::Malformed => return Err(io::ErrorKind::InvalidData.into()),
        }
        timeout_at(deadline, sleep(POLL)).await?;
    }
}

fn parse(bytes: &[u8]) -> ParsedPreamble {
    let begins = |mark: &[u8]| bytes.starts_with(mark);
    if begins(SIGNATURE) {
        version_2(bytes)
    } else if begins(VERSION_ONE_PREFIX) {
        version_1(bytes)
    } else if SIGNATURE.starts_with(bytes) || VERSION_ONE_PREFIX.starts_with(bytes) {
        ParsedPreamble::Partial
    } else {
        ParsedPreamble::Absent
    }
}

fn version_1(bytes: &[u8]) -> ParsedPreamble {
    let line = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_MAX { ParsedPreamble::Partial } else { ParsedPreamble::Malformed };
    };
    let Ok(text) = std::str::from_utf8(&line[..end]) else { return ParsedPreamble::Malformed };
    let words: Vec<&str> = text.split(' ').collect();
    let client = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let is_right = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (*family == "TCP4"));
            let is_port = |text: &str| text.parse::<u16>().is_ok();
            if !(is_right(source) && is_right(destination) && is_port(from) && is_port(to)) {
                return ParsedPreamble::Malformed;
            }
            source.parse().ok()
        }
        _ => return ParsedPreamble::Malformed,
    };
    ParsedPreamble::Found(ProxyPreamble { client, tls: false }, end + 2)
}

fn version_2(bytes: &[u8]) -> ParsedPreamble {
    let Some(([version, family, high, low], rest)) = bytes[SIGNATURE.len()..].split_first_chunk() else {
        return ParsedPreamble::Partial;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let whole = SIGNATURE.len() + 4 + length;
    if whole > PREAMBLE_MAX || version >> 4 != 2 || version & 0xf > 1 {
        return ParsedPreamble::Malformed;
    }
    let Some(body) = rest.get(..length) else { return ParsedPreamble::Partial };
    // A command of 0 is a connection of the proxy's own.
    if version & 0xf == 0 {
        return ParsedPreamble::Found(ProxyPreamble { client: None, tls: false }, whole);
    }
    let (client, extensions) = match family >> 4 {
        1 => match (body.first_chunk::<4>(), body.get(12..)) {
            (Some(source), Some(rest)) => (Some(IpAddr::V4(Ipv4Addr::from(*source))), rest),
            _ => return ParsedPreamble::Malformed,
        },
        2 => match (body.first_chunk::<16>(), body.get(36..)) {
            (Some(source), Some(rest)) => (Some(IpAddr::V6(Ipv6Addr::from(*source))), rest),
            _ => return ParsedPreamble::Malformed,
        },
        // Unix sockets and unknown families have no address of use here.
        _ => (None, &[][..]),
    };
    ParsedPreamble::Found(ProxyPreamble { client, tls: has_tls(extensions) }, whole)
}

/// Searches the extensions for TLS. An extension has a type, a length in two bytes, and a value.
fn has_tls(mut extensions: &[u8]) -> bool {
    while let Some(([kind, high, low], rest)) = extensions.split_first_chunk() {
        let Some((value, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) else {
            return false;
        };
        if *kind == TLS_EXTENSION {
            // The lowest bit of the first byte: the client connected with TLS.
            return value.first().is_some_and(|flags| flags & 1 == 1);
        }
        extensions = rest;
    }
    false
}

/// Parses any bytes, for the fuzz target.
///
/// # Panics
/// If the parsed preamble is longer than the input.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let ParsedPreamble::Found(_, length) = parse(bytes) {
        assert!(length <= bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &length, body].concat()
    }

    fn found(client: Option<&str>, tls: bool, length: usize) -> ParsedPreamble {
        let client = client.map(|text| text.parse().expect("an address"));
        ParsedPreamble::Found(ProxyPreamble { client, tls }, length)
    }

    #[test]
    fn both_versions_name_the_client() {
        let line = b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(parse(line), found(Some("203.0.113.9"), false, 43));
        assert_eq!(parse(b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n"), found(Some("2001:db8::9"), false, 32));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), found(None, false, 15));
        assert_eq!(parse(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), found(None, false, 35));
        let inet = [203, 0, 113, 9, 10, 0, 0, 1, 1, 2, 3, 4];
        assert_eq!(parse(&v2(1, 0x11, &inet)), found(Some("203.0.113.9"), false, 28));
        let tls = [&inet[..], &[3, 0, 1, 7, TLS_EXTENSION, 0, 5, 1, 0, 0, 0, 0]].concat();
        assert_eq!(parse(&v2(1, 0x11, &tls)), found(Some("203.0.113.9"), true, 40));
        let inet6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 20]].concat();
        assert_eq!(parse(&v2(1, 0x21, &inet6)), found(Some("2001:db8::9"), false, 52));
        assert_eq!(parse(&v2(0, 0, &[])), found(None, false, 16), "a health check of the proxy's");
        assert_eq!(parse(&v2(1, 0x31, &[0; 216])), found(None, false, 232), "a Unix socket");
    }

    #[test]
    fn requests_are_no_preamble_and_half_a_preamble_waits() {
        for request in [&b"GET / HTTP/1.1\r\n"[..], b"PROPFIND /", b"PUT / ", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01"] {
            assert_eq!(parse(request), ParsedPreamble::Absent, "{}", request.escape_ascii());
        }
        let whole = [&b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n"[..], &v2(1, 0x11, &[7; 12])];
        for whole in whole {
            for length in 0..whole.len() {
                assert_eq!(parse(&whole[..length]), ParsedPreamble::Partial, "{}", whole[..length].escape_ascii());
            }
        }
    }

    #[test]
    fn malformed_preambles_are_refused() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 120]].concat();
        let (short, version) = (v2(1, 0x11, &[1; 8]), [SIGNATURE, &[0x10, 0x11, 0, 0]].concat());
        let (command, huge) = (v2(2, 0x11, &[0; 12]), [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat());
        for bad in [
            &b"PROXY TCP4 ::1 ::1 1 2\r\n"[..],
            b"PROXY TCP4 203.0.113.9 10.0.0.1 56324\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 99999 1\r\n",
            b"PROXY UDP4 203.0.113.9 10.0.0.1 1 1\r\n",
            b"PROXY TCP4 \xff 10.0.0.1 1 1\r\n",
            &long,
            &short,
            &version,
            &command,
            &huge,
        ] {
            assert_eq!(parse(bad), ParsedPreamble::Malformed, "{}", bad.escape_ascii());
        }
    }
}
