//! A fixed number of requests through the router. `benches/router instructions` runs this test under valgrind, and
//! divides the instructions of the serving thread by that number.

mod harness;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use gantry_model::role::AppProtocol;
use harness::{NOWHERE, endpoint, router, table};

/// Requests of the run, all on one connection.
const COUNT: usize = 5_000;

/// An instance and a client, in a process of their own: prints the instance's port, and reads the router's.
const PEERS: &str = r#"
import socket, sys, threading
count, kind = int(sys.argv[1]), sys.argv[2]
body = b"x" * 100 if kind == "post" else b""
request = b"%s / HTTP/1.1\r\nHost: shop.localhost\r\n%s\r\n%s" % (
    b"POST" if body else b"GET", b"Content-Length: 100\r\n" if body else b"", body)
response = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024
def serve(stream):
    received = b""
    while True:
        piece = stream.recv(65536)
        if not piece:
            return
        received += piece
        if b"\r\n\r\n" in received and received.endswith(body or b"\r\n\r\n"):
            received = b""
            stream.sendall(response)
listener = socket.create_server(("127.0.0.1", 0))
def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
print(listener.getsockname()[1], flush=True)
client = socket.create_connection(("127.0.0.1", int(sys.stdin.readline())), timeout=60)
for _ in range(count):
    client.sendall(request)
    received = b""
    while not (b"\r\n\r\n" in received and received.endswith(b"x" * 1024)):
        piece = client.recv(65536)
        assert piece, received
        received += piece
    assert received.startswith(b"HTTP/1.1 200"), received
"#;

fn run(kind: &str) {
    let mut peers = Command::new("python3")
        .args(["-c", PEERS, &COUNT.to_string(), kind])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut said = String::new();
    BufReader::new(peers.stdout.take().expect("a pipe")).read_line(&mut said).expect("a port");
    let instance = format!("127.0.0.1:{}", said.trim()).parse().expect("an address");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let running = runtime.block_on(router(table(1, vec![endpoint(1, instance, AppProtocol::Http1)]), NOWHERE, None));
    writeln!(peers.stdin.take().expect("a pipe"), "{}", running.address.port()).expect("told");
    assert!(peers.wait().expect("ended").success());
    println!("{kind}: {COUNT} requests");
}

#[test]
#[ignore = "run by benches/router instructions"]
fn serves_requests_without_a_body() {
    run("get");
}

#[test]
#[ignore = "run by benches/router instructions"]
fn serves_requests_with_a_body() {
    run("post");
}
