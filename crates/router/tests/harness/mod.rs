//! Test cluster: a running router, applications behind the router, and a server with tables for the router.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]
#![allow(dead_code)] // Each test program uses only a part of this module.

pub(crate) mod cluster;
pub(crate) mod frames;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gantry_api::Client;
use gantry_control::version::SUPPORTED_VERSIONS;
use gantry_control::{
    LinkStream, PeerMessage, Receipt, RouterReport, ServerMessage, UpdateReceiver, UpdateSender, Welcome, link,
};
use gantry_fixtures::control_server;
use gantry_model::role::AppProtocol;
use gantry_model::{
    AllocationId, AppName, Endpoint, Generation, HostName, MachineAddress, MachineName, ReleaseNumber, RequestTimeouts,
    Route, RoutingTable, TrafficPolicy,
};
use gantry_router::{Listeners, RouterSettings};
use gantry_trust::Credentials;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

pub(crate) type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// Starts an application on its own port.
pub(crate) async fn app<F>(h2: bool, answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answering = answer(request);
                async move { Ok::<_, Infallible>(answering.await) }
            });
            tokio::spawn(async move {
                let stream = TokioIo::new(stream);
                if h2 {
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(stream, service).await;
                } else {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = builder.serve_connection(stream, service).with_upgrades().await;
                }
            });
        }
    });
    address
}

pub(crate) fn endpoint(number: u32, address: SocketAddr, protocol: AppProtocol) -> Endpoint {
    Endpoint {
        allocation: AllocationId::parse(&format!("shop.v1.web-{number}")).expect("an id"),
        at: MachineAddress::new(MachineName::parse("m").expect("a name"), Ipv4Addr::LOCALHOST),
        port: address.port(),
        protocol,
    }
}

pub(crate) fn table(generation: u64, endpoints: Vec<Endpoint>) -> RoutingTable {
    let app = AppName::parse("shop").expect("a name");
    let (traffic, timeouts) = (TrafficPolicy::default(), RequestTimeouts::default());
    let route = Route { app, release: ReleaseNumber(1), held: false, endpoints, traffic, timeouts };
    let host = HostName::parse("shop.localhost").expect("a host");
    RoutingTable {
        generation: Generation(generation),
        routes: BTreeMap::from([(host, route)]),
        ..RoutingTable::default()
    }
}

/// A running router.
pub(crate) struct RunningRouter {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) ended: tokio::task::JoinHandle<()>,
}

pub(crate) async fn router(
    table: RoutingTable,
    server: &str,
    https: Option<(std::net::TcpListener, PathBuf, PathBuf)>,
) -> RunningRouter {
    router_that_waits(Duration::from_millis(600), table, server, https).await
}

/// Starts a router whose requests wait up to `wait` for an instance.
pub(crate) async fn router_that_waits(
    wait: Duration,
    table: RoutingTable,
    server: &str,
    https: Option<(std::net::TcpListener, PathBuf, PathBuf)>,
) -> RunningRouter {
    let plain = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    start(Member::default(), wait, table, server, plain, https).await
}

/// Starts a router on the given listener.
pub(crate) async fn router_at(plain: std::net::TcpListener, table: RoutingTable) -> RunningRouter {
    start(Member::default(), Duration::from_millis(600), table, NOWHERE, plain, None).await
}

/// The machine of a router.
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) tunnel: Option<std::net::TcpListener>,
    pub(crate) credentials: Option<Credentials>,
}

impl Default for Member {
    fn default() -> Self {
        Self { name: "m", tunnel: None, credentials: None }
    }
}

/// Starts the router of a machine of a cluster.
pub(crate) async fn router_of(member: Member, table: RoutingTable, server: &str) -> RunningRouter {
    let plain = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    start(member, Duration::from_secs(2), table, server, plain, None).await
}

async fn start(
    member: Member,
    wait: Duration,
    table: RoutingTable,
    server: &str,
    plain: std::net::TcpListener,
    https: Option<(std::net::TcpListener, PathBuf, PathBuf)>,
) -> RunningRouter {
    let (secure, certificate) = https.map(|(listener, chain, key)| (listener, (chain, key))).unzip();
    let folder = tempfile::tempdir().expect("a folder");
    let text = serde_json::to_vec(&table).expect("JSON");
    std::fs::write(folder.path().join("table.json"), text).expect("written");
    let settings = RouterSettings {
        machine: MachineName::parse(member.name).expect("a name"),
        number: 7,
        data: folder.path().to_owned(),
        layers: folder.path().join("layers"),
        resolver: None,
        credentials: member.credentials,
        certificate,
        wait,
        drain: Duration::from_secs(5),
    };
    let address = plain.local_addr().expect("an address");
    let listeners = Listeners { plain, secure, tunnel: member.tunnel };
    let client = Client::new(server, "token");
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        gantry_router::run(settings, listeners, client, || (), shutdown).await.expect("it runs");
    });
    RunningRouter { folder, address, stop: Some(stop), ended }
}

