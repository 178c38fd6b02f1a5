//! Requests to an allocation of the other machine: heads, bodies, changed protocols, counting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::cluster::{Cluster, endpoint};
use crate::harness::{Body, RunningRouter, TableServer, app, fetch, full, get, router_of, text};

async fn http2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TokioIo::new(TcpStream::connect(address).await.expect("connected"));
    let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
    let (sender, connection) = connected.expect("a connection");
    tokio::spawn(connection);
    sender
}

/// An application that shows the head and the body of its request, and answers with a trailer.
async fn shows() -> SocketAddr {
    app(false, async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body");
        let trailers = body.trailers().cloned().unwrap_or_default();
        let shown =
            format!("{} {}\n{:?}\n{:?}\n{}", head.method, head.uri, head.headers, trailers, body.to_bytes().len());
        let mut last = HeaderMap::new();
        last.insert("x-checksum", "7".parse().expect("a value"));
        let frames = [Ok(Frame::data(Bytes::from(shown))), Ok(Frame::trailers(last))];
        let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
        Response::builder()
            .header("trailer", "x-checksum")
            .header("gantry-tunnel-refused", "unknown")
            .body(body)
            .expect("built")
    })
    .await
}

#[tokio::test]
async fn forwards_requests_as_to_an_instance_of_its_own() {
    let cluster = Cluster::new();
    let [entry, _far] = cluster.with_one(shows().await).await;
    let mut request = get("/a/b?c=d");
    let forged = [
        ("x-forwarded-for", "6.6.6.6"),
        ("gantry-tunnel-allocation", "shop.v1.web-9"),
        ("gantry-tunnel-upgrade", "websocket"),
        ("gantry-tunnel-holds", "1"),
        ("x-request-id", "known"),
        ("te", "trailers"),
    ];
    for (name, value) in forged {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let answer = fetch(entry.address, request).await;
    assert_eq!((answer.status(), answer.headers().contains_key("gantry-tunnel-refused")), (StatusCode::OK, false));
    let body = answer.into_body().collect().await.expect("a body");
    assert_eq!(body.trailers().expect("trailers")["x-checksum"], "7");
    let shown = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    assert!(shown.starts_with("GET /a/b?c=d\n"), "{shown}");
    for expected in
        ["\"x-forwarded-for\": \"127.0.0.1\"", "\"x-request-id\": \"known\"", "\"host\": \"shop.localhost\"", "\"te\""]
    {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    assert!(!shown.contains("gantry-tunnel"), "{shown}");
    // The same over HTTP/2, with a body and trailers.
    let mut sender = http2(entry.address).await;
    let mut last = HeaderMap::new();
    last.insert("x-sum", "9".parse().expect("a value"));
    let frames = [Ok(Frame::data(Bytes::from_static(b"hello"))), Ok(Frame::trailers(last))];
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    let request = Request::post("http://shop.localhost/x").body(body).expect("built");
    let answer = sender.send_request(request).await.expect("an answer");
    let shown = text(answer).await;
    assert!(shown.starts_with("POST /x\n") && shown.contains("\"x-sum\": \"9\"") && shown.ends_with("\n5"), "{shown}");
    // The entry router logs the request; the other one does not.
    let log = |router: &RunningRouter| std::fs::read_to_string(router.folder.path().join("access.log")).expect("read");
    while log(&entry).lines().count() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(log(&entry).contains("\"instance\":\"shop.v1.web-1\"") && log(&entry).contains("\"id\":\"known\""));
    assert_eq!(log(&_far), "");
}

#[tokio::test]
async fn streams_large_bodies_both_ways() {
    const SIZE: usize = 100 << 20;
    let address = app(false, async |request: Request<Incoming>| {
        let mut body = request.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
        }
        let piece = Bytes::from(vec![7; 64 << 10]);
        let pieces = (0..SIZE / piece.len()).map(move |_| Ok(Frame::data(piece.clone())));
        let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)));
        Response::builder().header("x-read", read).body(body).expect("built")
    })
    .await;
    let cluster = Cluster::new();
    let [entry, _far] = cluster.with_one(address).await;
    let piece = Bytes::from(vec![3; 64 << 10]);
    let pieces = (0..SIZE / piece.len()).map(move |_| Ok(Frame::data(piece.clone())));
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)));
    let request = Request::post("/").header("host", "shop.localhost").body(body).expect("built");
    let answer = fetch(entry.address, request).await;
    assert_eq!((answer.status(), answer.headers()["x-read"].to_str().ok()), (StatusCode::OK, Some("104857600")));
    let mut body = answer.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(read, SIZE);
}

