//! Request and response bodies between client and instance: buffering, streaming, and the disposal of an unread rest.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gantry_model::RoutingTable;
use gantry_model::role::AppProtocol;
use harness::{NOWHERE, app, endpoint, fetch, full, get, router, table, text};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A table with one route that buffers up to `buffer` bytes.
fn collecting(buffer: u64, endpoints: Vec<gantry_model::Endpoint>) -> RoutingTable {
    let mut table = table(1, endpoints);
    table.routes.values_mut().for_each(|route| route.timeouts.request_buffer = gantry_model::Bytes(buffer));
    table
}

/// The head of a request, without its body.
fn post(fields: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nhost: shop.localhost\r\n{fields}\r\n\r\n").into_bytes()
}

/// Reads from a connection until the received text ends with `end`.
async fn until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut response = Vec::new();
    while !response.ends_with(end.as_bytes()) {
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_buf(&mut response)).await;
        let read = read.unwrap_or_else(|_| panic!("silence after {}", response.escape_ascii())).expect("read");
        assert!(read > 0, "it ended after {}", response.escape_ascii());
    }
    String::from_utf8(response).expect("text")
}

/// An instance that serves one connection at a time, like a server with a single process. Its response has the received
/// head and the number of bytes after the head.
async fn one_process() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let (mut head, mut length, mut chunked) = (String::new(), 0, false);
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {
                let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse().expect("a length");
                }
                chunked |= line == "transfer-encoding: chunked";
            }
            let mut body = vec![0; length];
            if stream.read_exact(&mut body).await.is_err() {
                continue;
            }
            if chunked {
                let mut line = String::new();
                while !line.ends_with("0\r\n") && stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {}
                while !line.ends_with("\r\n\r\n") && stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {}
                body = line.into_bytes();
            }
            let received_text = format!("{head}{}", String::from_utf8_lossy(&body));
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{received_text}",
                received_text.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn buffers_a_slow_upload_before_choosing_an_instance() {
    let address = one_process().await;
    let running = router(collecting(64 << 10, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    for (fields, pieces, end) in [
        ("content-length: 10", ["hel", "lo", "world"], ""),
        ("transfer-encoding: chunked", ["3\r\nhel\r\n", "2\r\nlo\r\n5\r\nwo", "rld\r\n"], "0\r\n\r\n"),
    ] {
        let mut slow = TcpStream::connect(running.address).await.expect("connected");
        slow.write_all(&post(fields)).await.expect("sent");
        for piece in pieces {
            slow.write_all(piece.as_bytes()).await.expect("sent");
            // Meanwhile the single process serves every other client.
            let answer = tokio::time::timeout(Duration::from_secs(20), fetch(running.address, get("/"))).await;
            assert_eq!(answer.expect("nobody waits for the slow one").status(), StatusCode::OK);
        }
        slow.write_all(end.as_bytes()).await.expect("sent");
        let response = until(&mut slow, "helloworld").await;
        assert!(response.contains("content-length: 10\r\n") && !response.contains("chunked"), "{fields}: {response}");
    }
}

#[tokio::test]
async fn sends_a_buffered_chunked_request_with_a_length() {
    let address = one_process().await;
    let running = router(collecting(64 << 10, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    for (body, wanted) in
        [("5\r\nhello\r\n0\r\n\r\n", "content-length: 5\r\n\r\nhello"), ("0\r\n\r\n", "content-length: 0\r\n\r\n")]
    {
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        stream.write_all(&[&post("transfer-encoding: chunked")[..], body.as_bytes()].concat()).await.expect("sent");
        let response = until(&mut stream, wanted).await;
        assert!(response.starts_with("HTTP/1.1 200") && !response.contains("transfer-encoding"), "{response}");
    }
}

/// An instance that takes the whole request before it responds.
async fn echo() -> SocketAddr {
    app(false, async |request: Request<Incoming>| {
        let length =
            request.headers().get("content-length").map_or("none".to_owned(), |v| v.to_str().expect("text").to_owned());
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        Response::builder().header("x-length", length).body(full(body)).expect("an answer")
    })
    .await
}

#[tokio::test]
async fn passes_bodies_of_any_size_unchanged() {
    let address = echo().await;
    for buffer in [0, 1, 64 << 10, 1 << 20] {
        let running = router(collecting(buffer, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
        for size in [1, 4096, 8192, 65_535, 65_536, 65_537, 300_000, 1 << 20, 3 << 20] {
            let sent: Bytes = (0..size).map(|n: usize| (n % 251) as u8).collect::<Vec<u8>>().into();
            for chunked in [false, true] {
                let pieces: Vec<_> = sent
                    .chunks(10_000)
                    .map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
                    .collect();
                let body = if chunked {
                    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))
                } else {
                    full(sent.clone())
                };
                let request = Request::post("/").header("host", "shop.localhost").body(body).expect("a request");
                let answer = fetch(running.address, request).await;
                let length = answer.headers()["x-length"].to_str().expect("text").to_owned();
                // A body that was not buffered completely stays chunked.
                let wanted = if chunked && size as u64 > buffer { "none".to_owned() } else { size.to_string() };
                assert_eq!(length, wanted, "{size} of {buffer}, chunked: {chunked}");
                let back = answer.into_body().collect().await.expect("a body").to_bytes();
                assert!(back == sent, "{size} of {buffer}, chunked: {chunked}: {} came back", back.len());
            }
        }
    }
}

#[tokio::test]
async fn retries_a_buffered_request_elsewhere_only_if_harmless() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let broken = listener.local_addr().expect("an address");
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 4];
            let _ = stream.read_exact(&mut bytes).await;
            seen.lock().expect("seen").push(String::from_utf8_lossy(&bytes).into_owned());
        }
    });
    let live = echo().await;
    let endpoints = vec![endpoint(1, broken, AppProtocol::Http1), endpoint(2, live, AppProtocol::Http1)];
    let running = router(collecting(64 << 10, endpoints), NOWHERE, None).await;
    let send = async |method: &str| {
        let request = Request::builder().method(method).uri("/").header("host", "shop.localhost");
        fetch(running.address, request.body(full("hello")).expect("a request")).await
    };
    // A safe request goes to the other instance, together with its body.
    while !requests.lock().expect("seen").iter().any(|request| request.starts_with("GET")) {
        let answer = send("GET").await;
        assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "hello"));
    }
    // Any other request may have taken effect, and is not sent twice.
    let mut lost = 0;
    for _ in 0..200 {
        let answer = send("POST").await;
        match answer.status() {
            StatusCode::OK => assert_eq!(text(answer).await, "hello"),
            StatusCode::BAD_GATEWAY => lost += 1,
            status => panic!("{status}"),
        }
    }
    let posts = requests.lock().expect("seen").iter().filter(|request| request.starts_with("POST")).count();
    assert_eq!(lost, posts, "each that the broken one took is told as lost");
}

