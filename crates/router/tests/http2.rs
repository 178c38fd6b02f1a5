//! HTTP/2 conformance by the list of h2spec (sections `generic`, `http2` and `hpack`, numbered as in h2spec, after RFC
//! 7540 and 7541). The router answers valid input; invalid input ends the stream or the connection. As in h2spec, a
//! connection may end without an error code. A given code must be the code of the list, or the general PROTOCOL_ERROR,
//! which `h2` uses in place of many specific codes.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod h2spec;
mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use gantry_model::role::AppProtocol;
use h2spec::CaseStep::{Answered, Data, Send};
use h2spec::ExpectedEnd::{Acknowledged, Alive, Answer, Bytes, ConnectionError, GoAway, Pong, StreamError};
use h2spec::{BODY, PROTOCOL, ProtocolCase, cases};
use harness::frames::*;
use harness::{NOWHERE, app, endpoint, full, router, table};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

struct ReceivedFrame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl ReceivedFrame {
    fn ends(&self, stream: u32) -> bool {
        [DATA, HEADERS].contains(&self.kind) && self.flags & END_STREAM != 0 && self.stream == stream
    }

    /// Returns the error code of a frame that ends a stream or the connection.
    fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }
}

/// Reads the next frame; none if the connection ended, with or without a reset.
async fn next(stream: &mut TcpStream) -> Option<ReceivedFrame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some(ReceivedFrame { kind: head[3], flags: head[4], stream: number, payload })
}

/// Checks that the frame has one of the expected error codes, or the general code.
fn judge(end: &ReceivedFrame, codes: &[u32]) -> Result<(), String> {
    match end.code() {
        Some(code) if codes.contains(&code) || (code == PROTOCOL && codes != [0]) => Ok(()),
        code => Err(format!("frame {} came with code {code:?}, not one of {codes:?}", end.kind)),
    }
}

/// Sends a case to the router; the error describes a wrong response.
async fn run_case(stream: &mut TcpStream, case: &ProtocolCase) -> Result<(), String> {
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&preface).await.map_err(|error| error.to_string())?;
    // The acknowledgement of the first SETTINGS must not count for later SETTINGS.
    loop {
        let first = next(stream).await.ok_or("it ended at once")?;
        if first.kind == SETTINGS && first.flags & ACK != 0 {
            break;
        }
    }
    let broke = |frame: Option<ReceivedFrame>| match frame {
        None => "the connection ended".to_owned(),
        Some(frame) => format!("frame {} came, code {:?}", frame.kind, frame.code()),
    };
    for step in &case.steps {
        match step {
            // The router may end the connection before all bytes are sent.
            Send(bytes) => drop(stream.write_all(bytes).await),
            Answered(number) => loop {
                match next(stream).await {
                    Some(frame) if frame.ends(*number) => break,
                    Some(frame) if frame.code().is_none() => {}
                    frame => return Err(broke(frame)),
                }
            },
            Data(number, length) => loop {
                match next(stream).await {
                    Some(frame) if frame.kind == DATA && frame.stream == *number && frame.payload.len() == *length => {
                        break;
                    }
                    Some(frame) if frame.code().is_none() && frame.kind != DATA => {}
                    frame => return Err(broke(frame)),
                }
            },
        }
    }
    if matches!(case.expected, Alive) {
        let _ = stream.write_all(&frame(PING, 0, 0, b"alive???")).await;
    }
    let (mut got, mut headed) = (Vec::new(), false);
    loop {
        let frame = next(stream).await;
        let done = match (&case.expected, &frame) {
            (StreamError(_) | ConnectionError(_), None) => true,
            (StreamError(codes), Some(frame)) if [RST_STREAM, GOAWAY].contains(&frame.kind) => {
                return judge(frame, codes);
            }
            (ConnectionError(codes) | GoAway(codes), Some(frame)) if frame.kind == GOAWAY => {
                return judge(frame, codes);
            }
            (Answer(number), Some(frame)) => {
                headed |= frame.kind == HEADERS && frame.stream == *number;
                headed && frame.ends(*number)
            }
            (Bytes(length), Some(frame)) if frame.kind == DATA => frame.payload.len() == *length,
            (Alive, Some(frame)) => frame.kind == PING && frame.payload == b"alive???",
            (Acknowledged, Some(frame)) => frame.kind == SETTINGS && frame.flags & ACK != 0,
            (Pong, Some(frame)) if frame.kind == PING => {
                return match frame.flags & ACK != 0 && frame.payload == b"h2spec!!" {
                    true => Ok(()),
                    false => Err("another PING was answered".to_owned()),
                };
            }
            _ => false,
        };
        if done {
            return Ok(());
        }
        let Some(frame) = frame else { return Err(format!("the connection ended after {got:?}")) };
        got.push((frame.kind, frame.code()));
    }
}

/// Sends every case to `address`, each on its own connection; returns the names and errors of the failed cases.
async fn examine(address: SocketAddr, timeout: Duration) -> Vec<(&'static str, String)> {
    let mut running = JoinSet::new();
    for case in cases() {
        running.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            let silent = || Err(format!("nothing more came in {} s", timeout.as_secs()));
            let response =
                tokio::time::timeout(timeout, run_case(&mut stream, &case)).await.unwrap_or_else(|_| silent());
            response.err().map(|why| (case.name, why))
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_the_http2_specification() {
    let address = app(false, |request| async move {
        let _ = request.into_body().collect().await;
        http::Response::new(full(BODY))
    })
    .await;
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    let wrong = examine(running.address, Duration::from_secs(5)).await;
    // 3.5/2: a wrong preface gets no HTTP/2 response, and the connection ends.
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    stream.write_all(b"INVALID CONNECTION PREFACE\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok() && (answer.is_empty() || answer.starts_with(b"HTTP/1.1 400")), "{answer:?}");
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), cases().len());
}

/// A server that answers every PING, SETTINGS and request, and checks no input.
async fn careless(mut stream: TcpStream) {
    let preface = &mut [0; 24];
    let _ = stream.read_exact(preface).await;
    while let Some(got) = next(&mut stream).await {
        let answer = match got.kind {
            SETTINGS if got.flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if got.flags & ACK == 0 => frame(PING, ACK, 0, &got.payload),
            DATA | HEADERS if got.flags & END_STREAM != 0 => {
                let head = frame(HEADERS, END_HEADERS, got.stream, &fields(&[(":status", "200")]));
                [head, frame(DATA, END_STREAM, got.stream, BODY.as_bytes())].concat()
            }
            _ => continue,
        };
        let _ = stream.write_all(&answer).await;
    }
}

/// Mutation test: a server without checks passes the cases with valid input and fails the cases that need a check.
#[tokio::test(flavor = "multi_thread")]
async fn a_careless_server_fails_the_http2_cases() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(careless(stream));
        }
    });
    let wrong = examine(address, Duration::from_secs(1)).await;
    let is_wrong =
        |case: &ProtocolCase| matches!(case.expected, StreamError(_) | ConnectionError(_) | GoAway(_) | Bytes(_));
    let mut failed: Vec<&str> = wrong.iter().map(|(name, _)| *name).collect();
    let mut expected: Vec<&str> = cases().iter().filter(|case| is_wrong(case)).map(|case| case.name).collect();
    failed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(failed, expected, "{wrong:#?}");
}
