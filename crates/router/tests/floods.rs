//! Known floods that HTTP/2 makes cheap for the attacker, each under its public name. The router ends the connection of
//! an endless flood, or stops reading. The router keeps no memory of the flood, and serves other clients meanwhile.

mod harness;

use std::time::Duration;

use gantry_model::role::AppProtocol;
use harness::frames::*;
use harness::{NOWHERE, app, endpoint, fetch, full, get, resident, router, table};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Number of bytes sent by each flood, unless the router ends the connection earlier: more than the kernel buffers for
/// two sockets.
const LENGTH: usize = 24 << 20;

/// Silence after which the router counts as no longer reading.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Allowed memory growth of the process, with router and flooder, after a flood, in bytes.
const GROWTH: u64 = 32 << 20;

#[derive(Debug, PartialEq, Eq)]
enum FloodOutcome {
    /// The router ended the connection.
    Ended,
    /// The router stops reading, because the flooder reads nothing.
    HeldBack,
    /// The router took everything.
    Taken,
}

struct FloodCase {
    name: &'static str,
    /// Bytes sent before the flood.
    first: Vec<u8>,
    /// Makes a single message of the flood, by its number.
    each: fn(u32) -> Vec<u8>,
    /// The flooder reads the responses.
    reads: bool,
    /// The router must end the connection. Otherwise any outcome is allowed.
    ends: bool,
}

fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let first = [(":method", method), (":scheme", "http"), (":authority", "shop.localhost"), (":path", path)];
    fields(&[&first, more].concat())
}

/// Returns a client's stream number; client streams are odd.
fn stream(number: u32) -> u32 {
    number * 2 + 1
}

fn floods() -> Vec<FloodCase> {
    let flood = |name, first, each, reads, ends| FloodCase { name, first, each, reads, ends };
    let begun = || frame(HEADERS, 0, 1, &request("GET", "/", &[]));
    let body = || frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    vec![
        flood(
            "headers without an end (CVE-2024-27316)",
            begun(),
            |number| frame(CONTINUATION, 0, 1, &fields(&[(&format!("x-{number}"), &"x".repeat(900))])),
            true,
            true,
        ),
        flood("empty headers without an end (CVE-2019-9516)", begun(), |_| frame(CONTINUATION, 0, 1, &[]), true, true),
        flood(
            "requests that are taken back (CVE-2023-44487)",
            Vec::new(),
            |number| {
                let headers_frame = frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &request("GET", "/", &[]));
                [headers_frame, frame(RST_STREAM, 0, stream(number), &[0, 0, 0, 8])].concat()
            },
            true,
            true,
        ),
        flood(
            "requests that must be reset (CVE-2025-8671)",
            Vec::new(),
            |number| {
                let headers_frame = frame(HEADERS, END_HEADERS, stream(number), &request("GET", "/", &[]));
                [headers_frame, frame(WINDOW_UPDATE, 0, stream(number), &[0; 4])].concat()
            },
            true,
            true,
        ),
        flood(
            "pings whose answers are not read (CVE-2019-9512)",
            Vec::new(),
            |_| frame(PING, 0, 0, &[0; 8]),
            false,
            false,
        ),
        flood(
            "settings whose answers are not read (CVE-2019-9515)",
            Vec::new(),
            |_| frame(SETTINGS, 0, 0, &[]),
            false,
            false,
        ),
        flood(
            "resets that are not read (CVE-2019-9514)",
            Vec::new(),
            |number| frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &fields(&[("x", "no pseudo fields")])),
            false,
            false,
        ),
        flood("empty frames of a body (CVE-2019-9518)", body(), |_| frame(DATA, 0, 1, &[]), true, false),
        flood(
            "priorities (CVE-2019-9513)",
            body(),
            |number| frame(PRIORITY, 0, stream(number), &[stream(number / 2).to_be_bytes().as_slice(), &[16]].concat()),
            true,
            false,
        ),
        flood("windows", body(), |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), true, false),
        flood(
            "answers that are not read (CVE-2019-9511, CVE-2019-9517)",
            // The window allows a single byte of each response.
            frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]),
            |number| match number {
                0..200 => frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &request("GET", "/large", &[])),
                _ => frame(PING, 0, 0, &[0; 8]),
            },
            false,
            false,
        ),
    ]
}

/// Sends the flood to its end, and leaves the connection open.
async fn send(flood: &FloodCase, stream: &mut TcpStream) -> FloodOutcome {
    let (mut read, mut write) = stream.split();
    let reading = async {
        let mut bytes = [0; 16384];
        while flood.reads && read.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
        if !flood.reads {
            std::future::pending::<()>().await;
        }
    };
    let writing = async {
        let mut bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[]), &flood.first].concat();
        let (mut number, mut sent) = (0, 0);
        while sent < LENGTH {
            while bytes.len() < 65_536 {
                bytes.extend((flood.each)(number));
                number += 1;
            }
            sent += bytes.len();
            match tokio::time::timeout(TIMEOUT, write.write_all(&bytes)).await {
                Ok(Ok(())) => bytes.clear(),
                Ok(Err(_)) => return FloodOutcome::Ended,
                Err(_) => return FloodOutcome::HeldBack,
            }
        }
        if flood.ends {
            std::future::pending::<()>().await;
        }
        FloodOutcome::Taken
    };
    tokio::select! {
        () = reading => FloodOutcome::Ended,
        outcome = writing => outcome,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_floods_without_harm_to_other_clients() {
    let address = app(false, |request| async move {
        let large = request.uri().path() == "/large";
        let _ = request.into_body().collect().await;
        http::Response::new(full(if large { "x".repeat(1 << 20) } else { "ok".to_owned() }))
    })
    .await;
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    assert_eq!(harness::text(fetch(running.address, get("/")).await).await, "ok");
    let mut wrong = Vec::new();
    for flood in floods() {
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        let before = resident();
        let outcome = tokio::time::timeout(Duration::from_secs(60), send(&flood, &mut stream)).await;
        let answer = tokio::time::timeout(Duration::from_secs(5), async {
            harness::text(fetch(running.address, get("/")).await).await
        });
        let (answer, grown) = (answer.await, resident().saturating_sub(before));
        println!("{}: {outcome:?}, {} KiB more in memory", flood.name, grown >> 10);
        let over = outcome.is_ok_and(|outcome| !flood.ends || outcome == FloodOutcome::Ended);
        if !over || grown > GROWTH || answer.as_deref() != Ok("ok") {
            wrong.push(format!("{}: over {over}, {grown} bytes more, another was told {answer:?}", flood.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
