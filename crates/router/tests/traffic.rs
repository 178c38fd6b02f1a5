//! Traffic policy of an app, timeouts of its requests, and the end of its websockets.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gantry_model::role::AppProtocol;
use gantry_model::{RequestTimeouts, RoutingTable, Seconds, TrafficPolicy};
use harness::{NOWHERE, TableServer, app, endpoint, fetch, full, get, router, router_that_waits, table, text};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A table with one route, after a change of its traffic policy and timeouts.
fn with(
    generation: u64,
    address: SocketAddr,
    change: impl Fn(&mut TrafficPolicy, &mut RequestTimeouts),
) -> RoutingTable {
    let mut table = table(generation, vec![endpoint(1, address, AppProtocol::Http1)]);
    table.routes.values_mut().for_each(|route| change(&mut route.traffic, &mut route.timeouts));
    table
}

#[tokio::test]
async fn queues_requests_of_a_paused_app() {
    let live = app(false, async |_| Response::new(full("live"))).await;
    let server = TableServer::default();
    let paused = with(1, live, |traffic, _| traffic.paused = true);
    let running = router(paused, &server.start().await, None).await;
    let answer = fetch(running.address, get("/")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(answer).await.contains("paused"));
    let waiting = tokio::spawn(fetch(running.address, get("/")));
    server.wait_for_report(|report| report["counts"]["shop"]["waiting"] == 1).await;
    server.publish_and_wait(with(2, live, |_, _| ())).await;
    assert_eq!(text(waiting.await.expect("an answer")).await, "live");
    server
        .wait_for_report(|report| report["counts"]["shop"]["held"] == 1 && report["counts"]["shop"]["refused"] == 1)
        .await;
    server.publish_and_wait(with(3, live, |traffic, _| traffic.maintenance = Some("back at noon".to_owned()))).await;
    let answer = fetch(running.address, get("/")).await;
    assert_eq!(
        (answer.status(), answer.headers()["retry-after"].as_bytes()),
        (StatusCode::SERVICE_UNAVAILABLE, &b"60"[..])
    );
    assert!(text(answer).await.contains("shop: back at noon"));
}

/// Maximum number of requests that wait for one app, as in the gate.
const WAITING_MAX: usize = 1000;

