//! What anybody may say to the API's port before a token counts: framing that could be read in two ways, what is too long, too
//! slow, or never whole.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use gantry_testbed::World;

/// Says `bytes` on a connection of its own, and ends its side if that is `all`; everything that is answered until the server
/// ends it.
fn say(port: u16, bytes: &[u8], all: bool) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    // It may be refused before it was all sent.
    let _ = stream.write_all(bytes);
    if all {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    // A reset after the answer is an end too.
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn statuses(answer: &str) -> Vec<u16> {
    let lines = answer.split("HTTP/1.1 ").skip(1);
    lines.filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

/// The order that makes an app, once its number is in it.
const BODY: &str = r#"{"name":"app-NN"}"#;
const SIZE: usize = BODY.len();

/// Everything of the order but its framing.
fn head(token: &str) -> String {
    format!("POST /v1/apps HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n")
}

/// What follows on the same connection, and ends it.
fn next(token: &str) -> String {
    format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")
}

/// Framing that could be read in two ways, is cut, or is too long: its name, and what comes behind [`head`].
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

/// Says each of [`framings`], and what follows; those of which anything was taken, and how that was answered.
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
fn the_api_takes_what_was_meant_or_nothing() {
    let world = World::start(&[]);
    let (port, token) = (world.api_port(), world.token());
    let (head, next) = (head(&token), next(&token));
    // As it should be, the app is made and what follows is answered.
    let good = format!("{head}content-length: {SIZE}\r\n\r\n{}{next}", BODY.replace("NN", "ok"));
    let answer = say(port, good.as_bytes(), false);
    assert_eq!(statuses(&answer), [200, 200], "{answer}");
    assert!(world.gantry(&["app", "ls"]).good().out.contains("app-ok"));
    // Of what is not, nothing is made, and what follows is no request.
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
    // A length beside a coding may be passed over (RFC 9112, section 6.3), but then the connection ends with it.
    let both =
        format!("{head}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n{SIZE:x}\r\n{BODY}\r\n0\r\n\r\n{next}");
    assert!(statuses(&say(port, both.as_bytes(), false)).len() <= 1);
    // What has one meaning, however odd: it is taken with that, and what follows is a request of its own.
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
    let apps = world.gantry(&["app", "ls", "--json"]).good().out;
    let made: Vec<&str> = apps.split('"').filter(|word| word.starts_with("app-") || word.starts_with("odd-")).collect();
    assert_eq!(made, ["app-ok", "odd-00", "odd-01", "odd-02"], "{apps}");
}

/// Reads every request that it can find, whatever stands between, and answers all of them.
fn careless(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 1 << 16];
    // Whoever says this last waits for the answers; the others end their side.
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

/// The control: of whoever looks for requests and minds no framing, every one is taken.
#[test]
fn without_framing_all_of_it_is_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let all = framings().len();
    std::thread::spawn(move || listener.incoming().take(all).flatten().for_each(careless));
    let wrong = examine(port, "anybody");
    assert_eq!(wrong.len(), all, "{wrong:#?}");
}

/// What a client sends on after it was refused is taken, and the refusal is there when it comes to read it.
#[test]
fn whoever_is_refused_in_the_middle_hears_why() {
    let world = World::start(&[]);
    // More than the kernel keeps for both ends (36 MiB at most: `tcp_wmem` and `tcp_rmem`), and less than is read after a refusal.
    let body = vec![0; 48 << 20];
    let head = format!(
        "POST /v1/bases/more/import HTTP/1.1\r\nhost: x\r\nauthorization: Bearer nobody\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", world.api_port())).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.write_all(head.as_bytes()).expect("taken");
    stream.write_all(&body).expect("what is not wanted any more is taken too");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).expect("to its end");
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("this token is not known"), "{answer}");
    let archive = std::env::var("GANTRY_TEST_BASE").expect("a base");
    let refused = world.gantry_as("nobody", &["base", "import", "more", &archive]);
    assert!(refused.status != 0 && refused.err.contains("this token is not known"), "{refused:?}");
}

/// 1,000 connections that never become a request; in the long form 5,000, until the server ends them.
#[test]
fn slow_clients_of_the_api_are_in_nobody_s_way() {
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let world = World::start(&[]);
    let _ = world.gantry(&["app", "create", "shop"]).good();
    let ask = || {
        let begun = Instant::now();
        assert!(world.gantry(&["app", "ls"]).good().out.contains("shop"));
        begun.elapsed()
    };
    let alone = (0..10).map(|_| ask()).max().expect("some");
    let token = world.token();
    let mut slow: Vec<TcpStream> = (0..if long { 5000 } else { 1000 })
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", world.api_port())).expect("connected");
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
        // A head has 75 s; a body that somebody with a token began may pause for 300.
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
