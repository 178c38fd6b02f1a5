//! The router as a whole: tables from disk or from a server, and real connections.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::role::AppProtocol;
use gantry_model::{Generation, RoutingTable};
use harness::{Body, NOWHERE, TableServer, app, endpoint, fetch, full, get, router, table, text};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn forwards_the_origin_of_a_request() {
    let echo = app(false, async |request: Request<Incoming>| {
        let header = |name: &str| request.headers().get(name).map_or("-", |v| v.to_str().unwrap_or("?")).to_owned();
        let names =
            ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "connection", "x-hop"];
        let lines: Vec<String> = names.iter().map(|name| header(name)).collect();
        Response::new(full(format!("{} {}", request.uri(), lines.join(" "))))
    })
    .await;
    let running = router(table(1, vec![endpoint(1, echo, AppProtocol::Http1)]), NOWHERE, None).await;
    let mut request = get("/a?b=c");
    request.headers_mut().insert("x-request-id", "it".parse().expect("a value"));
    request.headers_mut().insert("connection", "x-hop".parse().expect("a value"));
    request.headers_mut().insert("x-hop", "1".parse().expect("a value"));
    let answer = text(fetch(running.address, request).await).await;
    assert_eq!(answer, "/a?b=c shop.localhost 127.0.0.1 http shop.localhost it - -");
}

#[tokio::test]
async fn names_the_cause_for_unknown_hosts_and_missing_instances() {
    let running = router(table(1, Vec::new()), NOWHERE, None).await;
    let mut unknown = get("/");
    unknown.headers_mut().insert("host", "ghost.localhost".parse().expect("a value"));
    let answer = fetch(running.address, unknown).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(text(answer).await.contains("no app is served at ghost.localhost"));
    let begun = std::time::Instant::now();
    let answer = fetch(running.address, get("/")).await;
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().expect("a value"))
    );
    assert!(begun.elapsed() >= Duration::from_millis(600), "it did not wait");
}

#[tokio::test]
async fn retries_an_unsent_request_on_another_instance() {
    let dead = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("a port");
    let live = app(false, async |_| Response::new(full("live"))).await;
    let endpoints = vec![endpoint(1, dead, AppProtocol::Http1), endpoint(2, live, AppProtocol::Http1)];
    let running = router(table(1, endpoints), NOWHERE, None).await;
    for _ in 0..30 {
        let mut post = get("/");
        *post.method_mut() = http::Method::POST;
        *post.body_mut() = full("a body that was not sent yet");
        assert_eq!(text(fetch(running.address, post).await).await, "live");
    }
}

#[tokio::test]
async fn skips_an_unreachable_instance() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let broken = listener.local_addr().expect("an address");
    drop(listener);
    let live = app(false, async |_| Response::new(full("live"))).await;
    let endpoints = vec![endpoint(1, broken, AppProtocol::Http1), endpoint(2, live, AppProtocol::Http1)];
    let running = router(table(1, endpoints), NOWHERE, None).await;
    let mut requests = Vec::new();
    for _ in 0..8 {
        requests.push(tokio::spawn(async move {
            for _ in 0..100 {
                assert_eq!(text(fetch(running.address, get("/")).await).await, "live");
            }
        }));
    }
    for task in requests {
        task.await.expect("all were answered");
    }
    // The router notices the recovery.
    let listener = TcpListener::bind(broken).await.expect("its port again");
    let accepted = tokio::spawn(async move { listener.accept().await.map(drop) });
    let retries = async {
        loop {
            let _ = text(fetch(running.address, get("/")).await).await;
        }
    };
    tokio::select! {
        accepted = accepted => accepted.expect("ended").expect("accepted"),
        () = retries => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("it was never asked again"),
    }
}

#[tokio::test]
async fn streams_a_response_without_buffering() {
    let (next, turn) = tokio::sync::mpsc::channel::<()>(1);
    let turn = Arc::new(tokio::sync::Mutex::new(turn));
    let events = app(false, move |_| {
        let turn = Arc::clone(&turn);
        async move {
            let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
            tokio::spawn(async move {
                let _ = sender.send(Ok(Frame::data(Bytes::from_static(b"data: one\n\n")))).await;
                turn.lock().await.recv().await;
                let _ = sender.send(Ok(Frame::data(Bytes::from_static(b"data: two\n\n")))).await;
            });
            let stream =
                futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
            let stream = StreamBody::new(Box::pin(stream));
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(BodyExt::boxed(stream))
                .expect("an answer")
        }
    })
    .await;
    let running = router(table(1, vec![endpoint(1, events, AppProtocol::Http1)]), NOWHERE, None).await;
    let mut body = fetch(running.address, get("/")).await.into_body();
    let mut piece = async || body.frame().await.expect("a frame").expect("data").into_data().expect("data");
    assert_eq!(piece().await, "data: one\n\n");
    next.send(()).await.expect("told");
    assert_eq!(piece().await, "data: two\n\n");
}