pub(crate) const NOWHERE: &str = "http://127.0.0.1:1";

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "shop.localhost").body(full("")).expect("a request")
}

pub(crate) async fn fetch(address: SocketAddr, request: Request<Body>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.expect("an answer")
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A server that gives the router a table, and receives the router's reports.
#[derive(Clone, Default)]
pub(crate) struct TableServer {
    news: Arc<watch::Sender<Option<RoutingTable>>>,
    /// The last report.
    last_report: Arc<Mutex<Option<serde_json::Value>>>,
}

impl TableServer {
    pub(crate) async fn start(&self) -> String {
        let server = self.clone();
        control_server(move |stream| server.clone().serve(stream)).await
    }

    async fn serve(self, mut stream: LinkStream) {
        let hello = link::receive_hello(&mut stream).await.expect("a greeting");
        let version = SUPPORTED_VERSIONS.agree(hello.versions).expect("a version");
        let welcome = Welcome { version, lease_millis: 10_000 };
        stream.sender.send(&ServerMessage::Welcome(welcome)).await.expect("sent");
        let mut tables = UpdateSender::new(hello.revision);
        let mut reports = UpdateReceiver::<RouterReport>::new(None);
        let mut news = self.news.subscribe();
        loop {
            let table = news.borrow_and_update().clone();
            if let Some(update) = table.and_then(|table| tables.next(table.generation.0, &table))
                && stream.sender.send(&ServerMessage::Update(update)).await.is_err()
            {
                return;
            }
            tokio::select! {
                _ = news.changed() => {}
                message = stream.receiver.next() => match message {
                    Ok(Some(PeerMessage::Update(update))) => {
                        assert_eq!(reports.receive(&update), Receipt::Applied(Vec::new()));
                        self.record_report(reports.part().expect("a report"), false);
                    }
                    Ok(Some(PeerMessage::Leaving)) => {
                        self.record_report(&reports.part().cloned().unwrap_or_default(), true);
                        return;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                },
            }
        }
    }

    fn record_report(&self, report: &RouterReport, gone: bool) {
        let RouterReport { generation, active, counts, failures, .. } = report;
        let report = serde_json::json!({
            "gone": gone, "generation": generation, "active": active, "counts": counts, "failures": failures,
        });
        *self.last_report.lock().expect("heard") = Some(report);
    }

    /// Generation of the table that the router follows, by its last report.
    pub(crate) fn followed(&self) -> u64 {
        let last_report = self.last_report.lock().expect("heard");
        last_report.as_ref().and_then(|report| report["generation"].as_u64()).unwrap_or_default()
    }

    pub(crate) fn publish(&self, table: RoutingTable) {
        self.news.send_replace(Some(table));
    }

    /// Waits until the last report of the router satisfies `condition`.
    pub(crate) async fn wait_for_report(&self, condition: impl Fn(&serde_json::Value) -> bool) {
        let begun = std::time::Instant::now();
        while !self.last_report.lock().expect("heard").as_ref().is_some_and(&condition) {
            let last = || self.last_report.lock().expect("heard").clone();
            assert!(begun.elapsed() < Duration::from_secs(60), "the router last said {:?}", last());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Gives the router a table, and waits until the router follows the table.
    pub(crate) async fn publish_and_wait(&self, table: RoutingTable) {
        let generation = table.generation.0;
        self.publish(table);
        self.wait_for_report(|report| report["generation"] == generation).await;
    }
}

/// Returns the resident memory of this process in bytes.
pub(crate) fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("read");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn is_long() -> bool {
    std::env::var_os("GANTRY_TEST_LONG").is_some()
}

/// The time within which 99 of 100 requests of one client end: the median of five rounds, because the machine's other
/// load varies. The response to each request ends with "ok".
pub(crate) async fn usual_p99(router: SocketAddr) -> Duration {
    let mut rounds = Vec::new();
    for _ in 0..5 {
        rounds.push(p99(router, if is_long() { 5000 } else { 100 }).await);
    }
    rounds.sort();
    rounds[2]
}

async fn p99(router: SocketAddr, requests: usize) -> Duration {
    let mut times = Vec::new();
    let mut stream = TcpStream::connect(router).await.expect("connected");
    for _ in 0..requests {
        let begun = std::time::Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.localhost\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            assert!(stream.read_buf(&mut answer).await.expect("an answer") > 0, "it was cut");
        }
        times.push(begun.elapsed());
    }
    times.sort();
    times[times.len() * 99 / 100]
}

/// Maximum of [`usual_p99`] beside slow clients: twice the time alone. The short form runs unoptimized, beside other
/// tests and with few requests. It can only show that no client is blocked.
pub(crate) fn beside_max(alone: Duration) -> Duration {
    if is_long() { alone * 2 } else { alone * 10 + Duration::from_millis(50) }
}
