//! Requests to instances of another machine, through the routers of both machines.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_model::role::AppProtocol;
use gantry_model::{AllocationId, Endpoint, Generation, MachineAddress, MachineName, Moment, RoutingTable};
use gantry_trust::{CertificateAuthority, Credentials, MachineKey};
use harness::{Member, NOWHERE, RunningRouter, TableServer, app, ask, full, get, router_of, text};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn machine(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    Moment(u64::try_from(since.as_millis()).expect("a time"))
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::generate(now()).expect("an authority")
}

fn credentials(authority: &CertificateAuthority, name: &str) -> Credentials {
    let key = MachineKey::generate().expect("a key");
    let chain = authority.issue(&key.public(), &machine(name), false, now()).expect("a certificate");
    Credentials::new(authority.certificate_pem(), &chain, &key).expect("credentials")
}

/// An endpoint of the machine `on`.
fn endpoint(on: &str, number: u32, address: SocketAddr) -> Endpoint {
    let allocation = AllocationId::parse(&format!("shop.v1.web-{number}")).expect("an id");
    let at = MachineAddress::new(machine(on), Ipv4Addr::LOCALHOST);
    Endpoint { allocation, at, port: address.port(), protocol: AppProtocol::Http1 }
}

/// Two machines, `m` and `far`, with the sockets of their tunnels.
struct Cluster {
    authority: CertificateAuthority,
    tunnels: BTreeMap<&'static str, TcpListener>,
}

impl Cluster {
    fn new() -> Self {
        let socket = || TcpListener::bind("127.0.0.1:0").expect("a port");
        Self { authority: authority(), tunnels: [("m", socket()), ("far", socket())].into() }
    }

    fn table(&self, generation: u64, endpoints: Vec<Endpoint>) -> RoutingTable {
        let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
        let mut table = harness::table(generation, endpoints);
        for (name, listener) in &self.tunnels {
            table.tunnels.set(&machine(name), &[address(listener).parse().expect("an address")]);
        }
        table
    }

    fn member(&self, name: &'static str) -> Member {
        let tunnel = Some(self.tunnels[name].try_clone().expect("a socket"));
        Member { name, tunnel, credentials: Some(credentials(&self.authority, name)) }
    }

    async fn router(&self, name: &'static str, table: RoutingTable) -> RunningRouter {
        router_of(self.member(name), table, NOWHERE).await
    }

    /// Starts both routers with one endpoint on `far`.
    async fn with_one(&self, address: SocketAddr) -> [RunningRouter; 2] {
        let table = self.table(1, vec![endpoint("far", 1, address)]);
        [self.router("m", table.clone()).await, self.router("far", table).await]
    }
}