#[tokio::test]
async fn passes_large_bodies_both_ways() {
    let echo = app(false, async |request: Request<Incoming>| {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        Response::new(full(body))
    })
    .await;
    let running = router(table(1, vec![endpoint(1, echo, AppProtocol::Http1)]), NOWHERE, None).await;
    let sent = Bytes::from(vec![7; 40 << 20]);
    let request = Request::post("/").header("host", "shop.localhost").body(full(sent.clone())).expect("a request");
    let answer = fetch(running.address, request).await.into_body().collect().await.expect("a body").to_bytes();
    assert!(answer == sent);
}

/// An application that sends back each four bytes in reverse order.
async fn chat() -> SocketAddr {
    app(false, async |mut request: Request<Incoming>| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
            let mut word = [0; 4];
            while stream.read_exact(&mut word).await.is_ok() {
                word.reverse();
                let _ = stream.write_all(&word).await;
            }
        });
        let builder = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        let builder = builder.header("sec-websocket-accept", "key").header("sec-websocket-protocol", "chat");
        builder.body(full("")).expect("an answer")
    })
    .await
}

async fn join(address: SocketAddr) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut request = get("/chat");
    request.headers_mut().insert("connection", "Upgrade".parse().expect("a value"));
    request.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
    let answer = fetch(address, request).await;
    assert_eq!(
        (answer.status(), &answer.headers()["upgrade"]),
        (StatusCode::SWITCHING_PROTOCOLS, &"websocket".parse().expect("a value"))
    );
    TokioIo::new(hyper::upgrade::on(answer).await.expect("upgraded"))
}

/// Checks that websockets close one after the other: thousands of clients that reconnect at once would be worse than
/// the deploy.
#[tokio::test]
async fn spreads_close_frames_over_the_drain() {
    const DRAIN: Duration = Duration::from_secs(4);
    let (old, new, server) = (chat().await, chat().await, TableServer::default());
    let address = server.start().await;
    let mut first = table(1, vec![endpoint(1, old, AppProtocol::Http1)]);
    first.routes.values_mut().for_each(|route| route.timeouts.drain = gantry_model::Seconds(4));
    let running = router(first, &address, None).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(join(running.address).await);
    }
    server.publish_and_wait(table(2, vec![endpoint(2, new, AppProtocol::Http1)])).await;
    let begun = std::time::Instant::now();
    let farewells = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut farewell = Vec::new();
            let mut byte = [0];
            while farewell.len() < 4 {
                client.read_exact(&mut byte).await.expect("it is told, and not cut");
                farewell.push(byte[0]);
            }
            (farewell, begun.elapsed())
        })
    });
    let mut times = Vec::new();
    for farewell in farewells.collect::<Vec<_>>() {
        let (frame, at) = farewell.await.expect("told");
        // Close frame with status 1001, going away (RFC 6455, sections 5.5.1 and 7.4.1).
        assert_eq!(frame, [0x88, 0x02, 0x03, 0xe9]);
        times.push(at);
    }
    times.sort();
    let (earliest, median, latest) = (times[0], times[30], times[59]);
    assert!(latest < DRAIN && latest - earliest > DRAIN / 3, "{times:?}");
    assert!(median > DRAIN / 8 && median < DRAIN * 3 / 4, "{times:?}");
}

#[tokio::test]
async fn joins_a_websocket() {
    let chat = chat().await;
    let running = router(table(1, vec![endpoint(1, chat, AppProtocol::Http1)]), NOWHERE, None).await;
    let mut stream = join(running.address).await;
    for word in [b"ping", b"pong"] {
        stream.write_all(word).await.expect("sent");
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.expect("received");
        back.reverse();
        assert_eq!(&back, word);
    }
}

/// Extended CONNECT (RFC 8441).
fn connect(protocol: Option<&'static str>) -> Request<Body> {
    let mut request = Request::connect("http://shop.localhost/chat").body(full("")).expect("a request");
    *request.version_mut() = http::Version::HTTP_2;
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
    } else {
        *request.uri_mut() = "shop.localhost:80".parse().expect("an authority");
    }
    request
}

