//! Lanes: streams between routers that carry many short requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::harness::cluster::{Cluster, credentials, endpoint, machine};
use crate::harness::{app, fetch, full, get, text};

/// Kinds of frames, as in `tunnel::frames`.
const REQUEST: u8 = 0x80;
const CANCEL: u8 = 0x81;
const CREDIT: u8 = 2;
const HEAD: u8 = 4;
const DATA: u8 = 5;

/// Bytes of a frame.
fn frame(kind: u8, exchange: u64, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&[kind][..], &exchange.to_be_bytes(), &length.to_be_bytes(), payload].concat()
}

/// Payload of a request for the allocation of these tests.
fn request(bytes: &str) -> Vec<u8> {
    [&[13][..], b"shop.v1.web-1", bytes.as_bytes()].concat()
}

/// Lane of a router of machine `m` to the router of `far`.
struct TestLane {
    to: h2::SendStream<Bytes>,
    from: h2::RecvStream,
    received: Vec<u8>,
    _sender: h2::client::SendRequest<Bytes>,
}

impl TestLane {
    async fn open(cluster: &Cluster, name: &str) -> Self {
        let config = credentials(&cluster.authority, name).client_config(&[b"h2"]).expect("a configuration");
        let address = cluster.tunnels["far"].local_addr().expect("an address");
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = gantry_trust::PeerName::Machine(machine("far")).server_name();
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("a handshake");
        let mut builder = h2::client::Builder::new();
        let handshake = builder.initial_window_size(8 << 20).initial_connection_window_size(8 << 20);
        let (sender, connection) = handshake.handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut sender = sender.ready().await.expect("ready");
        let open = Request::post("http://tunnel/").header("gantry-tunnel-lane", "1").body(()).expect("built");
        let (response, to) = sender.send_request(open, false).expect("sent");
        let response = response.await.expect("a response");
        assert_eq!(
            (response.status(), &response.headers()["gantry-tunnel-lane"]),
            (StatusCode::OK, &"1".parse().expect("a value"))
        );
        Self { to, from: response.into_body(), received: Vec::new(), _sender: sender }
    }

    fn send(&mut self, kind: u8, exchange: u64, payload: &[u8]) {
        self.to.send_data(frame(kind, exchange, payload).into(), false).expect("sent");
    }

    /// Returns the next frame; none at the end of the lane.
    async fn next(&mut self) -> Option<(u8, u64, Vec<u8>)> {
        loop {
            if let Some((prefix, rest)) = self.received.split_at_checked(13) {
                let length = u32::from_be_bytes(prefix[9..].try_into().expect("four bytes")) as usize;
                if rest.len() >= length {
                    let found = (
                        prefix[0],
                        u64::from_be_bytes(prefix[1..9].try_into().expect("eight bytes")),
                        rest[..length].to_vec(),
                    );
                    self.received.drain(..13 + length);
                    return Some(found);
                }
            }
            let data = self.from.data().await?.ok()?;
            let _ = self.from.flow_control().release_capacity(data.len());
            self.received.extend_from_slice(&data);
        }
    }
}

