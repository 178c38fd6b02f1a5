//! Instances with scripted responses: bytes that reach the client, and reuse of connections.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gantry_model::role::AppProtocol;
use harness::{NOWHERE, TableServer, endpoint, fetch, get, router, table, text};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// An instance that sends `answer` for each request, and counts its connections. With `closes` the instance closes each
/// connection after the first response.
async fn responding_instance(answer: &'static [u8], closes: bool) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
                    if line == "\r\n" {
                        let _ = stream.write_all(answer).await;
                        if closes {
                            return;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn reads_responses_with_any_framing() {
    for (answer, closes) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], false),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n", false),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
        (b"HTTP/1.1 200 \r\nConnection: close\r\n\r\nhello", true),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", true),
    ] {
        let (address, _) = responding_instance(answer, closes).await;
        let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
        for _ in 0..3 {
            let response = fetch(running.address, get("/")).await;
            assert_eq!(response.status(), StatusCode::OK, "{}", answer.escape_ascii());
            assert_eq!(text(response).await, "hello", "{}", answer.escape_ascii());
        }
    }
}

#[tokio::test]
async fn reuses_only_connections_left_in_order() {
    for (answer, connections) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..], 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 1),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 1),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 3),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 3),
        // A response without a request: the next client must not get this response.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 3),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 3),
    ] {
        let (address, counted) = responding_instance(answer, false).await;
        let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
        for _ in 0..3 {
            assert_eq!(text(fetch(running.address, get("/")).await).await, "ok", "{}", answer.escape_ascii());
        }
        // The router's threads serve clients in turn, and each thread keeps its own connections.
        let threads = u32::try_from(std::thread::available_parallelism().expect("known").get()).expect("small");
        let most = if connections == 1 { threads } else { 3 };
        let counted = counted.load(Ordering::SeqCst);
        assert!(counted <= most && (connections == 1 || counted == 3), "{counted}: {}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn refuses_cut_and_malformed_responses() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    ] {
        let (address, _) = responding_instance(answer, true).await;
        let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
        let mut client = TcpStream::connect(running.address).await.expect("connected");
        client.write_all(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await.expect("written");
        let mut received = Vec::new();
        // The connection ends without the missing bytes: nine bytes, or the last chunk.
        let ended = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut received)).await;
        assert!(ended.is_ok(), "it goes on: {}", answer.escape_ascii());
        let text = String::from_utf8_lossy(&received);
        assert!(!text.ends_with("0\r\n\r\n") && !text.contains("XX"), "{text}");
    }
    for (answer, stated) in [
        (&b"SSH-2.0-OpenSSH\r\n"[..], "the response is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "conflicting Content-Length headers"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "without a request to do so"),
        (b"HTTP/1.1 200 OK\r\nA: b", "closed the connection before it responded"),
    ] {
        let (address, _) = responding_instance(answer, true).await;
        let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
        let response = fetch(running.address, get("/")).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let text = text(response).await;
        assert!(text.contains(stated), "{text}");
    }
}

#[tokio::test]
async fn accepts_a_response_during_the_upload() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // The instance responds before the body, and then sends the body back.
    let instance = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            let _ = stream.read_line(&mut line).await.expect("a line");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.expect("written");
        let mut chunk = [0; 8];
        for expected in [&b"3\r\none\r\n"[..], b"3\r\ntwo\r\n"] {
            stream.read_exact(&mut chunk).await.expect("a chunk");
            assert_eq!(chunk, expected);
            stream.write_all(&chunk).await.expect("written");
        }
        stream.read_exact(&mut chunk[..5]).await.expect("the last chunk");
        stream.write_all(b"0\r\n\r\n").await.expect("written");
    });
    let mut streaming = table(1, vec![endpoint(1, address, AppProtocol::Http1)]);
    streaming.routes.values_mut().for_each(|route| route.timeouts.request_buffer = gantry_model::Bytes(0));
    let running = router(streaming, NOWHERE, None).await;
    let (pieces, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let request = Request::post("/").header("host", "shop.localhost").body(StreamBody::new(body).boxed_unsync());
    let stream = TcpStream::connect(running.address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let response = sender.send_request(request.expect("a request")).await.expect("an answer");
    let mut answer = response.into_body();
    for text in ["one", "two"] {
        pieces.send(Ok(Frame::data(Bytes::from(text)))).await.expect("sent");
        let piece = answer.frame().await.expect("a piece").expect("good").into_data().expect("data");
        assert_eq!(piece, text);
    }
    drop(pieces);
    assert!(answer.frame().await.is_none());
    instance.await.expect("it had everything");
}

/// Sends `bytes` on a new connection; returns everything received until the other side closes.
async fn exchange_bytes(address: SocketAddr, bytes: &[u8]) -> String {
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(bytes).await.expect("written");
    let mut received = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut received)).await;
    assert!(ended.is_ok(), "it goes on: {}", received.escape_ascii());
    String::from_utf8_lossy(&received).into_owned()
}

#[tokio::test]
async fn accepts_absolute_targets_but_no_connect() {
    let (address, _) = responding_instance(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false).await;
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    let whole = b"GET http://shop.localhost/ HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n";
    assert!(exchange_bytes(running.address, whole).await.starts_with("HTTP/1.1 200 "));
    let tunnel = b"CONNECT shop.localhost:80 HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert!(exchange_bytes(running.address, tunnel).await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn retries_a_request_by_the_current_table() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let leaving = listener.local_addr().expect("an address");
    let (fresh, _) = responding_instance(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh", false).await;
    let server = TableServer::default();
    let there = server.start().await;
    let before = vec![endpoint(1, leaving, AppProtocol::Http1)];
    let running = router(table(1, before), &there, None).await;
    let pending = tokio::spawn(async move { text(fetch(running.address, get("/")).await).await });
    let (mut taken, _) = listener.accept().await.expect("it is asked");
    assert!(taken.read(&mut [0; 100]).await.expect("read") > 0);
    // Another instance replaces the first, which then closes without a response. The request goes to the new instance.
    server.publish_and_wait(table(2, vec![endpoint(2, fresh, AppProtocol::Http1)])).await;
    drop((taken, listener));
    assert_eq!(pending.await.expect("answered"), "fresh");
}
