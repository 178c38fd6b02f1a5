//! Trusted proxies in front of the router, and error responses for apps that serve no request.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gantry_model::role::AppProtocol;
use gantry_model::{AppName, ClosedReason, ClosedRoute, HostName, RoutingTable, TrustedProxies};
use harness::{NOWHERE, TableServer, app, endpoint, fetch, full, get, router, table, text};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An application that shows where a request came from.
async fn shows_origin() -> SocketAddr {
    app(false, async |request: Request<Incoming>| {
        let shown =
            ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-real-ip"].map(|name| {
                let values = request.headers().get_all(name).iter();
                values.map(|value| value.to_str().unwrap_or("?")).collect::<Vec<_>>().join("+")
            });
        Response::new(full(shown.join(" | ")))
    })
    .await
}

fn trusting(address: SocketAddr, cluster: &[&str], own: &[&str]) -> RoutingTable {
    let list =
        |ranges: &[&str]| TrustedProxies::new(ranges.iter().map(|range| range.parse().expect("a range")).collect());
    let mut table = table(1, vec![endpoint(1, address, AppProtocol::Http1)]);
    table.trusted_proxies = list(cluster);
    table.routes.values_mut().for_each(|route| route.traffic.trusted_proxies = list(own));
    table
}

const FORWARDED_HEADERS: [(&str, &str); 5] = [
    ("x-forwarded-for", "203.0.113.9"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "shop.example"),
    ("forwarded", "for=203.0.113.9;proto=https"),
    ("x-real-ip", "203.0.113.9"),
];
const BELIEVED: &str =
    "203.0.113.9, 127.0.0.1 | https | shop.example | for=203.0.113.9;proto=https, for=127.0.0.1 | 203.0.113.9";
const REPLACED: &str = "127.0.0.1 | http | shop.localhost |  | ";

fn request() -> Request<harness::Body> {
    let mut request = get("/");
    for (name, value) in FORWARDED_HEADERS {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    request
}

#[tokio::test]
async fn one_socket_serves_clients_of_both_ip_versions() {
    let app = shows_origin().await;
    let socket = std::net::TcpListener::bind("[::]:0").expect("a socket for both");
    let port = socket.local_addr().expect("an address").port();
    let running = harness::router_at(socket, table(1, vec![endpoint(1, app, AppProtocol::Http1)])).await;
    for client in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(client.parse().expect("an address"), port);
        let shown = text(fetch(address, get("/")).await).await;
        assert!(shown.starts_with(&format!("{client} | http | ")), "{shown}");
    }
    drop(running);
}

