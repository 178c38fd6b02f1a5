//! gRPC: responses of the router in gRPC's form, ends of responses, and streams on shared connections.

#![expect(clippy::disallowed_methods, reason = "tests have no set of tasks")]

mod harness;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use gantry_model::role::AppProtocol;
use harness::{Body, NOWHERE, app, endpoint, full, router, table};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn answers_grpc_errors_in_grpc_form_and_streams_grpc_bodies() {
    let talk = app(true, async |request: Request<Incoming>| {
        // Respond to each message as it arrives.
        let body = request.into_body();
        Response::builder()
            .header("content-type", "application/grpc")
            .body(BodyExt::boxed(body.map_err(|error| panic!("{error}"))))
            .expect("an answer")
    })
    .await;
    let running = router(table(1, vec![endpoint(1, talk, AppProtocol::H2c)]), NOWHERE, None).await;
    let stream = TcpStream::connect(running.address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let (pieces, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let grpc_request = |host: &str, kind: &str, body| {
        Request::post(format!("http://{host}/")).header("content-type", kind).body(body).expect("a request")
    };
    let answer = sender
        .send_request(grpc_request(
            "shop.localhost",
            "application/grpc+proto",
            BodyExt::boxed_unsync(StreamBody::new(body)),
        ))
        .await;
    let mut answer = answer.expect("an answer before the end of the request").into_body();
    for word in ["one", "two"] {
        pieces.send(Ok(Frame::data(Bytes::from(word)))).await.expect("sent");
        assert_eq!(answer.frame().await.expect("a frame").expect("good").into_data().expect("data"), word);
    }
    let refused = sender
        .send_request(grpc_request("ghost.localhost", "application/grpc", full("x").boxed_unsync()))
        .await
        .expect("an answer");
    assert_eq!(
        (refused.status(), &refused.headers()["content-type"]),
        (StatusCode::OK, &"application/grpc".parse().expect("a value"))
    );
    assert_eq!(refused.headers()["grpc-status"], "14");
    assert!(refused.headers()["grpc-message"].to_str().expect("text").contains("no app is served at ghost.localhost"));
    let refused = sender
        .send_request(grpc_request("ghost.localhost", "application/json", full("x").boxed_unsync()))
        .await
        .expect("an answer");
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn ends_a_grpc_response_as_unavailable_when_the_instance_dies() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (end, ended) = tokio::sync::watch::channel(());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut ended = ended.clone();
            let service = service_fn(async |request: Request<Incoming>| {
                let kind = request.headers()["content-type"].clone();
                let first = futures_util::stream::once(async {
                    Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"first")))
                });
                let body = first.chain(futures_util::stream::pending());
                let response = Response::builder().header("content-type", kind).body(StreamBody::new(Box::pin(body)));
                Ok::<Response<StreamBody<_>>, Infallible>(response.expect("an answer"))
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = connection => {}
                    _ = ended.changed() => {}
                }
            });
        }
    });
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::H2c)]), NOWHERE, None).await;
    let stream = TcpStream::connect(running.address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for kind in ["application/grpc", "application/grpc+proto", "text/plain", "application/grpc-web+proto"] {
        let request = Request::post("http://shop.localhost/").header("content-type", kind).body(full("x"));
        let mut body = sender.send_request(request.expect("a request")).await.expect("an answer").into_body();
        assert_eq!(body.frame().await.expect("a frame").expect("good").into_data().expect("data"), "first");
        answers.push((kind, body));
    }
    end.send_replace(());
    for (kind, mut body) in answers {
        let last = body.frame().await.expect("a frame");
        if matches!(kind, "application/grpc" | "application/grpc+proto") {
            let trailers = last.expect("a good end").into_trailers().expect("trailers");
            assert_eq!(trailers["grpc-status"], "14", "{kind}");
        } else {
            assert!(last.is_err(), "{kind}");
        }
    }
}

#[tokio::test]
async fn respects_the_stream_limit_of_an_instance() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let arrived = Arc::new(tokio::sync::Semaphore::new(0));
    let counted = Arc::clone(&arrived);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            let service = service_fn(move |_| {
                counted.add_permits(1);
                std::future::pending::<Result<Response<Body>, Infallible>>()
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(3);
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    let running = router(table(1, vec![endpoint(1, address, AppProtocol::H2c)]), NOWHERE, None).await;
    let stream = TcpStream::connect(running.address).await.expect("connected");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut open = Vec::new();
    for number in 0..20 {
        let request = Request::post("http://shop.localhost/").header("content-type", "application/grpc");
        let asking = sender.clone().send_request(request.body(full("x")).expect("a request"));
        open.push(tokio::spawn(asking));
        let waiting = tokio::time::timeout(Duration::from_secs(20), arrived.acquire());
        waiting.await.unwrap_or_else(|_| panic!("request {number} waits behind others")).expect("open").forget();
    }
}
