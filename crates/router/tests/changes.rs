//! A table that changes all the time, under load.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_model::role::Protocol;
use http::{Request, Response};
use hyper::body::Incoming;
use world::{app, endpoint, full, get, router, table};

/// A second each time; a minute when asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_of_the_table_in_a_second_cost_no_request() {
    let length = Duration::from_secs(if std::env::var_os("GANTRY_TEST_LONG").is_some() { 60 } else { 1 });
    let mut fellows = Vec::new();
    for _ in 0..4 {
        fellows.push(app(false, async |_| Response::new(full("live"))).await);
    }
    // Each answer is another table: one of the four is left out in turn.
    let (given, heard) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let (counter, told) = (Arc::clone(&given), Arc::clone(&heard));
    let endpoints = move |generation: u64| {
        let left_out = generation % 4;
        let named = fellows.iter().zip(0u32..).filter(|(_, n)| u64::from(*n) != left_out);
        named.map(|(address, n)| endpoint(n, *address, Protocol::Http1)).collect::<Vec<_>>()
    };
    let first = table(1, endpoints(1));
    let server = app(false, move |request: Request<Incoming>| {
        let (counter, told, endpoints) = (Arc::clone(&counter), Arc::clone(&told), endpoints.clone());
        async move {
            if request.method() == http::Method::POST {
                return Response::new(full("null"));
            }
            // What it asks after is what it routes by, and has on disk.
            let after = request.uri().query().and_then(|query| query.strip_prefix("after=")?.parse().ok());
            told.store(after.unwrap_or(0), Ordering::Relaxed);
            let generation = counter.fetch_add(1, Ordering::Relaxed) + 1;
            let table = table(generation, endpoints(generation));
            Response::new(full(serde_json::to_vec(&table).expect("JSON")))
        }
    })
    .await;
    let running = router(first, &format!("http://{server}"), None).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, asked, address) = (Arc::clone(&stop), Arc::clone(&asked), running.address);
            tokio::spawn(async move {
                let stream = tokio::net::TcpStream::connect(address).await.expect("connected");
                let stream = hyper_util::rt::TokioIo::new(stream);
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(stream).await.expect("a connection");
                tokio::spawn(connection);
                while !stop.load(Ordering::Relaxed) {
                    let answer = sender.send_request(get("/")).await.expect("an answer");
                    assert_eq!(answer.status(), 200);
                    assert_eq!(world::text(answer).await, "live");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let begun = Instant::now();
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every request was answered");
    }
    let (seconds, taken) = (begun.elapsed().as_secs_f64(), heard.load(Ordering::Relaxed));
    let asked = asked.load(Ordering::Relaxed);
    println!("{taken} tables and {asked} requests in {seconds:.1} s");
    assert!(taken > 10 && asked > 100, "{taken} tables, {asked} requests");
}