/// An instance that responds right after the head of a request, and does not read the body.
async fn hasty(answer: &'static [u8], closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    if !stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                        return;
                    }
                }
                let _ = stream.write_all(answer).await;
                if !closes {
                    // The instance reads nothing more, and stays open.
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

/// Sends the whole body before reading, and returns the response.
async fn sends_first(address: SocketAddr, host: &str, size: usize) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let body = vec![b'x'; 65_536];
    for sent in (0..size).step_by(body.len()) {
        let piece = &body[..body.len().min(size - sent)];
        let result = tokio::time::timeout(Duration::from_secs(20), stream.write_all(piece)).await;
        let result = result.unwrap_or_else(|_| panic!("after {sent} of {size} bytes it takes no more"));
        result.unwrap_or_else(|error| panic!("after {sent} of {size} bytes: {error}"));
    }
    let mut response = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut response)).await.expect("an answer");
    String::from_utf8_lossy(&response[..read.expect("read")]).into_owned()
}

#[tokio::test]
async fn delivers_an_early_response_to_a_client_that_reads_last() {
    for closes in [true, false] {
        let address =
            hasty(b"HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno", closes).await;
        for buffer in [0, 64 << 10] {
            let running =
                router(collecting(buffer, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
            for size in [100_000, 3 << 20, 30 << 20] {
                let response = sends_first(running.address, "shop.localhost", size).await;
                assert!(
                    response.starts_with("HTTP/1.1 401") && response.ends_with("no"),
                    "{size}, closes: {closes}: {response}"
                );
            }
            // Error responses of the router behave the same.
            let response = sends_first(running.address, "ghost.localhost", 3 << 20).await;
            assert!(response.starts_with("HTTP/1.1 404"), "{response}");
        }
    }
}

#[tokio::test]
async fn keeps_http2_streams_open_after_an_early_response() {
    let address = hasty(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno", true).await;
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    let stream = TcpStream::connect(running.address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let (pieces, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let request =
        Request::post("http://shop.localhost/").body(StreamBody::new(body).boxed_unsync()).expect("a request");
    let mut sending = Box::pin(sender.send_request(request));
    let piece = Bytes::from(vec![b'x'; 65_536]);
    let mut answer = None;
    // The response arrives meanwhile; the router still takes each piece.
    for _ in 0..100 {
        let sent = tokio::time::timeout(Duration::from_secs(20), pieces.send(Ok(Frame::data(piece.clone())))).await;
        sent.expect("it takes no more").expect("the stream goes on");
        if answer.is_none() {
            answer = tokio::time::timeout(Duration::from_millis(1), &mut sending).await.ok();
        }
    }
    drop(pieces);
    let answer = match answer {
        Some(answer) => answer,
        None => sending.await,
    };
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(text(answer).await, "no");
}

#[tokio::test]
async fn forwards_100_continue_of_the_instance() {
    let refuses = hasty(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno", false).await;
    let goes_on = echo().await;
    let silent = one_process().await;
    for (address, size, expected) in [
        // The body exceeds the buffer: the instance decides, or is silent for a second.
        (refuses, 100_000, "HTTP/1.1 413"),
        (goes_on, 100_000, "HTTP/1.1 100 Continue\r\n\r\n"),
        (silent, 100_000, "HTTP/1.1 100 Continue\r\n\r\n"),
        // The router asks at once for a body that fits the buffer.
        (goes_on, 100, "HTTP/1.1 100 Continue\r\n\r\n"),
        (silent, 100, "HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        let running = router(collecting(64 << 10, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        stream.write_all(&post(&format!("content-length: {size}\r\nexpect: 100-continue"))).await.expect("sent");
        let end = if expected.ends_with("413") { "no" } else { "\r\n\r\n" };
        let response = until(&mut stream, end).await;
        assert!(response.starts_with(expected), "{size}: {response}");
        if end == "\r\n\r\n" {
            stream.write_all(&vec![b'x'; size]).await.expect("sent");
            let response = until(&mut stream, "xxx").await;
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        } else {
            // The body was not sent, and the router does not wait for the body.
            let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
            assert!(ended.is_ok_and(|read| read.is_err()), "the connection is kept");
        }
    }
}

#[tokio::test]
async fn delivers_interim_responses_in_order_before_the_response() {
    let address = hasty(
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: close\r\n\r\n\
          HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        true,
    )
    .await;
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    // Two requests in one piece: the first response is complete before the interim response of the second.
    let request = b"GET / HTTP/1.1\r\nhost: shop.localhost\r\n\r\n";
    stream.write_all(&[&request[..], request].concat()).await.expect("sent");
    let announced = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n";
    for _ in 0..2 {
        let response = until(&mut stream, "\r\n\r\nok").await;
        assert!(response.starts_with(announced), "{response}");
    }
    // An HTTP/1.0 client gets no interim responses.
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.0\r\nhost: shop.localhost\r\n\r\n").await.expect("sent");
    let response = until(&mut stream, "ok").await;
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
}

#[tokio::test]
async fn passes_allowed_trailers_both_ways() {
    let address = app(false, async |request: Request<Incoming>| {
        let announced = request.headers().get("trailer").cloned();
        let body = request.into_body().collect().await.expect("a body");
        let received_trailers = body.trailers().cloned().unwrap_or_default();
        let mut back = HeaderMap::new();
        back.insert("x-sum", received_trailers.get("x-sum").cloned().unwrap_or("none".parse().expect("a value")));
        back.insert("x-forwarded-for", "6.6.6.6".parse().expect("a value"));
        assert!(
            received_trailers.get("content-length").is_none() && received_trailers.get("host").is_none(),
            "{received_trailers:?}"
        );
        let frames = [Ok::<_, std::convert::Infallible>(Frame::data(body.to_bytes())), Ok(Frame::trailers(back))];
        let builder = Response::builder()
            .header("trailer", "x-sum")
            .header("x-announced", announced.unwrap_or("none".parse().expect("a value")));
        builder.body(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))).expect("an answer")
    })
    .await;
    for buffer in [0, 64 << 10] {
        let running = router(collecting(buffer, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        let body = b"5\r\nhello\r\n0\r\nX-Sum: 42\r\nHost: other\r\nContent-Length: 7\r\n\r\n";
        let head = post("te: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked");
        stream.write_all(&[&head[..], body].concat()).await.expect("sent");
        let response = until(&mut stream, "\r\n0\r\nx-sum: 42\r\n\r\n").await;
        assert!(response.contains("trailer: x-sum\r\n") && response.contains("x-announced: x-sum\r\n"), "{response}");
        assert!(!response.contains("6.6.6.6"), "{response}");
        // The same over HTTP/2.
        let stream = TcpStream::connect(running.address).await.expect("connected");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "43".parse().expect("a value"));
        let frames =
            [Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from("hello"))), Ok(Frame::trailers(trailers))];
        let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
        let request = Request::post("http://shop.localhost/").header("te", "trailers").body(body).expect("a request");
        let answer =
            sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
        assert_eq!(answer.trailers().map(|trailers| trailers["x-sum"].clone()), Some("43".parse().expect("a value")));
        assert_eq!(answer.to_bytes(), "hello");
    }
}

#[tokio::test]
async fn refuses_a_response_with_more_than_1000_fields() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(async |request: Request<Incoming>| {
                let count: usize = request.uri().path()[1..].parse().expect("a number");
                let header_count = request.headers().keys().filter(|name| name.as_str().starts_with("x-many-")).count();
                let answer = Response::builder().header("x-asked", header_count.to_string());
                let answer = (0..count).fold(answer, |answer, n| answer.header("set-cookie", format!("c{n}=1")));
                Ok::<_, std::convert::Infallible>(answer.body(full("ok")).expect("an answer"))
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.max_headers(2000).serve_connection(TokioIo::new(stream), service));
        }
    });
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    for (header_count, count) in [(90, 99), (90, 120), (90, 900), (120, 1)] {
        let mut request = get(&format!("/{count}"));
        for n in 0..header_count {
            let name: http::HeaderName = format!("x-many-{n}").parse().expect("a name");
            request.headers_mut().insert(name, "1".parse().expect("a value"));
        }
        let stream = TcpStream::connect(running.address).await.expect("connected");
        let mut builder = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) =
            builder.max_headers(2000).handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.expect("an answer");
        if header_count > 100 {
            assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            continue;
        }
        assert_eq!(answer.headers()["x-asked"], header_count.to_string());
        assert_eq!(answer.headers().get_all("set-cookie").iter().count(), count);
    }
    let answer = fetch(running.address, get("/1500")).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let body = text(answer).await;
    assert!(body.contains("more than 1000 header fields"), "{body}");
    // The access log has the cause.
    let log = running.folder.path().join("access.log");
    let logged = async {
        while !std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("\"error\":\"the head of the response has more than 1000")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), logged).await.expect("it is in the access log");
}

#[tokio::test]
async fn reads_a_response_before_a_slow_client_takes_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let instance = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 4096]).await.expect("a request");
        let size = 1 << 20;
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes()).await.expect("sent");
        stream.write_all(&vec![b'x'; size]).await.expect("sent");
    });
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    let mut client = TcpStream::connect(running.address).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nhost: shop.localhost\r\n\r\n").await.expect("sent");
    // The client reads nothing at all.
    tokio::time::timeout(Duration::from_secs(20), instance).await.expect("the instance is held").expect("it ended");
    drop(client);
}