async fn http2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<harness::Body> {
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
    let answer = ask(entry.address, request).await;
    assert_eq!((answer.status(), answer.headers().contains_key("gantry-tunnel-refused")), (StatusCode::OK, false));
    let body = answer.into_body().collect().await.expect("a body");
    assert_eq!(body.trailers().expect("trailers")["x-checksum"], "7");
    let shown = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    assert!(shown.starts_with("GET /a/b?c=d\n"), "{shown}");
    for said in
        ["\"x-forwarded-for\": \"127.0.0.1\"", "\"x-request-id\": \"known\"", "\"host\": \"shop.localhost\"", "\"te\""]
    {
        assert!(shown.contains(said), "{said} in {shown}");
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
    let answer = ask(entry.address, request).await;
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
    let answer = ask(entry.address, get("/")).await;
    let mut last = usize::MAX;
    while last != sent.load(Ordering::Relaxed) {
        last = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(last < 40 << 20, "{last} bytes without a reader");
    assert_eq!(text(ask(entry.address, get("/small")).await).await, "small");
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
    let asked: Vec<_> = (0..1000).map(|_| tokio::spawn(ask(entry.address, get("/")))).collect();
    for asked in asked {
        assert_eq!(text(asked.await.expect("asked")).await, "all here");
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
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut said).await.expect("read") > 0, "{}", said.escape_ascii());
        }
        let said = String::from_utf8(said).expect("text").to_ascii_lowercase();
        assert!(said.starts_with("http/1.1 101 ") && said.contains(&format!("upgrade: {protocol}")), "{said}");
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
    let answer = ask(entry.address, request).await;
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

async fn names(name: &'static str) -> SocketAddr {
    app(false, move |_| async move { Response::new(full(name)) }).await
}

#[tokio::test]
async fn passes_over_a_machine_whose_router_is_gone_until_it_answers() {
    let cluster = Cluster::new();
    let (near, far) = (names("near").await, names("far").await);
    let table = cluster.table(1, vec![endpoint("m", 1, near), endpoint("far", 2, far)]);
    let entry = cluster.router("m", table.clone()).await;
    let mut peer = cluster.router("far", table.clone()).await;
    let both = async || {
        let begun = Instant::now();
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2 {
            assert!(begun.elapsed() < Duration::from_secs(30), "only {seen:?}");
            // Two at once: of two idle instances, the one on the same machine is chosen.
            let (one, other) = tokio::join!(ask(entry.address, get("/")), ask(entry.address, get("/")));
            for answer in [one, other] {
                assert_eq!(answer.status(), StatusCode::OK);
                seen.insert(text(answer).await);
            }
        }
    };
    both().await;
    peer.stop.take().expect("it runs").send(()).expect("asked");
    peer.ended.await.expect("ended");
    // The socket of the tunnel is open still: a connection is accepted and never answered.
    let begun = Instant::now();
    let asked: Vec<_> = (0..50).map(|_| tokio::spawn(ask(entry.address, get("/")))).collect();
    for asked in asked {
        assert_eq!(text(asked.await.expect("asked")).await, "near");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(text(ask(entry.address, get("/")).await).await, "near");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "no request waits for a machine that is gone: {:?}",
        begun.elapsed()
    );
    let _again = cluster.router("far", table).await;
    both().await;
}

#[tokio::test]
async fn accepts_the_right_certificates_alone() {
    let (near, far) = (names("near").await, names("far").await);
    let endpoints = |cluster: &Cluster| cluster.table(1, vec![endpoint("far", 2, far), endpoint("m", 1, near)]);
    // The reply of requests that reach no router of `far`, two at once so that the near instance is busy.
    let only_near = async |entry: &RunningRouter, why: &str| {
        for _ in 0..10 {
            let (one, other) = tokio::join!(ask(entry.address, get("/")), ask(entry.address, get("/")));
            assert_eq!((text(one).await.as_str(), text(other).await.as_str()), ("near", "near"), "{why}");
        }
    };
    // The other router's certificate is of another authority.
    let cluster = Cluster::new();
    let stranger = Member { credentials: Some(credentials(&authority(), "far")), ..cluster.member("far") };
    let _far = router_of(stranger, endpoints(&cluster), NOWHERE).await;
    only_near(&cluster.router("m", endpoints(&cluster)).await, "another authority").await;
    // The other router's certificate is that of a third machine.
    let cluster = Cluster::new();
    let third = Member { credentials: Some(credentials(&cluster.authority, "third")), ..cluster.member("far") };
    let _far = router_of(third, endpoints(&cluster), NOWHERE).await;
    only_near(&cluster.router("m", endpoints(&cluster)).await, "a third machine").await;
    // The entry router's certificate is of another authority.
    let cluster = Cluster::new();
    let _far = cluster.router("far", endpoints(&cluster)).await;
    let stranger = Member { credentials: Some(credentials(&authority(), "m")), ..cluster.member("m") };
    only_near(&router_of(stranger, endpoints(&cluster), NOWHERE).await, "a stranger").await;
    // The entry router's machine is not one of the table's: it has left the cluster.
    let cluster = Cluster::new();
    let mut without = endpoints(&cluster);
    without.tunnels.set(&machine("m"), &[]);
    let _far = cluster.router("far", without).await;
    only_near(&cluster.router("m", endpoints(&cluster)).await, "a removed machine").await;
}

#[tokio::test]
async fn refuses_an_allocation_that_is_gone_and_loses_no_request() {
    let cluster = Cluster::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
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
                ask(entry.address, request.expect("built"))
            };
            let (one, other) = tokio::join!(request(), request());
            let expected = format!("near {size}");
            assert_eq!((text(one).await, text(other).await), (expected.clone(), expected));
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
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
    let asked = tokio::spawn(ask(entry.address, get("/")));
    server.hears(|report| report["active"]["shop.v1.web-1"] == 1).await;
    // A router that has not yet seen the new table still reaches the allocation, which is drained.
    server.changes(cluster.table(2, Vec::new())).await;
    let late = tokio::spawn(ask(entry.address, get("/late")));
    server.hears(|report| report["active"]["shop.v1.web-1"] == 2).await;
    release.notify_one();
    release.notify_one();
    for asked in [asked, late] {
        tokio::time::timeout(Duration::from_secs(10), async {
            release.notify_one();
            assert_eq!(text(asked.await.expect("asked")).await, "done");
        })
        .await
        .expect("answered");
    }
    server.hears(|report| report["active"].get("shop.v1.web-1").is_none()).await;
    // The address belongs to another allocation now, so the first one is gone.
    server.changes(cluster.table(3, vec![endpoint("far", 2, slow)])).await;
    assert_eq!(ask(entry.address, get("/")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(far);
}

/// Connects to the tunnel of `far` as the router of `m` does.
async fn tunnel(cluster: &Cluster) -> h2::client::SendRequest<Bytes> {
    tunnel_of(cluster, "m").await
}

/// Connects to the router of `far` as a machine does.
async fn tunnel_of(cluster: &Cluster, name: &str) -> h2::client::SendRequest<Bytes> {
    let config = credentials(&cluster.authority, name).client_config(&[b"h2"]).expect("a configuration");
    let stream = TcpStream::connect(cluster.tunnels["far"].local_addr().expect("an address")).await.expect("connected");
    let name = gantry_trust::PeerName::Machine(machine("far")).server_name();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("a handshake");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn joins_tcp_connections_with_a_copy_of_the_named_role_alone() {
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = echo.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let cluster = Cluster::new();
    let mut table = cluster.table(1, Vec::new());
    let role = |name: &str| gantry_model::RoleName::parse(name).expect("a name");
    let at = |on: &str| vec![MachineAddress::new(machine(on), Ipv4Addr::LOCALHOST)];
    let roles = BTreeMap::from([(role("redis"), at("far")), (role("other"), at("m"))]);
    let app = gantry_model::AppName::parse("shop").expect("a name");
    table.names.insert(app, gantry_model::AppNames { roles, ..Default::default() });
    let _far = cluster.router("far", table).await;
    let open = async |service: String| {
        let mut sender = tunnel(&cluster).await.ready().await.expect("ready");
        let request = Request::post("http://tunnel/").header("gantry-tunnel-service", service).body(()).expect("built");
        let (answer, stream) = sender.send_request(request, false).expect("sent");
        (answer.await.expect("an answer"), stream, sender)
    };
    let (answer, mut to, _sender) = open(format!("redis.shop:{port}")).await;
    assert_eq!((answer.status(), answer.headers().len()), (StatusCode::OK, 1));
    to.send_data(Bytes::from_static(b"PING\r\n"), true).expect("sent");
    let mut said = Vec::new();
    let mut body = answer.into_body();
    while let Some(piece) = body.data().await {
        said.extend_from_slice(&piece.expect("a piece"));
    }
    assert_eq!(said, b"PING\r\n", "and the end of both sides");
    // A role without a copy here is refused, and no address of another machine is tried.
    for service in [format!("other.shop:{port}"), format!("ghost.shop:{port}"), "redis.shop:1".to_owned()] {
        let (answer, ..) = open(service.clone()).await;
        assert_eq!(answer.headers()["gantry-tunnel-refused"], "unreachable", "{service}");
    }
}

/// A machine that takes one request, and then neither answers nor closes anything. It says first that it takes no more
/// requests, if it `leaves`.
async fn falls_silent(cluster: &Cluster, leaves: bool) -> tokio::sync::oneshot::Receiver<()> {
    let listener = cluster.tunnels["far"].try_clone().expect("a socket");
    listener.set_nonblocking(true).expect("set");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let config = credentials(&cluster.authority, "far").server_config(&[b"h2"]).expect("a configuration");
    let (silent, fell_silent) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepted");
        let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await.expect("a handshake");
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let request = connection.accept().await.expect("a request").expect("whole");
        if leaves {
            connection.graceful_shutdown();
            // The GOAWAY goes out, and the stream stays open.
            let _ = tokio::time::timeout(Duration::from_millis(200), connection.accept()).await;
        }
        let _ = silent.send(());
        std::future::pending::<()>().await;
        drop((request, connection));
    });
    fell_silent
}

#[tokio::test]
async fn gives_up_a_lost_machine_before_the_pings_do() {
    for (method, status) in [(Method::GET, StatusCode::OK), (Method::POST, StatusCode::BAD_GATEWAY)] {
        let cluster = Cluster::new();
        let silent = falls_silent(&cluster, false).await;
        let near = names("near").await;
        let server = TableServer::default();
        let table = cluster.table(1, vec![endpoint("far", 1, near)]);
        let entry = router_of(cluster.member("m"), table, &server.start().await).await;
        let request = Request::builder().method(method.clone()).uri("/").header("host", "shop.localhost");
        let asked = tokio::spawn(ask(entry.address, request.body(full("")).expect("built")));
        silent.await.expect("silent");
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(1600)).await;
        // The copy runs elsewhere now. A machine that merely left the table would keep its request.
        let mut table = cluster.table(2, vec![endpoint("m", 2, near)]);
        server.changes(table.clone()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!asked.is_finished(), "{method}: the machine may live");
        (table.generation, table.lost) = (Generation(3), [machine("far")].into());
        server.changes(table).await;
        let answer = asked.await.expect("asked");
        assert!(begun.elapsed() < Duration::from_secs(4), "{method}: {:?}", begun.elapsed());
        assert_eq!(answer.status(), status, "{method}");
        let said = text(answer).await;
        let expected = if status == StatusCode::OK { "near" } else { "the machine is lost" };
        assert!(said.contains(expected), "{method}: {said}");
    }
}

