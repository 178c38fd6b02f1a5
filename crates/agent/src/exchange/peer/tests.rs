//! Transfers from routers that die, stall, refuse, or send too much.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use gantry_blobs::DigestHasher;
use gantry_model::{MachineName, Moment, TunnelAddress};
use gantry_trust::{CertificateAuthority, Credentials, MachineKey};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::cache::{LayerCache, LayerPart, PartError};
use super::super::receiver::RangeReceiver;
use super::{PeerConnection, PeerError};

const LAYER: &[u8] = b"the bytes of a layer";

type Body = BoxBody<Bytes, std::io::Error>;

fn machine(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

fn credentials(authority: &CertificateAuthority, name: &str) -> Credentials {
    let key = MachineKey::generate().expect("a key");
    let chain = authority.issue(&key.public(), &machine(name), false, Moment(gantry_linux::clock::wall()));
    Credentials::new(authority.certificate_pem(), &chain.expect("issued"), &key).expect("credentials")
}

/// The bytes that a router sends, from an offset on.
#[derive(Clone, Copy)]
enum Sends {
    Rest,
    /// Sends this many bytes, and then neither data nor an end.
    Stalls(usize),
    /// Sends this many bytes, and then an error.
    Dies(usize),
    TooMuch,
    Short,
    Refusal,
}

fn whole(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed()
}

fn body(sends: Sends, rest: &[u8]) -> Body {
    let first = |count: usize| Ok(Frame::data(Bytes::copy_from_slice(&rest[..count])));
    match sends {
        Sends::Rest => whole(rest.to_vec()),
        Sends::TooMuch => whole([rest, b"!"].concat()),
        Sends::Short => whole(rest[..rest.len() - 1].to_vec()),
        Sends::Refusal => whole(Vec::new()),
        Sends::Stalls(count) => BodyExt::boxed(StreamBody::new(stream::iter([first(count)]).chain(stream::pending()))),
        Sends::Dies(count) => {
            let broken = Err(std::io::Error::other("the machine is gone"));
            BodyExt::boxed(StreamBody::new(stream::iter([first(count), broken])))
        }
    }
}

/// A router of the machine `name`. It ends with the runtime of the test.
#[expect(clippy::disallowed_methods, reason = "a test has no set of tasks")]
async fn router(authority: &CertificateAuthority, name: &str, sends: Sends) -> TunnelAddress {
    let config = credentials(authority, name).server_config(&[b"h2"]).expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let answer = service_fn(move |request: Request<Incoming>| async move {
                    let range = request.headers()["range"].to_str().expect("text").to_owned();
                    let offset = range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>();
                    let rest = &LAYER[offset.expect("an offset")..];
                    let mut response = Response::builder();
                    if matches!(sends, Sends::Refusal) {
                        response = response.status(503).header("gantry-tunnel-reason", "8 layers are being sent");
                    }
                    Ok::<_, Infallible>(response.body(body(sends, rest)).expect("a response"))
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    address.parse().expect("an address")
}

struct Receiver {
    _folder: tempfile::TempDir,
    authority: CertificateAuthority,
    part: LayerPart,
}

impl Receiver {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (cache, _) = LayerCache::in_folder(folder.path().join("layers")).expect("a cache");
        let part = cache.begin(&DigestHasher::of(LAYER), LAYER.len() as u64, &Arc::default()).await.expect("begun");
        let authority = CertificateAuthority::generate(Moment(gantry_linux::clock::wall())).expect("an authority");
        Self { _folder: folder, authority, part }
    }

    /// Fetches from a router of the machine `name`, expecting the machine `m2`.
    async fn fetch_from(&mut self, name: &str, sends: Sends) -> Result<(), PeerError> {
        let address = router(&self.authority, name, sends).await;
        self.fetch_at(&[address]).await
    }

    async fn fetch_at(&mut self, addresses: &[TunnelAddress]) -> Result<(), PeerError> {
        let tls = credentials(&self.authority, "m1").client_config(&[b"h2"]).expect("a configuration");
        PeerConnection::open(&tls, &machine("m2"), addresses).await?.fetch(self.part.bytes()).await
    }
}

#[tokio::test]
async fn resumes_a_transfer_at_the_next_source() {
    let mut receiver = Receiver::new().await;
    let died = receiver.fetch_from("m2", Sends::Dies(4)).await;
    assert!(matches!(died, Err(PeerError::Broken(_))), "{died:?}");
    // The bytes before the error may be lost with the stream.
    let before = receiver.part.received();
    assert!(before <= 4, "{before}");
    let begun = std::time::Instant::now();
    let stalled = receiver.fetch_from("m2", Sends::Stalls(3)).await;
    assert!(matches!(stalled, Err(PeerError::Silent(_))), "{stalled:?}");
    assert_eq!((receiver.part.received(), begun.elapsed().as_secs() < 20), (before + 3, true));
    let short = receiver.fetch_from("m2", Sends::Short).await;
    assert!(matches!(short, Err(PeerError::Part(PartError::Short { .. }))), "{short:?}");
    receiver.fetch_from("m2", Sends::Rest).await.expect("the rest");
    receiver.part.keep().await.expect("the right bytes");
}

#[tokio::test]
async fn fetches_parts_over_one_connection_from_a_router_that_sends_the_rest() {
    let receiver = Receiver::new().await;
    let address = router(&receiver.authority, "m2", Sends::Rest).await;
    let tls = credentials(&receiver.authority, "m1").client_config(&[b"h2"]).expect("a configuration");
    let mut connection = PeerConnection::open(&tls, &machine("m2"), &[address]).await.expect("connected");
    for range in [4..9, 0..4] {
        let mut file = tokio::fs::File::from_std(tempfile::tempfile().expect("a file"));
        let counter = Arc::default();
        let copy = file.try_clone().await.expect("a copy");
        let mut part = RangeReceiver::part(copy, DigestHasher::of(LAYER), range.clone(), counter);
        connection.fetch(&mut part).await.expect("fetched");
        let bytes = &LAYER[usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")];
        let wrong = |found| PartError::WrongPart { part: 0, found };
        part.finish(&DigestHasher::of(bytes), wrong).await.expect("the right bytes");
        let mut found = Vec::new();
        file.seek(std::io::SeekFrom::Start(0)).await.expect("at the start");
        file.read_to_end(&mut found).await.expect("read");
        assert_eq!(found, bytes);
    }
}

#[tokio::test]
async fn names_why_a_source_failed() {
    let mut receiver = Receiver::new().await;
    let refused = receiver.fetch_from("m2", Sends::Refusal).await.expect_err("refused");
    assert!(matches!(refused, PeerError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. }), "{refused:?}");
    assert!(refused.to_string().ends_with("503 Service Unavailable: 8 layers are being sent"), "{refused}");
    let wrong = receiver.fetch_from("m3", Sends::Rest).await;
    assert!(matches!(wrong, Err(PeerError::Connect(..))), "another machine than the named one: {wrong:?}");
    let other = CertificateAuthority::generate(Moment(gantry_linux::clock::wall())).expect("an authority");
    let foreign = router(&other, "m2", Sends::Rest).await;
    let foreign = receiver.fetch_at(&[foreign]).await;
    assert!(matches!(foreign, Err(PeerError::Connect(..))), "another cluster: {foreign:?}");
    let closed = "127.0.0.1:1".parse().expect("an address");
    let closed = receiver.fetch_at(&[closed]).await;
    assert!(matches!(closed, Err(PeerError::Connect(..))), "{closed:?}");
    assert!(matches!(receiver.fetch_at(&[]).await, Err(PeerError::NoAddress)));
    assert_eq!(receiver.part.received(), 0);
    let long = receiver.fetch_from("m2", Sends::TooMuch).await;
    assert!(matches!(long, Err(PeerError::Part(PartError::TooLong))), "{long:?}");
}