#[tokio::test]
async fn a_client_that_does_not_read_blocks_only_its_own_instance() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let address = app(false, move |request: Request<Incoming>| {
        let counter = Arc::clone(&counter);
        async move {
            if request.uri().path() == "/small" {
                return Response::new(full("small"));
            }
            let piece = Bytes::from(vec![7; 64 << 10]);
            let pieces = (0..1600).map(move |_| {
                counter.fetch_add(piece.len(), Ordering::Relaxed);
                Ok(Frame::data(piece.clone()))
            });
            Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces))))
        }
    })
    .await;
    let cluster = Cluster::new();
    let [entry, _far] = cluster.with_one(address).await;
    let answer = fetch(entry.address, get("/")).await;
    let mut last = usize::MAX;
    while last != sent.load(Ordering::Relaxed) {
        last = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(last < 40 << 20, "{last} bytes without a reader");
    assert_eq!(text(fetch(entry.address, get("/small")).await).await, "small");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes().len(), 1600 * (64 << 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_a_thousand_requests_at_once() {
    let waiting = Arc::new(tokio::sync::Barrier::new(1000));
    let address = app(false, move |_| {
        let waiting = Arc::clone(&waiting);
        async move {
            // Each request is answered once all are there.
            waiting.wait().await;
            Response::new(full("all here"))
        }
    })
    .await;
    let cluster = Cluster::new();
    let [entry, _far] = cluster.with_one(address).await;
    let requests: Vec<_> = (0..1000).map(|_| tokio::spawn(fetch(entry.address, get("/")))).collect();
    for request in requests {
        assert_eq!(text(request.await.expect("asked")).await, "all here");
    }
}

/// An instance that changes to the requested protocol, and sends back what it gets; it refuses `/no`.
async fn parrot() -> SocketAddr {
    app(false, async |mut request: Request<Incoming>| {
        if request.uri().path() == "/no" {
            return Response::builder().status(403).body(full("not you")).expect("built");
        }
        let Some(protocol) = request.headers().get("upgrade").cloned() else {
            return Response::new(full("no upgrade"));
        };
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.expect("upgraded")));
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
        let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", protocol);
        answer.header("sec-websocket-accept", "x").body(full("")).expect("built")
    })
    .await
}

#[tokio::test]
async fn carries_websockets_and_other_protocols() {
    let cluster = Cluster::new();
    let [entry, _far] = cluster.with_one(parrot().await).await;
    for protocol in ["websocket", "echo"] {
        let mut stream = TcpStream::connect(entry.address).await.expect("connected");
        let head =
            format!("GET /x HTTP/1.1\r\nhost: shop.localhost\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut response).await.expect("read") > 0, "{}", response.escape_ascii());
        }
        let response = String::from_utf8(response).expect("text").to_ascii_lowercase();
        assert!(
            response.starts_with("http/1.1 101 ") && response.contains(&format!("upgrade: {protocol}")),
            "{response}"
        );
        let sent = vec![0x81; 300_000];
        let (mut read, mut write) = stream.split();
        let mut back = vec![0; sent.len()];
        let (written, got) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
        written.expect("sent");
        got.expect("said back");
        write.shutdown().await.expect("ended");
        assert!(back == sent && read.read(&mut back).await.unwrap_or(0) <= 4, "{protocol}");
    }
    // An instance that refuses, or that ignores the request to change.
    let mut request = get("/no");
    request.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
    request.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
    let answer = fetch(entry.address, request).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(text(answer).await, "not you");
    // Over HTTP/2.
    let mut sender = http2(entry.address).await;
    // The client learns of extended CONNECT with the first frame of the router.
    drop(sender.send_request(get("http://shop.localhost/no")).await.expect("an answer"));
    let mut request = Request::connect("http://shop.localhost/x").body(full("")).expect("built");
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.expect("upgraded"));
    stream.write_all(b"hello").await.expect("sent");
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.expect("said back");
    assert_eq!(&back, b"hello");
}

#[tokio::test]
async fn refuses_an_allocation_that_is_gone_and_loses_no_request() {
    let cluster = Cluster::new();
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    // Another container has the address of the allocation by now.
    let wrong = app(false, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Response::new(full("wrong")) }
    })
    .await;
    let near = app(false, async |request: Request<Incoming>| {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        Response::new(full(format!("near {}", body.len())))
    })
    .await;
    let stale = cluster.table(1, vec![endpoint("far", 2, wrong), endpoint("m", 1, near)]);
    let entry = cluster.router("m", stale).await;
    let _far = cluster.router("far", cluster.table(2, vec![endpoint("far", 3, wrong)])).await;
    for size in [0, 100, 300_000] {
        for _ in 0..10 {
            let request = || {
                let request = Request::post("/").header("host", "shop.localhost").body(full(vec![1; size]));
                fetch(entry.address, request.expect("built"))
            };
            let (one, other) = tokio::join!(request(), request());
            let expected = format!("near {size}");
            assert_eq!((text(one).await, text(other).await), (expected.clone(), expected));
        }
    }
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_machine_of_an_allocation_counts_and_drains_its_requests() {
    let release = Arc::new(tokio::sync::Notify::new());
    let wait = Arc::clone(&release);
    let slow = app(false, move |_| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            Response::new(full("done"))
        }
    })
    .await;
    let cluster = Cluster::new();
    let table = cluster.table(1, vec![endpoint("far", 1, slow)]);
    let server = TableServer::default();
    let far = router_of(cluster.member("far"), table.clone(), &server.start().await).await;
    let entry = cluster.router("m", table).await;
    let first = tokio::spawn(fetch(entry.address, get("/")));
    server.wait_for_report(|report| report["active"]["shop.v1.web-1"] == 1).await;
    // A router that has not yet seen the new table still reaches the allocation, which is drained.
    server.publish_and_wait(cluster.table(2, Vec::new())).await;
    let late = tokio::spawn(fetch(entry.address, get("/late")));
    server.wait_for_report(|report| report["active"]["shop.v1.web-1"] == 2).await;
    release.notify_one();
    release.notify_one();
    for request in [first, late] {
        tokio::time::timeout(Duration::from_secs(10), async {
            release.notify_one();
            assert_eq!(text(request.await.expect("asked")).await, "done");
        })
        .await
        .expect("answered");
    }
    server.wait_for_report(|report| report["active"].get("shop.v1.web-1").is_none()).await;
    // The address belongs to another allocation now, so the first one is gone.
    server.publish_and_wait(cluster.table(3, vec![endpoint("far", 2, slow)])).await;
    assert_eq!(fetch(entry.address, get("/")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(far);
}
