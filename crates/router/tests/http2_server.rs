//! Interim responses and the end of HTTP/2 connections of clients.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::RoutingTable;
use gantry_model::role::AppProtocol;
use h2::client::{ResponseFuture, SendRequest};
use harness::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, SETTINGS, fields, frame};
use harness::{NOWHERE, app, endpoint, full, router, table};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest wait of a test for the router.
const WAIT: Duration = Duration::from_secs(20);

/// An instance that sends `interim` for each head, and reads `length` bytes of the body before it sends `last`.
async fn instance(interim: &'static [u8], length: usize, last: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut received = Vec::new();
            let head = |received: &[u8]| received.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            while head(&received).is_none() && stream.read_buf(&mut received).await.is_ok_and(|read| read > 0) {}
            let _ = stream.write_all(interim).await;
            let whole = head(&received).map(|at| at + 4 + length);
            while whole.is_some_and(|whole| received.len() < whole)
                && stream.read_buf(&mut received).await.is_ok_and(|read| read > 0)
            {}
            if whole == Some(received.len()) {
                let _ = stream.write_all(last).await;
            }
        }
    });
    address
}

async fn client(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender.ready().await.expect("ready")
}

fn post(length: usize) -> Request<()> {
    let request = Request::post("http://shop.localhost/").header("content-length", length);
    request.header("expect", "100-continue").body(()).expect("a request")
}

/// Returns the next interim response; none once the response is there.
async fn interim(response: &mut ResponseFuture) -> Option<Response<()>> {
    let next = std::future::poll_fn(|cx| response.poll_informational(cx));
    tokio::time::timeout(WAIT, next).await.expect("a response").map(|interim| interim.expect("good"))
}

fn one(address: SocketAddr) -> RoutingTable {
    table(1, vec![endpoint(1, address, AppProtocol::Http1)])
}

#[tokio::test]
async fn delivers_interim_responses_over_http2() {
    let hints = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: close\r\n\r\n";
    let address = instance(hints, 0, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let running = router(one(address), NOWHERE, None).await;
    let mut sender = client(running.address).await;
    let request = Request::get("http://shop.localhost/").body(()).expect("a request");
    let (mut response, _) = sender.send_request(request, true).expect("sent");
    assert_eq!(interim(&mut response).await.expect("interim").status(), StatusCode::PROCESSING);
    let hints = interim(&mut response).await.expect("interim");
    assert_eq!((hints.status(), hints.headers().len()), (StatusCode::EARLY_HINTS, 1), "{hints:?}");
    assert_eq!(hints.headers()["link"], "</a.css>; rel=preload");
    assert!(interim(&mut response).await.is_none());
    let response = response.await.expect("a response");
    assert_eq!((response.status(), response.headers()["content-length"].as_bytes()), (StatusCode::OK, &b"2"[..]));
    assert!(response.headers()["date"].to_str().expect("text").ends_with(" GMT"));
}

#[tokio::test]
async fn forwards_100_continue_over_http2() {
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let goes_on = instance(b"HTTP/1.1 100 Continue\r\n\r\n", 100_000, ok).await;
    let short = instance(b"", 100, ok).await;
    let silent = instance(b"", 100_000, ok).await;
    // The router asks at once for a body that fits the buffer. The instance decides on a longer one, or is silent for a
    // second.
    for (address, length) in [(short, 100), (goes_on, 100_000), (silent, 100_000)] {
        let running = router(one(address), NOWHERE, None).await;
        let mut sender = client(running.address).await;
        let (mut response, mut body) = sender.send_request(post(length), false).expect("sent");
        assert_eq!(interim(&mut response).await.expect("interim").status(), StatusCode::CONTINUE, "{length}");
        body.send_data(Bytes::from(vec![b'x'; length]), true).expect("sent");
        let response = tokio::time::timeout(WAIT, response).await.expect("a response");
        assert_eq!(response.expect("a response").status(), StatusCode::OK, "{length}");
    }
    // A refusal needs no body, and the connection goes on.
    let refuses = instance(b"", 0, b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await;
    let running = router(one(refuses), NOWHERE, None).await;
    let mut sender = client(running.address).await;
    for _ in 0..2 {
        let (mut response, _body) = sender.send_request(post(100_000), false).expect("sent");
        assert!(interim(&mut response).await.is_none());
        assert_eq!(response.await.expect("a response").status(), StatusCode::PAYLOAD_TOO_LARGE);
        sender = sender.ready().await.expect("the connection goes on");
    }
}

/// hyper's client passes no interim responses of an instance over HTTP/2.
#[tokio::test]
async fn drops_interim_responses_of_http2_instances() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let hints = Response::builder().status(StatusCode::EARLY_HINTS).header("link", "</a.css>");
            respond.send_informational(hints.body(()).expect("a response")).expect("sent");
            respond.send_response(Response::new(()), true).expect("sent");
        }
    });
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::H2c)]), NOWHERE, None).await;
    let mut sender = client(running.address).await;
    for _ in 0..2 {
        let request = Request::get("http://shop.localhost/").body(()).expect("a request");
        let (mut response, _) = sender.send_request(request, true).expect("sent");
        assert!(interim(&mut response).await.is_none());
        assert_eq!(response.await.expect("a response").status(), StatusCode::OK);
        sender = sender.ready().await.expect("the connection goes on");
    }
}

/// Reads frames until one of `kind`, and returns the kinds before it.
async fn until(stream: &mut TcpStream, kind: u8) -> Vec<u8> {
    let mut before = Vec::new();
    loop {
        let mut head = [0; 9];
        let read = tokio::time::timeout(WAIT, stream.read_exact(&mut head)).await;
        read.unwrap_or_else(|_| panic!("silence after {before:?}")).expect("a frame");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.expect("a frame");
        if head[3] == kind {
            return before;
        }
        before.push(head[3]);
    }
}

#[tokio::test]
async fn says_goodbye_when_no_stream_is_open() {
    let (release, released) = tokio::sync::watch::channel(false);
    let address = app(false, move |_| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.expect("released");
            Response::new(full("done"))
        }
    })
    .await;
    let mut running = router(one(address), NOWHERE, None).await;
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    let head = fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "shop.localhost")]);
    let get = |number| frame(HEADERS, END_HEADERS | END_STREAM, number, &head);
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[]), get(1)].concat();
    stream.write_all(&preface).await.expect("sent");
    // Another connection is idle when the router shuts down.
    let mut idle = TcpStream::connect(running.address).await.expect("connected");
    idle.write_all(&preface[..preface.len() - get(1).len()]).await.expect("sent");
    until(&mut idle, SETTINGS).await;
    running.stop.take().expect("runs").send(()).expect("runs");
    until(&mut idle, GOAWAY).await;
    // The busy connection takes another request, and gets no GOAWAY.
    stream.write_all(&get(3)).await.expect("sent");
    stream.write_all(&frame(PING, 0, 0, b"still on")).await.expect("sent");
    assert!(!until(&mut stream, PING).await.contains(&GOAWAY));
    // Both responses are whole before the GOAWAY.
    release.send_replace(true);
    let before = until(&mut stream, GOAWAY).await;
    assert_eq!(before.iter().filter(|kind| **kind == DATA).count(), 2, "{before:?}");
}
