//! Processor time of a request to an instance of another machine, against one of the same machine. `benches/router tunnel`
//! runs this test in a release build; it prints a line and checks nothing.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::cluster::{Cluster, endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connections of clients.
const CONNECTIONS: usize = 64;

/// Length of the instance's response.
const LENGTH: usize = 1024;

/// Processor time of the routers' threads so far.
fn used() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let ticks: u64 = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .filter_map(|stat| {
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            name.starts_with("router-")
                .then(|| Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?))?
        })
        .sum();
    Duration::from_millis(ticks * 10)
}

/// An instance that answers each request with a fixed response.
async fn instance() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n{}", "x".repeat(LENGTH));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Sends requests for `length`; returns their number.
async fn load(router: SocketAddr, length: Duration) -> u64 {
    let until = Instant::now() + length;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(router).await.expect("connected");
                let (mut count, mut buffer) = (0, vec![0; 8192]);
                while Instant::now() < until {
                    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.localhost\r\n\r\n").await.expect("sent");
                    let mut received = 0;
                    while received < LENGTH {
                        received += stream.read(&mut buffer[received..]).await.expect("read");
                    }
                    assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", buffer[..received].escape_ascii());
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for client in clients {
        count += client.await.expect("a client");
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark; see benches/router"]
async fn a_request_to_another_machine() {
    let cluster = Cluster::new();
    let address = instance().await;
    let with = |on: &str| cluster.table(1, vec![endpoint(on, 1, address)]);
    let _far = cluster.router("far", with("far")).await;
    let remote = cluster.router("m", with("far")).await;
    let local = cluster.router("m", with("m")).await;
    let rounds: Vec<[f64; 2]> = {
        let mut rounds = Vec::new();
        for _ in 0..7 {
            let mut each = [0.0; 2];
            for (cost, router) in each.iter_mut().zip([local.address, remote.address]) {
                load(router, Duration::from_millis(300)).await;
                let before = used();
                let count = load(router, Duration::from_secs(2)).await;
                *cost = (used() - before).as_secs_f64() * 1e6 / count as f64;
            }
            rounds.push(each);
        }
        rounds
    };
    let median = |of: &dyn Fn(&[f64; 2]) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "same-machine {:.1} us, other-machine {:.1} us of processor each; {:.2} of the requests/s per core",
        median(&|[local, _]| *local),
        median(&|[_, remote]| *remote),
        median(&|[local, remote]| local / remote),
    );
}