#[tokio::test]
async fn the_last_request_of_a_closing_connection_does_not_wait_for_a_silent_machine() {
    let cluster = Cluster::new();
    let silent = falls_silent(&cluster, true).await;
    let near = names("near").await;
    let entry = cluster.router("m", cluster.table(1, vec![endpoint("far", 1, near)])).await;
    let asked = tokio::spawn(ask(entry.address, get("/")));
    silent.await.expect("silent");
    // The connection takes no more requests, so the next one makes a new connection, which is not answered.
    let next = tokio::spawn(ask(entry.address, get("/")));
    let answer = tokio::time::timeout(Duration::from_secs(10), asked).await.expect("given up").expect("asked");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(next.await.expect("asked").status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// Each connection gets its first bytes two seconds late, as on a machine without processor time.
#[tokio::test]
async fn a_router_that_answers_late_gets_requests_again() {
    let cluster = Cluster::new();
    let far = names("far").await;
    let slow = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, tunnel) = (slow.local_addr().expect("an address"), cluster.tunnels["far"].local_addr());
    let tunnel = tunnel.expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = slow.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let mut router = TcpStream::connect(tunnel).await.expect("connected");
                let _ = tokio::io::copy_bidirectional(&mut client, &mut router).await;
            });
        }
    });
    let mut table = cluster.table(1, vec![endpoint("far", 1, far)]);
    let _far = cluster.router("far", table.clone()).await;
    table.tunnels.set(&machine("far"), &[address.to_string().parse().expect("an address")]);
    let entry = cluster.router("m", table).await;
    let begun = Instant::now();
    while ask(entry.address, get("/")).await.status() != StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(30), "the router of far is never reached");
    }
}

