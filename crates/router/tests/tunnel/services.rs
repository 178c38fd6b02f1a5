//! Services of a router for the other machine: TCP to a role, and layers for its agent.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_model::MachineAddress;
use http::{Request, StatusCode};
use tokio::net::TcpStream;

use crate::harness::cluster::{Cluster, credentials, machine};

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
    let mut received = Vec::new();
    let mut body = answer.into_body();
    while let Some(piece) = body.data().await {
        received.extend_from_slice(&piece.expect("a piece"));
    }
    assert_eq!(received, b"PING\r\n", "and the end of both sides");
    // A role without a copy here is refused, and no address of another machine is tried.
    for service in [format!("other.shop:{port}"), format!("ghost.shop:{port}"), "redis.shop:1".to_owned()] {
        let (answer, ..) = open(service.clone()).await;
        assert_eq!(answer.headers()["gantry-tunnel-refused"], "unreachable", "{service}");
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
        let (status, response, bytes) = layer(&mut tunnel, &digest, range).await;
        assert!(
            status == StatusCode::MISDIRECTED_REQUEST && response.contains(reason),
            "{digest}: {status} {response}"
        );
        assert!(bytes.is_empty(), "{digest}");
    }

    // A machine with a certificate that the routing table does not name.
    let mut stranger = tunnel_of(&cluster, "removed").await;
    let (status, response, bytes) = layer(&mut stranger, &digest("ab"), None).await;
    assert!(status == StatusCode::FORBIDDEN && bytes.is_empty(), "{status} {response}");
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
    let (status, response, _) = layer(&mut tunnel, &digest, None).await;
    assert!(
        status == StatusCode::SERVICE_UNAVAILABLE && response.contains("8 layers are being sent"),
        "{status} {response}"
    );
    // A machine that gives up makes room.
    unread.clear();
    let begun = Instant::now();
    while layer(&mut tunnel, &digest, None).await.0 != StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(10), "no transfer ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