#[tokio::test]
async fn believes_forwarding_headers_of_trusted_proxies_only() {
    let app = shows_origin().await;
    for (cluster, own, expected) in [
        (&[][..], &[][..], REPLACED),
        (&["10.0.0.0/8"], &["192.0.2.1", "::1"], REPLACED),
        (&["127.0.0.0/8"], &[], BELIEVED),
        (&[], &["127.0.0.1"], BELIEVED),
    ] {
        let running = router(trusting(app, cluster, own), NOWHERE, None).await;
        assert_eq!(text(fetch(running.address, request()).await).await, expected, "{cluster:?} {own:?}");
        let log = running.folder.path().join("access.log");
        let peer = if expected == BELIEVED { "203.0.113.9" } else { "127.0.0.1" };
        let begun = Instant::now();
        while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&format!("\"peer\":\"{peer}\""))) {
            assert!(begun.elapsed() < Duration::from_secs(20), "the access log does not name {peer}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The response to a request with `preamble` before it, sent in pieces.
async fn raw(address: SocketAddr, preamble: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("set");
    for piece in preamble {
        stream.write_all(piece).await.expect("sent");
        stream.flush().await.expect("sent");
        tokio::task::yield_now().await;
    }
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.localhost\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn reads_the_proxy_protocol_of_a_trusted_proxy() {
    let app = shows_origin().await;
    let running = router(trusting(app, &["127.0.0.1"], &[]), NOWHERE, None).await;
    let line: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n";
    let binary = [b"\r\n\r\n\0\r\nQUIT\n", &[0x21, 0x11, 0, 12, 203, 0, 113, 9, 10, 0, 0, 1, 1, 2, 3, 4][..]].concat();
    for pieces in [vec![line], vec![&line[..3], &line[3..20], &line[20..]], vec![&binary[..]]] {
        let answer = raw(running.address, &pieces).await;
        assert!(answer.ends_with("203.0.113.9 | http | shop.localhost |  | "), "{answer}");
    }
    let answer = raw(running.address, &[]).await;
    assert!(answer.ends_with(REPLACED), "a proxy without a preamble: {answer}");
    assert_eq!(raw(running.address, &[b"PROXY TCP4 nonsense\r\n"]).await, "", "the connection is closed");
}

#[tokio::test]
async fn refuses_the_proxy_protocol_of_other_clients() {
    let app = shows_origin().await;
    // The router does not know an app's own proxies before the request.
    let running = router(trusting(app, &["192.0.2.1"], &["127.0.0.1"]), NOWHERE, None).await;
    let answer = raw(running.address, &[b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n"]).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn writes_ipv4_clients_of_ipv6_sockets_as_ipv4() {
    let app = shows_origin().await;
    for (bound, client, expected) in [("[::]:0", "127.0.0.1", "127.0.0.1 |"), ("[::1]:0", "::1", "::1 |")] {
        let listener = std::net::TcpListener::bind(bound).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let running = harness::router_at(listener, trusting(app, &[], &[])).await;
        let address = SocketAddr::new(client.parse().expect("an address"), port);
        let answer = text(fetch(address, get("/")).await).await;
        assert!(answer.starts_with(expected), "{answer}");
        drop(running);
    }
}

#[tokio::test]
async fn refuses_requests_to_a_closed_app_at_once() {
    let live = app(false, async |_| Response::new(full("live"))).await;
    let server = TableServer::default();
    let open = table(1, vec![endpoint(1, live, AppProtocol::Http1)]);
    let running = router(open.clone(), &server.start().await, None).await;
    for (generation, reason, status, message) in [
        (2, ClosedReason::ScaledToZero, StatusCode::SERVICE_UNAVAILABLE, "503 shop is scaled to 0\n"),
        (3, ClosedReason::NoRelease, StatusCode::SERVICE_UNAVAILABLE, "503 shop has no release yet\n"),
        (4, ClosedReason::NoWebRole, StatusCode::NOT_FOUND, "404 shop has no web role\n"),
    ] {
        let mut closed = table(generation, Vec::new());
        let shop = ClosedRoute { app: AppName::parse("shop").expect("a name"), reason };
        closed.closed.insert(HostName::parse("shop.localhost").expect("a host"), shop);
        closed.routes.clear();
        server.publish_and_wait(closed).await;
        let answer = fetch(running.address, get("/")).await;
        assert_eq!(answer.status(), status);
        assert_eq!(text(answer).await, message);
    }
    // A waiting request gets its response as soon as the app is closed.
    let mut waits = table(5, Vec::new());
    server.publish_and_wait(waits.clone()).await;
    let waiting = tokio::spawn(fetch(running.address, get("/")));
    server.wait_for_report(|report| report["counts"]["shop"]["waiting"] == 1).await;
    let route = waits.routes.pop_first().expect("a route");
    waits.closed.insert(route.0, ClosedRoute { app: route.1.app, reason: ClosedReason::ScaledToZero });
    waits.generation = gantry_model::Generation(6);
    server.publish_and_wait(waits).await;
    assert_eq!(text(waiting.await.expect("an answer")).await, "503 shop is scaled to 0\n");
    server.publish_and_wait(RoutingTable { generation: gantry_model::Generation(7), ..open }).await;
    assert_eq!(text(fetch(running.address, get("/")).await).await, "live");
}