#[tokio::test]
async fn queues_at_most_1000_requests_for_an_app() {
    let live = app(false, async |_| Response::new(full("live"))).await;
    let server = TableServer::default();
    let paused = with(1, live, |traffic, _| traffic.paused = true);
    let running = router_that_waits(Duration::from_secs(60), paused, &server.start().await, None).await;
    let waiting: Vec<_> = (0..WAITING_MAX).map(|_| tokio::spawn(fetch(running.address, get("/")))).collect();
    server.wait_for_report(|report| report["counts"]["shop"]["waiting"] == WAITING_MAX).await;
    let answer = fetch(running.address, get("/")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    server.wait_for_report(|report| report["counts"]["shop"]["refused"] == 1).await;
    server.publish_and_wait(with(2, live, |_, _| ())).await;
    for answer in waiting {
        assert_eq!(text(answer.await.expect("an answer")).await, "live");
    }
    server.wait_for_report(|report| report["counts"]["shop"]["held"] == WAITING_MAX).await;
}

/// An instance that counts requests, and closes the connection without a response until `well` is true.
async fn breaks_off(well: Arc<AtomicBool>, requests: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (well, requests) = (Arc::clone(&well), Arc::clone(&requests));
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                if stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {
                    requests.fetch_add(1, Ordering::Relaxed);
                    if well.load(Ordering::Relaxed) {
                        let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nwell";
                        let _ = stream.write_all(answer).await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn opens_the_circuit_of_an_instance_with_broken_responses() {
    let (well, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let broken = breaks_off(Arc::clone(&well), Arc::clone(&requests)).await;
    let live = app(false, async |_| Response::new(full("live"))).await;
    let endpoints = vec![endpoint(1, broken, AppProtocol::Http1), endpoint(2, live, AppProtocol::Http1)];
    let running = router(table(1, endpoints), NOWHERE, None).await;
    for _ in 0..300 {
        assert_eq!(text(fetch(running.address, get("/")).await).await, "live");
    }
    // Without a circuit breaker the instance would get every second request.
    let requests = requests.load(Ordering::Relaxed);
    assert!((5..=30).contains(&requests), "it was asked {requests} times");
    well.store(true, Ordering::Relaxed);
    let back = async { while text(fetch(running.address, get("/")).await).await != "well" {} };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("it is asked again");
}

#[tokio::test]
async fn refuses_requests_over_a_limit_with_429() {
    let (go, reached) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (Arc::clone(&go), Arc::clone(&reached));
    let slow = app(false, move |_| {
        let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            gate.notified().await;
            Response::new(full("done"))
        }
    })
    .await;
    let server = TableServer::default();
    let running = router(with(1, slow, |traffic, _| traffic.concurrent = Some(2)), &server.start().await, None).await;
    let requests: Vec<_> = (0..2).map(|_| tokio::spawn(fetch(running.address, get("/")))).collect();
    while reached.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    let answer = fetch(running.address, get("/")).await;
    assert_eq!(
        (answer.status(), answer.headers()["retry-after"].as_bytes()),
        (StatusCode::TOO_MANY_REQUESTS, &b"1"[..])
    );
    assert!(text(answer).await.contains("at most 2 requests at once"));
    go.notify_waiters();
    for task in requests {
        assert_eq!(text(task.await.expect("an answer")).await, "done");
    }
    let live = app(false, async |_| Response::new(full("live"))).await;
    server.publish_and_wait(with(2, live, |traffic, _| traffic.rate = Some(3))).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(fetch(running.address, get("/")).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    server.wait_for_report(|report| report["counts"]["shop"]["limited"] == 3).await;
    server.wait_for_report(|report| report["failures"]["shop"]["limited"]["count"] == 3).await;
}

#[tokio::test]
async fn reports_failed_requests_by_cause_and_count() {
    let failing = app(false, async |request: Request<Incoming>| {
        let mut answer = Response::new(full("an answer"));
        if request.uri().path() == "/bad" {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    })
    .await;
    let server = TableServer::default();
    let running = router(with(1, failing, |_, _| {}), &server.start().await, None).await;
    for (path, expected) in [("/", 200), ("/bad", 503), ("/", 200), ("/bad", 503)] {
        assert_eq!(fetch(running.address, get(path)).await.status(), expected);
    }
    let run = |report: &serde_json::Value, kind: &str, name: &str| report["failures"]["shop"][kind][name].clone();
    server
        .wait_for_report(|report| run(report, "server_error", "count") == 2 && run(report, "server_error", "of") == 3)
        .await;
    server.wait_for_report(|report| run(report, "server_error", "status") == 503).await;
    // An instance that accepts each connection and closes it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let closes = listener.local_addr().expect("an address");
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    server.publish_and_wait(with(2, closes, |_, _| {})).await;
    let mut post = get("/");
    *post.method_mut() = http::Method::POST;
    assert_eq!(fetch(running.address, post).await.status(), StatusCode::BAD_GATEWAY);
    server
        .wait_for_report(|report| run(report, "broken", "count") == 1 && run(report, "broken", "instance").is_string())
        .await;
}

#[tokio::test]
async fn responds_504_after_the_response_timeout() {
    let mute = app(false, async |request: Request<Incoming>| {
        if request.method() == http::Method::POST {
            use http_body_util::BodyExt;
            let size = request.into_body().collect().await.expect("a body").to_bytes().len();
            return Response::new(full(size.to_string()));
        }
        std::future::pending().await
    })
    .await;
    let running = router(with(1, mute, |_, timeouts| timeouts.response = Seconds(1)), NOWHERE, None).await;
    let begun = Instant::now();
    let answer = fetch(running.address, get("/")).await;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(text(answer).await.contains("no response within 1 s"));
    // The upload takes twice the timeout, but each pause is shorter than the timeout.
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    stream.write_all(b"POST / HTTP/1.1\r\nhost: shop.localhost\r\ncontent-length: 8\r\n\r\n").await.expect("sent");
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(b"x").await.expect("sent");
    }
    let mut answer = vec![0; 1000];
    let size = stream.read(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..size]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('8'), "{answer}");
    // A client that stops in the middle gets an error response about the client.
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    stream.write_all(b"POST / HTTP/1.1\r\nhost: shop.localhost\r\ncontent-length: 8\r\n\r\nxxx").await.expect("sent");
    let mut answer = vec![0; 1000];
    let size = stream.read(&mut answer).await.expect("an answer");
    assert!(answer[..size].starts_with(b"HTTP/1.1 408"), "{}", answer[..size].escape_ascii());
}

#[tokio::test]
async fn blames_an_instance_that_does_not_read() {
    // Connections wait for ever to be accepted.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = deaf.local_addr().expect("an address");
    let running = router(with(1, address, |_, timeouts| timeouts.response = Seconds(1)), NOWHERE, None).await;
    let (mut reader, mut writer) = TcpStream::connect(running.address).await.expect("connected").into_split();
    writer
        .write_all(b"POST / HTTP/1.1\r\nhost: shop.localhost\r\ncontent-length: 90000000\r\n\r\n")
        .await
        .expect("sent");
    let sending = tokio::spawn(async move { while writer.write_all(&[b'x'; 65_536]).await.is_ok() {} });
    let mut answer = vec![0; 1000];
    let size = tokio::time::timeout(Duration::from_secs(20), reader.read(&mut answer)).await.expect("in time");
    let answer = &answer[..size.expect("an answer")];
    assert!(answer.starts_with(b"HTTP/1.1 504"), "{}", answer.escape_ascii());
    sending.abort();
}

/// An instance that sends the beginning of a frame, and the rest on notice; then expects the client's close frame.
async fn chat(frame: Arc<Notify>, closed: Arc<Notify>) -> SocketAddr {
    app(false, move |mut request: Request<Incoming>| {
        let (frame, closed) = (Arc::clone(&frame), Arc::clone(&closed));
        async move {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
                stream.write_all(b"\x81\x05hel").await.expect("sent");
                frame.notified().await;
                stream.write_all(b"lo").await.expect("sent");
                let mut close_frame = [0; 8];
                stream.read_exact(&mut close_frame).await.expect("a close frame");
                assert_eq!(close_frame[0], 0x88);
                closed.notify_one();
            });
            let builder =
                Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
            builder.body(full("")).expect("an answer")
        }
    })
    .await
}

async fn websocket(address: SocketAddr) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut request = get("/chat");
    request.headers_mut().insert("connection", "Upgrade".parse().expect("a value"));
    request.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
    let answer = fetch(address, request).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    TokioIo::new(hyper::upgrade::on(answer).await.expect("upgraded"))
}

#[tokio::test]
async fn closes_a_websocket_between_two_frames() {
    for by_end in [false, true] {
        let (frame, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let address = chat(Arc::clone(&frame), Arc::clone(&closed)).await;
        let server = TableServer::default();
        let drain = |_: &mut TrafficPolicy, timeouts: &mut RequestTimeouts| timeouts.drain = Seconds(1);
        let mut running = router(with(1, address, drain), &server.start().await, None).await;
        let mut stream = websocket(running.address).await;
        let mut begun = [0; 5];
        stream.read_exact(&mut begun).await.expect("the beginning");
        if by_end {
            running.stop.take().expect("it runs").send(()).expect("asked");
        } else {
            server.publish_and_wait(table(2, Vec::new())).await;
        }
        // The websocket's moment to close comes within the drain, but must not cut the frame.
        let cut = tokio::time::timeout(Duration::from_millis(1500), stream.read_u8()).await;
        assert!(cut.is_err(), "{cut:?}");
        frame.notify_one();
        let mut rest = [0; 6];
        stream.read_exact(&mut rest).await.expect("the rest and a close frame");
        assert_eq!(&rest, b"lo\x88\x02\x03\xe9");
        stream.write_all(b"\x88\x82abcd\x62\x8b").await.expect("the client's own");
        closed.notified().await;
        assert_eq!(stream.read(&mut rest).await.unwrap_or(0), 0, "the instance ended it");
        if by_end {
            running.ended.await.expect("the router waited for it");
        }
    }
}

#[tokio::test]
async fn counts_an_open_websocket_as_concurrent_request() {
    let (frame, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let address = chat(Arc::clone(&frame), Arc::clone(&closed)).await;
    let running = router(with(1, address, |traffic, _| traffic.concurrent = Some(1)), NOWHERE, None).await;
    let mut stream = websocket(running.address).await;
    let status = async || fetch(running.address, get("/")).await.status();
    assert_eq!(status().await, StatusCode::TOO_MANY_REQUESTS);
    frame.notify_one();
    stream.read_exact(&mut [0; 7]).await.expect("a frame");
    stream.write_all(b"\x88\x82abcd\x62\x8b").await.expect("its end");
    closed.notified().await;
    let given_back = async { while status().await == StatusCode::TOO_MANY_REQUESTS {} };
    tokio::time::timeout(Duration::from_secs(10), given_back).await.expect("its place is free again");
}

/// An instance that sends back all bytes, in the requested protocol.
async fn parrot() -> SocketAddr {
    app(false, async |mut request: Request<Incoming>| {
        use http_body_util::BodyExt;
        let Some(protocol) = request.headers().get("upgrade").cloned() else {
            return Response::new(full("no upgrade arrived"));
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let greeting = request.into_body().collect().await.expect("a body").to_bytes();
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
            let _ = stream.write_all(&greeting).await;
            let mut bytes = [0; 100];
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                let _ = stream.write_all(&bytes[..read]).await;
            }
        });
        let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", protocol);
        answer.body(full("")).expect("an answer")
    })
    .await
}

#[tokio::test]
async fn passes_other_protocols_except_those_that_carry_requests() {
    let address = parrot().await;
    for protocol in ["echo", "tcp"] {
        let server = TableServer::default();
        let drain = |_: &mut TrafficPolicy, timeouts: &mut RequestTimeouts| timeouts.drain = Seconds(1);
        let running = router(with(1, address, drain), &server.start().await, None).await;
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        let head = format!(
            "POST /x HTTP/1.1\r\nhost: shop.localhost\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\ncontent-length: 2\r\n\r\nhi"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\nhi") {
            assert!(stream.read_buf(&mut received).await.expect("read") > 0, "{}", received.escape_ascii());
        }
        assert!(received.starts_with(b"HTTP/1.1 101 "), "{}", received.escape_ascii());
        stream.write_all(b"\0\xff anything").await.expect("sent");
        let mut back = [0; 11];
        stream.read_exact(&mut back).await.expect("said back");
        assert_eq!(&back, b"\0\xff anything");
        // An open tunnel counts as a request under way, and ends within the drain.
        server.wait_for_report(|report| report["active"]["shop.v1.web-1"] == 1).await;
        server.publish_and_wait(table(2, Vec::new())).await;
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_u8()).await.expect("it is not kept");
        assert!(ended.is_err(), "nothing can be said in a protocol that is not known");
        server.wait_for_report(|report| report["active"].get("shop.v1.web-1").is_none()).await;
    }
    let running = router(with(1, address, |_, _| ()), NOWHERE, None).await;
    for protocol in ["h2c", "HTTP/2.0", "TLS/1.2", "websocket, h2c"] {
        let mut request = get("/");
        request.headers_mut().insert("connection", "Upgrade, HTTP2-Settings".parse().expect("a value"));
        request.headers_mut().insert("upgrade", protocol.parse().expect("a value"));
        let answer = fetch(running.address, request).await;
        assert_eq!(answer.status(), StatusCode::OK, "{protocol}");
        assert_eq!(text(answer).await, "no upgrade arrived", "{protocol}");
    }
}
