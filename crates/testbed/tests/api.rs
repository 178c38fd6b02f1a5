//! Malformed requests to the API's port before authentication: ambiguous framing, oversized requests, slow clients
//! and truncated requests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use gantry_testbed::TestCluster;

/// Sends `bytes` on a new connection and returns everything that the server sends until the end of the connection.
/// With `all`, the client shuts down its sending side afterwards.
fn say(port: u16, bytes: &[u8], all: bool) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    // The server may refuse the request before the client has sent all bytes.
    let _ = stream.write_all(bytes);
    if all {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    // A reset after the response also ends the connection.
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn statuses(answer: &str) -> Vec<u16> {
    let lines = answer.split("HTTP/1.1 ").skip(1);
    lines.filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

/// Request body that creates an app. A test replaces `NN` with a number.
const BODY: &str = r#"{"name":"app-NN"}"#;
const SIZE: usize = BODY.len();

/// Request head that creates an app, without its framing headers.
fn head(token: &str) -> String {
    format!("POST /v1/apps HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n")
}

/// A second request on the same connection. The request asks the server to close the connection.
fn next(token: &str) -> String {
    format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")
}

/// Ambiguous, truncated or oversized framings: the name of the case, and the bytes that follow [`head`].
fn framings() -> Vec<(&'static str, String)> {
    let chunked = |chunks: &str| format!("transfer-encoding: chunked\r\n\r\n{chunks}\r\n{BODY}\r\n0\r\n\r\n");
    let behind = |fields: &str| format!("{fields}content-length: {SIZE}\r\n\r\n{BODY}");
    let (many, long) = ("x: y\r\n".repeat(1000), "y".repeat(2 << 20));
    vec![
        ("two lengths", format!("content-length: {SIZE}\r\ncontent-length: 0\r\n\r\n{BODY}")),
        ("a length with a plus", format!("content-length: +{SIZE}\r\n\r\n{BODY}")),
        ("a length in hexadecimal", format!("content-length: 0x{SIZE:x}\r\n\r\n{BODY}")),
        ("an odd coding", format!("transfer-encoding: xchunked\r\n\r\n{SIZE:x}\r\n{BODY}\r\n0\r\n\r\n")),
        (
            "a coding that is not the last",
            format!("transfer-encoding: chunked, identity\r\n\r\n{SIZE:x}\r\n{BODY}\r\n0\r\n\r\n"),
        ),
        ("a chunk without a size", chunked("")),
        ("a chunk whose size is too large", chunked(&"f".repeat(17))),
        ("a chunk that is cut", format!("transfer-encoding: chunked\r\n\r\nff\r\n{BODY}")),
        ("a folded field", format!("x: y\r\n content-length: {SIZE}\r\n\r\n")),
        ("a space before the colon", format!("content-length : {SIZE}\r\n\r\n{BODY}")),
        ("a tab before the colon", format!("content-length\t: {SIZE}\r\n\r\n{BODY}")),
        ("a carriage return alone in a field", behind("x: y\rcontent-length: 0\r\n")),
        (
            "a chunk's size that ends with a line feed alone",
            format!("transfer-encoding: chunked\r\n\r\n{SIZE:x}\n{BODY}\r\n0\r\n\r\n"),
        ),
        ("a line feed alone in a chunk's extension", chunked(&format!("{SIZE:x};a\nb"))),
        ("extensions without end", chunked(&format!("{SIZE:x};{long}"))),
        ("a chunk's size with a sign", chunked(&format!("+{SIZE:x}"))),
        ("a NUL in a field", behind("x: \0\r\n")),
        ("too many fields", behind(&many)),
        ("a field that is too long", behind(&format!("x: {long}\r\n"))),
        ("a body that is cut", format!("content-length: {}\r\n\r\n{BODY}", SIZE + 1)),
        ("a body that is too long", format!("content-length: {}\r\n\r\n{long}", long.len())),
    ]
}

/// Sends each of [`framings`] with a second request behind, and returns the cases in which the server accepted a
/// request, with the response.
fn examine(port: u16, token: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, (name, rest)) in framings().iter().enumerate() {
        let text = format!("{}{}", head(token), rest.replace("app-NN", &format!("app-{number:02}")));
        let followed = !name.contains("cut") && !name.contains("folded");
        let text = if followed { text + &next(token) } else { text };
        let answer = say(port, text.as_bytes(), !followed);
        let statuses = statuses(&answer);
        if statuses.len() > 1 || !statuses.iter().all(|status| (400..500).contains(status)) {
            wrong.push(format!("{name}: {answer}"));
        }
    }
    wrong
}

#[test]
fn the_api_applies_a_request_fully_or_not_at_all() {
    let cluster = TestCluster::start(&[]);
    let (port, token) = (cluster.api_port(), cluster.token());
    let (head, next) = (head(&token), next(&token));
    // With correct framing, the server creates the app and answers the second request.
    let good = format!("{head}content-length: {SIZE}\r\n\r\n{}{next}", BODY.replace("NN", "ok"));
    let answer = say(port, good.as_bytes(), false);
    assert_eq!(statuses(&answer), [200, 200], "{answer}");
    assert!(cluster.gantry(&["app", "ls"]).good().out.contains("app-ok"));
    // With wrong framing, the server creates no app and does not read the following bytes as a request.
    let wrong = examine(port, &token);
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (name, text) in [
        ("a target that is too long", format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(200_000))),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned()),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned()),
    ] {
        let answer = say(port, text.as_bytes(), true);
        assert!(statuses(&answer).iter().all(|status| (400..500).contains(status)), "{name}: {answer}");
    }
    // A server may ignore a length beside a transfer coding (RFC 9112, section 6.3), but must then close the
    // connection.
    let both =
        format!("{head}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n{SIZE:x}\r\n{BODY}\r\n0\r\n\r\n{next}");
    assert!(statuses(&say(port, both.as_bytes(), false)).len() <= 1);
    // Unusual but unambiguous framing: the server accepts the request with its one meaning and answers the second
    // request.
    let odd = [
        (
            "an extension of a chunk",
            format!("transfer-encoding: chunked\r\n\r\n{SIZE:x};name=\"v\"\r\n{BODY}\r\n0\r\n\r\n"),
        ),
        ("a trailer", format!("transfer-encoding: chunked\r\n\r\n{SIZE:x}\r\n{BODY}\r\n0\r\nx: y\r\n\r\n")),
        ("lines that end with a line feed alone", format!("content-length: {SIZE}\n\n{BODY}")),
    ];
    for (number, (name, rest)) in odd.iter().enumerate() {
        let text = format!("{head}{}{next}", rest.replace("app-NN", &format!("odd-{number:02}")));
        let answer = say(port, text.as_bytes(), false);
        assert_eq!(statuses(&answer), [200, 200], "{name}: {answer}");
    }
    let apps = cluster.gantry(&["app", "ls", "--json"]).good().out;
    let made: Vec<&str> = apps.split('"').filter(|word| word.starts_with("app-") || word.starts_with("odd-")).collect();
    assert_eq!(made, ["app-ok", "odd-00", "odd-01", "odd-02"], "{apps}");
}

