//! Routers that are gone, silent, late, or not who they claim to be.

use std::time::{Duration, Instant};

use gantry_model::Generation;
use http::{Method, Request, StatusCode};
use tokio::net::TcpStream;

use crate::harness::cluster::{Cluster, authority, credentials, endpoint, machine};
use crate::harness::{Member, NOWHERE, RunningRouter, TableServer, fetch, full, get, router_of, text};
use crate::names;

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
            let (one, other) = tokio::join!(fetch(entry.address, get("/")), fetch(entry.address, get("/")));
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
    let requests: Vec<_> = (0..50).map(|_| tokio::spawn(fetch(entry.address, get("/")))).collect();
    for request in requests {
        assert_eq!(text(request.await.expect("asked")).await, "near");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(text(fetch(entry.address, get("/")).await).await, "near");
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
            let (one, other) = tokio::join!(fetch(entry.address, get("/")), fetch(entry.address, get("/")));
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

/// A machine that takes one request, and then neither answers nor closes anything. With `leaves`, the machine
/// first announces that it takes no more requests.
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
        let sent = tokio::spawn(fetch(entry.address, request.body(full("")).expect("built")));
        silent.await.expect("silent");
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(1600)).await;
        // The copy runs elsewhere now. A machine that merely left the table would keep its request.
        let mut table = cluster.table(2, vec![endpoint("m", 2, near)]);
        server.publish_and_wait(table.clone()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!sent.is_finished(), "{method}: the machine may live");
        (table.generation, table.lost) = (Generation(3), [machine("far")].into());
        server.publish_and_wait(table).await;
        let answer = sent.await.expect("asked");
        assert!(begun.elapsed() < Duration::from_secs(4), "{method}: {:?}", begun.elapsed());
        assert_eq!(answer.status(), status, "{method}");
        let response = text(answer).await;
        let expected = if status == StatusCode::OK { "near" } else { "the machine is lost" };
        assert!(response.contains(expected), "{method}: {response}");
    }
}

#[tokio::test]
async fn the_last_request_of_a_closing_connection_does_not_wait_for_a_silent_machine() {
    let cluster = Cluster::new();
    let silent = falls_silent(&cluster, true).await;
    let near = names("near").await;
    let entry = cluster.router("m", cluster.table(1, vec![endpoint("far", 1, near)])).await;
    let sent = tokio::spawn(fetch(entry.address, get("/")));
    silent.await.expect("silent");
    // The connection takes no more requests, so the next one makes a new connection, which is not answered.
    let next = tokio::spawn(fetch(entry.address, get("/")));
    let answer = tokio::time::timeout(Duration::from_secs(10), sent).await.expect("given up").expect("asked");
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
    while fetch(entry.address, get("/")).await.status() != StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(30), "the router of far is never reached");
    }
}