/// Asks a router for a layer. Returns the status, the reason of a refusal, and the bytes.
async fn layer(
    tunnel: &mut h2::client::SendRequest<Bytes>,
    digest: &str,
    range: Option<&str>,
) -> (StatusCode, String, Vec<u8>) {
    let mut request = Request::get("http://tunnel/").header("gantry-tunnel-layer", digest);
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let request = request.body(()).expect("a request");
    let (answer, _) = tunnel.send_request(request, true).expect("sent");
    let answer = answer.await.expect("an answer");
    let reason = answer.headers().get("gantry-tunnel-reason").map(|reason| reason.to_str().expect("text").to_owned());
    let (status, mut body) = (answer.status(), answer.into_body());
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.expect("a piece");
        body.flow_control().release_capacity(piece.len()).expect("released");
        bytes.extend_from_slice(&piece);
    }
    (status, reason.unwrap_or_default(), bytes)
}

#[tokio::test]
async fn sends_layers_to_machines_of_the_cluster_alone() {
    let cluster = Cluster::new();
    let far = cluster.router("far", cluster.table(1, Vec::new())).await;
    let layers = far.folder.path().join("layers");
    std::fs::create_dir(&layers).expect("made");
    let content: Vec<u8> = (0..1_500_000_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(layers.join("ab".repeat(32)), &content).expect("written");
    std::os::unix::fs::symlink("/etc/hostname", layers.join("cd".repeat(32))).expect("linked");
    let digest = |byte: &str| format!("sha256:{}", byte.repeat(32));
    let mut tunnel = tunnel(&cluster).await;

    let (status, _, bytes) = layer(&mut tunnel, &digest("ab"), None).await;
    assert!(status == StatusCode::OK && bytes == content, "{status}, {} bytes", bytes.len());
    let (status, _, bytes) = layer(&mut tunnel, &digest("ab"), Some("bytes=1400000-")).await;
    assert!(status == StatusCode::OK && bytes == content[1_400_000..], "{status}, {} bytes", bytes.len());
    let (status, _, bytes) = layer(&mut tunnel, &digest("ab"), Some("bytes=1500000-")).await;
    assert!(status == StatusCode::OK && bytes.is_empty(), "{status}, {} bytes", bytes.len());

    let table = digest("../../table.json");
    let refused = [
        (digest("ef"), None, "cannot read layer efefefefefef"),
        (digest("cd"), None, "cannot read layer cdcdcdcdcdcd"),
        (digest("ab"), Some("bytes=1500001-"), "has 1500000 bytes"),
        (digest("ab"), Some("bytes=-5"), "names no layer"),
        (digest("ab"), Some("bytes=5-9"), "names no layer"),
        ("../table.json".to_owned(), None, "names no layer"),
        (table, None, "names no layer"),
    ];
    for (digest, range, reason) in refused {
        let (status, said, bytes) = layer(&mut tunnel, &digest, range).await;
        assert!(status == StatusCode::MISDIRECTED_REQUEST && said.contains(reason), "{digest}: {status} {said}");
        assert!(bytes.is_empty(), "{digest}");
    }

    // A machine with a certificate that the routing table does not name.
    let mut stranger = tunnel_of(&cluster, "removed").await;
    let (status, said, bytes) = layer(&mut stranger, &digest("ab"), None).await;
    assert!(status == StatusCode::FORBIDDEN && bytes.is_empty(), "{status} {said}");
}

#[tokio::test]
async fn sends_eight_layers_at_once_and_none_to_a_machine_that_reads_nothing() {
    let cluster = Cluster::new();
    let far = cluster.router("far", cluster.table(1, Vec::new())).await;
    let layers = far.folder.path().join("layers");
    std::fs::create_dir(&layers).expect("made");
    std::fs::write(layers.join("ab".repeat(32)), vec![7; 4 << 20]).expect("written");
    let digest = format!("sha256:{}", "ab".repeat(32));
    let mut tunnel = tunnel(&cluster).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        let request = Request::get("http://tunnel/").header("gantry-tunnel-layer", &digest).body(()).expect("one");
        let (answer, _) = tunnel.send_request(request, true).expect("sent");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        unread.push(answer);
    }
    let (status, said, _) = layer(&mut tunnel, &digest, None).await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && said.contains("8 layers are being sent"), "{status} {said}");
    // A machine that gives up makes room.
    unread.clear();
    let begun = Instant::now();
    while layer(&mut tunnel, &digest, None).await.0 != StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(10), "no transfer ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