/// Server that finds every request in the bytes, ignores all framing, and answers each request.
fn careless(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 1 << 16];
    // A client that sent this last header waits for the responses. The other clients shut down their sending side.
    while !bytes.ends_with(b"connection: close\r\n\r\n") {
        let count = stream.read(&mut piece).expect("read");
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&piece[..count]);
    }
    let text = String::from_utf8_lossy(&bytes);
    let requests = text.matches("POST /v1/apps").count() + text.matches("GET /v1/status").count();
    let _ = stream.write_all("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".repeat(requests).as_bytes());
}

/// Mutation test: a server that ignores framing accepts a request in every case.
#[test]
fn the_framing_check_detects_a_server_that_accepts_everything() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let all = framings().len();
    std::thread::spawn(move || listener.incoming().take(all).flatten().for_each(careless));
    let wrong = examine(port, "anybody");
    assert_eq!(wrong.len(), all, "{wrong:#?}");
}

/// The server reads the bytes that a client sends after a refusal. The refusal is still there when the client reads.
#[test]
fn a_refusal_in_the_middle_of_a_body_arrives() {
    let cluster = TestCluster::start(&[]);
    // More than the kernel buffers on both ends (36 MiB at most: `tcp_wmem` and `tcp_rmem`), and less than the server
    // reads after a refusal.
    let body = vec![0; 48 << 20];
    let head = format!(
        "POST /v1/bases/more/import HTTP/1.1\r\nhost: x\r\nauthorization: Bearer nobody\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.api_port())).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.write_all(head.as_bytes()).expect("taken");
    stream.write_all(&body).expect("what is not wanted any more is taken too");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).expect("to its end");
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("this token is not known"), "{answer}");
    let archive = std::env::var("GANTRY_TEST_BASE").expect("a base");
    let refused = cluster.gantry_as("nobody", &["base", "import", "more", &archive]);
    assert!(refused.status != 0 && refused.err.contains("this token is not known"), "{refused:?}");
}

/// Opens 1,000 connections that never become a request (5,000 in the long run) and waits until the server ends them.
#[test]
fn slow_clients_of_the_api_delay_no_other_client() {
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let cluster = TestCluster::start(&[]);
    let _ = cluster.gantry(&["app", "create", "shop"]).good();
    let ask = || {
        let begun = Instant::now();
        assert!(cluster.gantry(&["app", "ls"]).good().out.contains("shop"));
        begun.elapsed()
    };
    let alone = (0..10).map(|_| ask()).max().expect("some");
    let token = cluster.token();
    let mut slow: Vec<TcpStream> = (0..if long { 5000 } else { 1000 })
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", cluster.api_port())).expect("connected");
            let half = match number % 3 {
                0 => "GET /v1/apps HTTP/1.1\r\nhost: ".to_owned(),
                1 => format!(
                    "POST /v1/apps HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 99\r\n\r\n{{"
                ),
                _ => String::new(),
            };
            stream.write_all(half.as_bytes()).expect("sent");
            stream
        })
        .collect();
    let beside = (0..10).map(|_| ask()).max().expect("some");
    println!("the slowest of ten answers: {alone:?} alone, {beside:?} beside {} slow clients", slow.len());
    assert!(beside < alone * 2 + Duration::from_millis(200), "{beside:?} where it was {alone:?}");
    if long {
        // A request head has a timeout of 75 s. A body of an authorized request may pause for 300 s.
        let until = Instant::now() + Duration::from_secs(330);
        for stream in &mut slow {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(10));
            stream.set_read_timeout(Some(left)).expect("set");
            let mut answer = Vec::new();
            let ended = stream.read_to_end(&mut answer);
            let kept = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            assert!(!kept, "it is kept: {}", answer.escape_ascii());
        }
    }
}
