//! A routing table that changes constantly under load.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_model::role::AppProtocol;
use harness::{TableServer, app, endpoint, full, get, router, table};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// Runs for a second by default, and for a minute on request.
#[tokio::test(flavor = "multi_thread")]
async fn loses_no_request_in_a_thousand_table_changes() {
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    // The short form runs unoptimized, in parallel with other tests.
    let (length, least) = if long { (Duration::from_secs(60), 1000.0) } else { (Duration::from_secs(1), 10.0) };
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(app(false, whole).await);
    }
    // Each table omits one of the four instances in turn.
    let acknowledged = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&acknowledged);
    let endpoints = move |generation: u64| {
        let left_out = generation % 4;
        let named = instances.iter().zip(0u32..).filter(|(_, n)| u64::from(*n) != left_out);
        named.map(|(address, n)| endpoint(n, *address, AppProtocol::Http1)).collect::<Vec<_>>()
    };
    // Only the first table names this instance: a router that follows a later table sends no request to this instance.
    let stale = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&stale);
    let gone = app(false, move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        whole(request)
    })
    .await;
    let first = table(1, endpoints(1).into_iter().chain([endpoint(9, gone, AppProtocol::Http1)]).collect());
    let server = TableServer::default();
    let running = router(first, &server.start().await, None).await;
    // The server publishes the next table once the router has acknowledged the previous table and has it on disk.
    let giving = tokio::spawn(async move {
        for generation in 2.. {
            server.publish(table(generation, endpoints(generation)));
            while server.followed() < generation {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            counter.store(generation, Ordering::Relaxed);
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let requests: Arc<[AtomicU64; 8]> = Arc::default();
    // Kept connections, a new connection for each request, bodies, and HTTP/2.
    let clients: Vec<_> = (0..requests.len())
        .map(|number| {
            let (stop, requests, address) = (Arc::clone(&stop), Arc::clone(&requests), running.address);
            tokio::spawn(async move {
                let mut many = if number % 4 == 3 { Some(http2(address).await) } else { None };
                let mut kept = http1(address).await;
                while !stop.load(Ordering::Relaxed) {
                    if number % 4 == 1 {
                        kept = http1(address).await;
                    }
                    let answer = match &mut many {
                        Some(many) => many.send_request(get("http://shop.localhost/")).await,
                        None if number % 4 == 2 => kept.send_request(post("a body")).await,
                        None => kept.send_request(get("/")).await,
                    };
                    let answer = answer.expect("an answer");
                    let status = answer.status();
                    assert_eq!(
                        (status.as_u16(), harness::text(answer).await.as_str()),
                        (200, "live"),
                        "client {number}"
                    );
                    requests[number].fetch_add(1, Ordering::Relaxed);
                    // Clients that send without a pause leave no processor time for table changes. Some thousand
                    // requests a second are load enough.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    let begun = Instant::now();
    while acknowledged.load(Ordering::Relaxed) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(10), "no table was taken");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Once each client has had two responses, no request that the first table routed is left.
    let counts = || requests.each_ref().map(|count| count.load(Ordering::Relaxed));
    let at_first = counts();
    while counts().iter().zip(at_first).any(|(now, first)| *now < first + 2) {
        assert!(begun.elapsed() < Duration::from_secs(10), "somebody was not answered");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = stale.load(Ordering::Relaxed);
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    giving.abort();
    for client in clients {
        client.await.expect("every request was answered");
    }
    let (seconds, taken) = (begun.elapsed().as_secs_f64(), acknowledged.load(Ordering::Relaxed));
    let requests: u64 = counts().iter().sum();
    println!("{taken} tables and {requests} requests in {seconds:.1} s");
    assert_eq!(stale.load(Ordering::Relaxed), before, "asked by a table that was replaced");
    assert!(taken as f64 / seconds > least && requests > 100, "{taken} tables, {requests} requests");
}

/// Responds once the whole request has arrived. A server that responds earlier may close the connection, and a next
/// request that must not be repeated would be lost.
async fn whole(request: Request<Incoming>) -> Response<harness::Body> {
    let _ = request.into_body().collect().await;
    Response::new(full("live"))
}

async fn stream(address: SocketAddr) -> TokioIo<TcpStream> {
    TokioIo::new(TcpStream::connect(address).await.expect("connected"))
}

async fn http1(address: SocketAddr) -> http1::SendRequest<harness::Body> {
    let (sender, connection) = http1::handshake(stream(address).await).await.expect("a connection");
    tokio::spawn(connection);
    sender
}

async fn http2(address: SocketAddr) -> http2::SendRequest<harness::Body> {
    let connected = http2::handshake(TokioExecutor::new(), stream(address).await).await;
    let (sender, connection) = connected.expect("a connection");
    tokio::spawn(connection);
    sender
}

fn post(body: &'static str) -> Request<harness::Body> {
    Request::post("/").header("host", "shop.localhost").body(full(body)).expect("a request")
}
