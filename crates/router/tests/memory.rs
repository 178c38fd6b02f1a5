//! Memory use of slow uploads, and the wait of other clients beside them. This test needs its own process, in which no
//! other test uses memory.

mod harness;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gantry_model::role::AppProtocol;
use harness::{NOWHERE, app, beside_max, endpoint, fetch, full, get, resident, router, table, text, usual_p99};

/// Maximum memory of a slow upload, in bytes: 120 MB for 5,000 uploads, beside the 15 MB of an idle router. The memory
/// is the same in every build profile.
const EACH_MAX: u64 = 21_000;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("read").count()
}

/// Begins uploads, each with the usual headers of a browser.
fn begin_uploads(router: SocketAddr, count: usize) -> Vec<TcpStream> {
    let head = format!(
        "POST /photos HTTP/1.1\r\nhost: shop.localhost\r\nuser-agent: {}\r\naccept: */*\r\ncookie: session={}\r\n\
         content-type: application/octet-stream\r\ncontent-length: 50000\r\n\r\n",
        "x".repeat(120),
        "y".repeat(200)
    );
    let begin = |_| {
        let mut stream = TcpStream::connect(router).expect("connected");
        stream.write_all(head.as_bytes()).expect("sent");
        stream
    };
    (0..count).map(begin).collect()
}

/// Sends two bytes on each stream, again and again until `ended`: on 5,000 streams once a second.
fn upload_slowly(mut slow: Vec<TcpStream>, ended: &AtomicBool) {
    for group in (0..slow.len()).step_by(50).cycle() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        for stream in slow.iter_mut().skip(group).take(50) {
            stream.write_all(b"xx").expect("sent");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_5000_slow_uploads_within_120_mb_and_delays_no_other_client() {
    let count: usize = if std::env::var_os("GANTRY_TEST_LONG").is_some() { 5000 } else { 1000 };
    let uploads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&uploads);
    let address = app(false, move |request| {
        counted.fetch_add(usize::from(request.uri().path() == "/photos"), Ordering::Relaxed);
        async { http::Response::new(full("ok")) }
    })
    .await;
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::Http1)]), NOWHERE, None).await;
    let alone = usual_p99(running.address).await;
    let before = resident();
    let mut slow = begin_uploads(running.address, count);
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
        assert_eq!(text(fetch(running.address, get("/")).await).await, "ok", "{round}");
    }
    let each = resident().saturating_sub(before) / count as u64;
    println!("{count} slow uploads: {each} bytes of memory each");
    assert!(each <= EACH_MAX, "{each} bytes each");

    let ended = Arc::new(AtomicBool::new(false));
    let uploading = std::thread::spawn({
        let ended = Arc::clone(&ended);
        move || upload_slowly(slow, &ended)
    });
    let beside = usual_p99(running.address).await;
    ended.store(true, Ordering::Relaxed);
    uploading.join().expect("no upload was cut");
    println!("99 of 100 requests within {alone:?} alone, within {beside:?} beside {count} slow uploads");
    assert!(beside <= beside_max(alone), "{beside:?} where it was {alone:?}");
    assert_eq!(uploads.load(Ordering::Relaxed), 0, "a slow one reached the instance");
}