/// An application that says what it got.
async fn says() -> SocketAddr {
    app(false, async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let said =
            format!("{} {} {} {}", head.method, head.uri, head.headers["x-number"].to_str().expect("text"), body.len());
        match head.uri.path() {
            "/empty" => Response::builder().status(StatusCode::NO_CONTENT).body(full("")).expect("built"),
            "/large" => Response::new(full(vec![b'x'; 1 << 20])),
            "/pieces" => {
                let mut last = HeaderMap::new();
                last.insert("x-checksum", "7".parse().expect("a value"));
                let frames = [Ok(Frame::data(Bytes::from(said))), Ok(Frame::trailers(last))];
                let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
                Response::builder().header("trailer", "x-checksum").body(body).expect("built")
            }
            _ => Response::builder().header("gantry-tunnel-refused", "unknown").body(full(said)).expect("built"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_a_lane_are_answered_as_on_streams() {
    let cluster = Cluster::new();
    let [entry, _far] = cluster.with_one(says().await).await;
    let asked = |number: usize| async move {
        let (method, path, size) = match number % 7 {
            0 => (Method::GET, "/a?b=c", 0),
            1 => (Method::POST, "/small", 1000),
            2 => (Method::PUT, "/streamed", 300_000),
            3 => (Method::GET, "/empty", 0),
            4 => (Method::GET, "/pieces", 0),
            5 => (Method::GET, "/large", 0),
            _ => (Method::HEAD, "/head", 0),
        };
        let request = Request::builder().method(method.clone()).uri(path).header("host", "shop.localhost");
        let request = request.header("x-number", number).header("te", "trailers").header("gantry-tunnel-x", "1");
        // A request with a field of the routers' own has a stream of its own.
        let mut request = request.body(full(vec![1; size])).expect("built");
        if number.is_multiple_of(2) {
            request.headers_mut().remove("gantry-tunnel-x");
        }
        let response = fetch(entry.address, request).await;
        let (status, headers) = (response.status(), response.headers().clone());
        assert!(!headers.contains_key("gantry-tunnel-refused"), "{path}");
        let body = response.into_body().collect().await.expect("a body");
        let trailers = body.trailers().cloned();
        let body = body.to_bytes();
        match path {
            "/empty" => assert_eq!((status, body.len()), (StatusCode::NO_CONTENT, 0)),
            "/large" => assert_eq!((status, body.len()), (StatusCode::OK, 1 << 20)),
            "/head" => {
                assert_eq!((status, body.len(), headers.contains_key("content-length")), (StatusCode::OK, 0, true))
            }
            _ => {
                assert_eq!((status, body), (StatusCode::OK, Bytes::from(format!("{method} {path} {number} {size}"))));
                assert_eq!(trailers.is_some(), path == "/pieces");
            }
        }
    };
    for number in 0..30 {
        asked(number).await;
    }
    futures_util::future::join_all((0..400).map(asked)).await;
}

#[tokio::test]
async fn a_lane_carries_requests_for_allocations_of_its_machine_alone() {
    let cluster = Cluster::new();
    let table = cluster.table(1, vec![endpoint("far", 1, says().await), endpoint("m", 2, says().await)]);
    let _far = cluster.router("far", table).await;
    let mut lane = TestLane::open(&cluster, "m").await;
    let get = "GET /a HTTP/1.1\r\nhost: shop.localhost\r\nx-number: 5\r\n\r\n";
    lane.send(REQUEST, 7, &request(get));
    let (kind, exchange, head) = lane.next().await.expect("a frame");
    assert_eq!((kind, exchange), (HEAD, 7));
    assert!(head.starts_with(b"HTTP/1.1 200 ") && !head.escape_ascii().to_string().contains("gantry-tunnel"));
    assert_eq!(lane.next().await.expect("a frame"), (DATA | 0x80, 7, b"GET /a 5 0".to_vec()));
    // An allocation of a third machine, and one that is gone.
    for name in ["shop.v1.web-2", "shop.v1.web-9"] {
        lane.send(REQUEST, 8, &[&[13][..], name.as_bytes(), get.as_bytes()].concat());
        let (kind, exchange, head) = lane.next().await.expect("a frame");
        assert_eq!((kind, exchange), (HEAD | 0x80, 8));
        assert!(head.starts_with(b"HTTP/1.1 421 ") && head.escape_ascii().to_string().contains("refused: unknown"));
    }
    // A machine that the routing table does not name.
    let mut stranger = TestLane::open(&cluster, "removed").await;
    stranger.send(REQUEST, 1, &request(get));
    let (kind, _, head) = stranger.next().await.expect("a frame");
    assert!(kind == HEAD | 0x80 && head.starts_with(b"HTTP/1.1 403 "), "{}", head.escape_ascii());
}

/// An application that counts its requests.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let address = app(false, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Response::new(full("asked")) }
    })
    .await;
    (address, asked)
}

#[tokio::test]
async fn a_malformed_request_is_refused_alone_and_reaches_no_instance() {
    let (address, asked) = counting().await;
    let cluster = Cluster::new();
    let _far = cluster.router("far", cluster.table(1, vec![endpoint("far", 1, address)])).await;
    let mut lane = TestLane::open(&cluster, "m").await;
    let bad = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nGET",
        "POST / HTTP/1.1\r\nhost: a\r\nx: b\ncontent-length: 3\r\n\r\nGET",
        "GET / HTTP/1.1\r\nhost: a\r\n",
        "",
    ];
    for (exchange, bytes) in (1..).zip(bad) {
        lane.send(REQUEST, exchange, &request(bytes));
        let (kind, of, head) = lane.next().await.expect("a frame");
        assert_eq!((kind, of), (HEAD | 0x80, exchange), "{bytes}");
        assert!(head.starts_with(b"HTTP/1.1 502 ") && head.escape_ascii().to_string().contains("refused: broken"));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    lane.send(REQUEST, 9, &request("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
    let (kind, exchange, head) = lane.next().await.expect("a frame");
    assert!((kind, exchange) == (HEAD, 9) && head.starts_with(b"HTTP/1.1 200 "), "{}", head.escape_ascii());
}

#[tokio::test]
async fn a_malformed_frame_ends_its_lane() {
    let (address, asked) = counting().await;
    let cluster = Cluster::new();
    let _far = cluster.router("far", cluster.table(1, vec![endpoint("far", 1, address)])).await;
    let frames = [
        frame(0x7f, 1, b""),
        frame(DATA, 1, b"of a response"),
        frame(CREDIT, 1, b"123"),
        [&[REQUEST][..], &[0; 8], &[0xff; 4]].concat(),
    ];
    for bytes in frames {
        let mut lane = TestLane::open(&cluster, "m").await;
        lane.to.send_data(bytes.clone().into(), false).expect("sent");
        assert_eq!(lane.next().await, None, "{}", bytes.escape_ascii());
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    // A second request of one number, while the first one is under way.
    let mut lane = TestLane::open(&cluster, "m").await;
    let get = frame(REQUEST, 1, &request("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
    lane.to.send_data([&get[..], &get[..]].concat().into(), false).expect("sent");
    assert_eq!(lane.next().await, None);
}

/// Guard of a response that is being sent.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn begin(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn an_exchange_waits_for_credit_and_ends_when_it_is_cancelled() {
    let running = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&running);
    let address = app(false, move |request: Request<Incoming>| {
        let counter = Arc::clone(&counter);
        async move {
            if request.uri().path() == "/short" {
                return Response::new(full("short"));
            }
            let running = Running::begin(counter);
            let piece = Bytes::from(vec![7; 64 << 10]);
            let pieces = (0..1600).map(move |_| {
                let _ = &running;
                Ok(Frame::data(piece.clone()))
            });
            Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces))))
        }
    })
    .await;
    let cluster = Cluster::new();
    let _far = cluster.router("far", cluster.table(1, vec![endpoint("far", 1, address)])).await;
    let mut lane = TestLane::open(&cluster, "m").await;
    let get = |path: &str| request(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
    lane.send(REQUEST, 1, &get("/"));
    let mut read = 0;
    assert_eq!(lane.next().await.expect("a frame").0, HEAD);
    while read < 256 << 10 {
        let (kind, _, data) = lane.next().await.expect("a frame");
        assert_eq!(kind, DATA);
        read += data.len();
    }
    assert_eq!(read, 256 << 10, "no byte beyond the credit");
    // Others go on meanwhile.
    lane.send(REQUEST, 2, &get("/short"));
    assert_eq!(lane.next().await.map(|(kind, exchange, _)| (kind, exchange)), Some((HEAD, 2)));
    assert_eq!(lane.next().await, Some((DATA | 0x80, 2, b"short".to_vec())));
    lane.send(CREDIT, 1, &1000_u32.to_be_bytes());
    let mut more = 0;
    while more < 1000 {
        let (kind, exchange, data) = lane.next().await.expect("a frame");
        assert_eq!((kind, exchange), (DATA, 1));
        more += data.len();
    }
    assert_eq!(more, 1000);
    lane.send(CANCEL, 1, b"");
    // The instance's connection closes, so that its response is dropped.
    let begun = Instant::now();
    while running.load(Ordering::Relaxed) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the instance still responds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lane.send(REQUEST, 3, &get("/short"));
    assert_eq!(lane.next().await.map(|(kind, exchange, _)| (kind, exchange)), Some((HEAD, 3)));
}

#[tokio::test]
async fn a_router_that_shuts_down_ends_its_lanes_after_their_requests() {
    let release = Arc::new(tokio::sync::Notify::new());
    let (wait, asked) = (Arc::clone(&release), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&asked);
    let address = app(false, move |_| {
        let wait = Arc::clone(&wait);
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            wait.notified().await;
            Response::new(full("done"))
        }
    })
    .await;
    let cluster = Cluster::new();
    let mut far = cluster.router("far", cluster.table(1, vec![endpoint("far", 1, address)])).await;
    let mut lane = TestLane::open(&cluster, "m").await;
    let get = request("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    lane.send(REQUEST, 1, &get);
    while asked.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    far.stop.take().expect("it runs").send(()).expect("asked");
    assert_eq!(lane.next().await, Some((8, 0, Vec::new())), "it leaves");
    // The other router may have sent this request before it knew.
    lane.send(REQUEST, 2, &get);
    lane.to.send_data(Bytes::new(), true).expect("sent");
    while asked.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    release.notify_waiters();
    let mut done = Vec::new();
    while let Some((kind, exchange, _)) = lane.next().await {
        if kind == DATA | 0x80 {
            done.push(exchange);
        }
    }
    done.sort_unstable();
    assert_eq!(done, [1, 2]);
    far.ended.await.expect("ended");
}

/// Passes each connection to the tunnel of `far` on, with every byte delayed in both directions.
async fn far_away(cluster: &Cluster) -> SocketAddr {
    async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (sender, mut delayed) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((due, bytes)) = delayed.recv().await {
                tokio::time::sleep_until(due).await;
                let bytes: Vec<u8> = bytes;
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let due = tokio::time::Instant::now() + Duration::from_millis(10);
            if sender.send((due, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    }
    let tunnel = cluster.tunnels["far"].local_addr().expect("an address");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(tunnel).await.expect("connected");
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::spawn(copy(from_near, to_far));
            tokio::spawn(copy(from_far, to_near));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_a_long_way_are_answered_on_several_lanes() {
    let cluster = Cluster::new();
    let mut table = cluster.table(1, vec![endpoint("far", 1, says().await)]);
    let _far = cluster.router("far", table.clone()).await;
    table.tunnels.set(&machine("far"), &[far_away(&cluster).await.to_string().parse().expect("an address")]);
    let entry = cluster.router("m", table).await;
    let asked = |number: usize| async move {
        let path = if number.is_multiple_of(2) { "/large" } else { "/small" };
        let mut request = get(path);
        request.headers_mut().insert("x-number", number.into());
        let response = fetch(entry.address, request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let length = response.into_body().collect().await.expect("a body").to_bytes().len();
        assert!(length == 1 << 20 || path == "/small", "{length}");
    };
    for round in 0..3 {
        futures_util::future::join_all((0..24).map(|number| asked(round * 24 + number))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_nothing_delay_no_other() {
    let address = app(false, async |request: Request<Incoming>| {
        if request.uri().path() == "/short" {
            return Response::new(full("short"));
        }
        let piece = Bytes::from(vec![7; 64 << 10]);
        let pieces = (0..160).map(move |_| Ok(Frame::data(piece.clone())));
        Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces))))
    })
    .await;
    let cluster = Cluster::new();
    let [entry, _far] = cluster.with_one(address).await;
    let short = async || assert_eq!(text(fetch(entry.address, get("/short")).await).await, "short");
    // The lane opens after the first response.
    for _ in 0..20 {
        short().await;
    }
    let unread = futures_util::future::join_all((0..40).map(|_| fetch(entry.address, get("/")))).await;
    for _ in 0..50 {
        tokio::time::timeout(Duration::from_secs(10), short()).await.expect("no wait for the other clients");
    }
    for response in unread {
        assert_eq!(response.into_body().collect().await.expect("a body").to_bytes().len(), 160 * (64 << 10));
    }
}

/// Serves the tunnels of `far` in place of a router. `answer` gets each stream.
fn in_place_of_far(
    cluster: &Cluster,
    answer: impl Fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) + Clone + Send + 'static,
) {
    let listener = cluster.tunnels["far"].try_clone().expect("a socket");
    listener.set_nonblocking(true).expect("set");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let config = credentials(&cluster.authority, "far").server_config(&[b"h2"]).expect("a configuration");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream =
                tokio_rustls::TlsAcceptor::from(Arc::clone(&config)).accept(stream).await.expect("a handshake");
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                while let Some(Ok((request, respond))) = connection.accept().await {
                    answer(request, respond);
                }
            });
        }
    });
}

