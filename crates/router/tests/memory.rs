//! Memory use of slow uploads. This test needs its own process, in which no other test uses memory.

mod harness;

use std::io::Write;
use std::time::Duration;

use gantry_model::role::AppProtocol;
use harness::{NOWHERE, app, ask, endpoint, full, get, resident, router, table, text};

/// Maximum memory of a slow upload, in bytes: 120 MB for 5,000 uploads, beside the 15 MB of an idle router. The memory
/// is the same in every build profile.
const EACH_MAX: u64 = 21_000;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("read").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_5000_slow_uploads_within_120_mb() {
    let count: usize = if std::env::var_os("GANTRY_TEST_LONG").is_some() { 5000 } else { 1000 };
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&asked);
    let address = app(false, move |_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async { http::Response::new(full("ok")) }
    })
    .await;
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    assert_eq!(text(ask(running.address, get("/")).await).await, "ok");
    let before = resident();
    // Include the usual headers of a browser.
    let head = format!(
        "POST /photos HTTP/1.1\r\nhost: shop.localhost\r\nuser-agent: {}\r\naccept: */*\r\ncookie: session={}\r\n\
         content-type: application/octet-stream\r\ncontent-length: 50000\r\n\r\n",
        "x".repeat(120),
        "y".repeat(200)
    );
    let mut slow = Vec::new();
    for _ in 0..count {
        let mut stream = std::net::TcpStream::connect(running.address).expect("connected");
        stream.write_all(head.as_bytes()).expect("sent");
        slow.push(stream);
    }
    for round in 0..20 {
        for stream in &mut slow {
            stream.write_all(b"xx").expect("sent");
        }
        // This process has both ends of each connection.
        let taken = async {
            while open_files() < 2 * count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), taken).await.expect("each connection is taken");
        assert_eq!(text(ask(running.address, get("/")).await).await, "ok", "{round}");
    }
    let each = resident().saturating_sub(before) / count as u64;
    println!("{count} slow uploads: {each} bytes of memory each");
    assert!(each <= EACH_MAX, "{each} bytes each");
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 21, "a slow one reached the instance");
}