#[tokio::test]
async fn joins_a_websocket_over_http2() {
    let chat = chat().await;
    let plain = app(false, async |request: Request<Incoming>| {
        let is_upgrade = request.headers()["upgrade"] == "websocket" && request.headers()["connection"] == "upgrade";
        let is_whole = request.method() == http::Method::GET && request.headers()["sec-websocket-key"].len() == 24;
        let status = if is_upgrade && is_whole { StatusCode::FORBIDDEN } else { StatusCode::OK };
        Response::builder().status(status).body(full("no")).expect("an answer")
    })
    .await;
    let running = router(table(1, vec![endpoint(1, chat, AppProtocol::Http1)]), NOWHERE, None).await;
    let mut client = http2_client(running.address).await;
    // After the response, the client knows that the router accepts extended CONNECT.
    for (protocol, expected) in
        [(None, StatusCode::METHOD_NOT_ALLOWED), (Some("webtransport"), StatusCode::NOT_IMPLEMENTED)]
    {
        let answer = client.send_request(connect(protocol)).await.expect("an answer");
        assert_eq!(answer.status(), expected, "{protocol:?}");
    }
    let answer = client.send_request(connect(Some("websocket"))).await.expect("an answer");
    assert_eq!(
        (answer.status(), &answer.headers()["sec-websocket-protocol"]),
        (StatusCode::OK, &"chat".parse().expect("a value"))
    );
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.expect("upgraded"));
    for word in [b"ping", b"pong"] {
        stream.write_all(word).await.expect("sent");
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.expect("received");
        back.reverse();
        assert_eq!(&back, word);
    }
    // An application that refuses the websocket answers the client itself.
    let running = router(table(1, vec![endpoint(1, plain, AppProtocol::Http1)]), NOWHERE, None).await;
    let mut client = http2_client(running.address).await;
    client.send_request(connect(None)).await.expect("an answer");
    let answer = client.send_request(connect(Some("websocket"))).await.expect("an answer");
    assert_eq!((answer.status(), text(answer).await), (StatusCode::FORBIDDEN, "no".to_owned()));
}

async fn http2_client(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.expect("connected");
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn speaks_http2_on_both_sides() {
    let version = async |request: Request<Incoming>| Response::new(full(format!("{:?}", request.version())));
    for (protocol, expected) in [(AppProtocol::Http1, "HTTP/1.1"), (AppProtocol::H2c, "HTTP/2.0")] {
        let address = app(protocol == AppProtocol::H2c, version).await;
        let running = router(table(1, vec![endpoint(1, address, protocol)]), NOWHERE, None).await;
        let stream = TcpStream::connect(running.address).await.expect("connected");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        for _ in 0..10 {
            let request = Request::get("http://shop.localhost/").body(full("")).expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.version(), Version::HTTP_2);
            assert_eq!(text(answer).await, expected);
        }
        assert_eq!(text(fetch(running.address, get("/")).await).await, expected);
    }
}

#[tokio::test]
async fn serves_https_with_the_given_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(vec!["shop.localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let secure = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = secure.local_addr().expect("an address").port();
    let proto = async |request: Request<Incoming>| {
        Response::new(full(request.headers()["x-forwarded-proto"].as_bytes().to_vec()))
    };
    let address = app(false, proto).await;
    let https = Some((secure, certificate.clone(), key));
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, https).await;
    // The router is ready once it responds at all.
    fetch(running.address, get("/")).await;
    let output = tokio::process::Command::new("curl")
        .args(["-sS", "--max-time", "10", "--write-out", " %{http_version}", "--cacert"])
        .arg(&certificate)
        .args(["--resolve", &format!("shop.localhost:{port}:127.0.0.1")])
        .arg(format!("https://shop.localhost:{port}/"))
        .output()
        .await
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "https 2", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn serves_a_waiting_request_after_a_newer_table() {
    let live = app(false, async |_| Response::new(full("live"))).await;
    let server = TableServer::default();
    let address = server.start().await;
    let running = router(table(5, Vec::new()), &address, None).await;
    server.publish(table(4, vec![endpoint(1, live, AppProtocol::Http1)]));
    let answer = fetch(running.address, get("/")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "an older table was taken");
    let waiting = tokio::spawn(fetch(running.address, get("/")));
    server.publish(table(6, vec![endpoint(1, live, AppProtocol::Http1)]));
    assert_eq!(text(waiting.await.expect("an answer")).await, "live");
    server.wait_for_report(|report| report["generation"] == 6).await;
    let kept: RoutingTable =
        serde_json::from_slice(&std::fs::read(running.folder.path().join("table.json")).expect("kept")).expect("JSON");
    assert_eq!(kept.generation, Generation(6));
}

#[tokio::test]
async fn finishes_requests_under_way_at_shutdown() {
    let (reached, go) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (reached_too, waiting) = (Arc::clone(&reached), Arc::clone(&go));
    let slow = app(false, move |_| {
        let (reached_too, waiting) = (Arc::clone(&reached_too), Arc::clone(&waiting));
        async move {
            reached_too.notify_one();
            waiting.notified().await;
            Response::new(full("done"))
        }
    })
    .await;
    let mut running = router(table(1, vec![endpoint(1, slow, AppProtocol::Http1)]), NOWHERE, None).await;
    let waiting_request = tokio::spawn(fetch(running.address, get("/")));
    // The router has the request once the application has.
    reached.notified().await;
    running.stop.take().expect("it runs").send(()).expect("asked");
    // Refused connections show that the shutdown has begun.
    while TcpStream::connect(running.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    go.notify_one();
    let answer = waiting_request.await.expect("an answer");
    assert_eq!(answer.headers()["connection"], "close");
    assert_eq!(text(answer).await, "done");
    running.ended.await.expect("it ended");
    assert!(TcpStream::connect(running.address).await.is_err());
}