/// Refuses a lane as the router of the first version does.
fn refuse_lane(mut respond: h2::server::SendResponse<Bytes>) {
    let refusal = Response::builder().status(502).header("gantry-tunnel-refused", "broken").body(()).expect("built");
    respond.send_response(refusal, true).expect("sent");
}

/// Answers a request on a stream.
fn answer_stream(mut respond: h2::server::SendResponse<Bytes>, text: &'static str) {
    let mut body = respond.send_response(Response::new(()), false).expect("sent");
    body.send_data(Bytes::from_static(text.as_bytes()), true).expect("sent");
}

fn is_lane(request: &Request<h2::RecvStream>) -> bool {
    request.headers().contains_key("gantry-tunnel-lane")
}

#[tokio::test]
async fn the_requests_of_a_broken_lane_are_repeated_if_that_is_harmless() {
    for method in [Method::GET, Method::POST] {
        let cluster = Cluster::new();
        let (lanes, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (Arc::clone(&lanes), Arc::clone(&broken));
        in_place_of_far(&cluster, move |request, mut respond| {
            let (lanes, broken) = counters.clone();
            if !is_lane(&request) {
                return answer_stream(respond, "on a stream");
            }
            if lanes.fetch_add(1, Ordering::Relaxed) > 0 {
                return refuse_lane(respond);
            }
            // A lane that breaks at its first request.
            let opened = Response::builder().header("gantry-tunnel-lane", "1").body(()).expect("built");
            let mut to = respond.send_response(opened, false).expect("sent");
            tokio::spawn(async move {
                request.into_body().data().await.expect("a request").expect("whole");
                broken.fetch_add(1, Ordering::Relaxed);
                to.send_reset(h2::Reason::INTERNAL_ERROR);
            });
        });
        let nowhere = "127.0.0.1:1".parse().expect("an address");
        let entry = cluster.router("m", cluster.table(1, vec![endpoint("far", 1, nowhere)])).await;
        let begun = Instant::now();
        let mut response = StatusCode::OK;
        while broken.load(Ordering::Relaxed) == 0 {
            assert!(response == StatusCode::OK && begun.elapsed() < Duration::from_secs(20), "{method}: {response}");
            let request = Request::builder().method(method.clone()).uri("/").header("host", "shop.localhost");
            response = fetch(entry.address, request.body(full("")).expect("built")).await.status();
        }
        let expected = if method == Method::GET { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
        assert_eq!(response, expected, "{method}");
    }
}

#[tokio::test]
async fn a_connection_over_a_long_way_opens_several_lanes() {
    let cluster = Cluster::new();
    let lanes = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&lanes);
    in_place_of_far(&cluster, move |request, respond| {
        if is_lane(&request) {
            counter.fetch_add(1, Ordering::Relaxed);
            refuse_lane(respond);
        } else {
            answer_stream(respond, "far");
        }
    });
    let nowhere = "127.0.0.1:1".parse().expect("an address");
    let mut table = cluster.table(1, vec![endpoint("far", 1, nowhere)]);
    table.tunnels.set(&machine("far"), &[far_away(&cluster).await.to_string().parse().expect("an address")]);
    let entry = cluster.router("m", table).await;
    assert_eq!(text(fetch(entry.address, get("/")).await).await, "far");
    // Both directions take 10 ms each.
    let begun = Instant::now();
    while lanes.load(Ordering::Relaxed) < 10 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{lanes:?} lanes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_router_without_lanes_gets_each_request_on_a_stream() {
    let cluster = Cluster::new();
    let refused = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&refused);
    in_place_of_far(&cluster, move |request, respond| {
        if is_lane(&request) {
            counter.fetch_add(1, Ordering::Relaxed);
            refuse_lane(respond);
        } else {
            answer_stream(respond, "first version");
        }
    });
    let nowhere = "127.0.0.1:1".parse().expect("an address");
    let entry = cluster.router("m", cluster.table(1, vec![endpoint("far", 1, nowhere)])).await;
    let begun = Instant::now();
    let mut answered = 0;
    while answered < 20 || refused.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no lane was tried");
        assert_eq!(text(fetch(entry.address, get("/")).await).await, "first version");
        answered += 1;
    }
}
