use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::authority::LIFE_MILLIS;
use crate::key::MachineKey;
use crate::{CertificateAuthority, pinned_config};

const MINUTE: i64 = 60_000;

fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Moment(u64::try_from(since.as_millis()).expect("before the end of time"))
}

fn name(text: &str) -> MachineName {
    text.parse().expect("a name")
}

fn issue(ca: &CertificateAuthority, machine: &str, is_server: bool, at: Moment) -> (Credentials, MachineKey) {
    let key = MachineKey::generate().expect("a key");
    let chain = ca.issue(&key.public(), &name(machine), is_server, at).expect("issued");
    (Credentials::new(ca.certificate_pem(), &chain, &key).expect("credentials"), key)
}

/// Connects a client to a server. Returns the client's result, and the certificates that the server saw.
async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: PeerName,
) -> (Result<(), Error>, Option<Vec<CertificateDer<'static>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("an address");
    let accepted = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        let stream = TlsAcceptor::from(server).accept(stream).await.ok()?;
        Some(stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec())
    };
    let connected = async {
        let stream = TcpStream::connect(address).await.expect("connects");
        let failed = |error: std::io::Error| match error.into_inner().and_then(|e| e.downcast::<Error>().ok()) {
            Some(error) => *error,
            None => Error::General("no TLS error".to_owned()),
        };
        TlsConnector::from(client).connect(name.server_name(), stream).await.map(drop).map_err(failed)
    };
    let (connected, accepted) = tokio::join!(connected, accepted);
    (connected, accepted)
}

#[tokio::test]
async fn machines_of_one_authority_know_each_other() {
    let ca = CertificateAuthority::generate(now()).expect("an authority");
    let ca = CertificateAuthority::from_pem(ca.certificate_pem(), &ca.key_pem()).expect("read again");
    let ((server, _), (agent, _)) = (issue(&ca, "m1", true, now()), issue(&ca, "m2", false, now()));
    let listener = server.server_config(&[b"h2"]).expect("a configuration");
    for expected in [PeerName::Server, PeerName::Machine(name("m1"))] {
        let client = agent.client_config(&[b"h2"]).expect("a configuration");
        let (connected, seen) = handshake(Arc::clone(&listener), client, expected).await;
        connected.expect("verified");
        assert_eq!(machine_of_peer(seen.as_deref()), Some(name("m2")));
    }
}

#[test]
fn the_authority_is_found_in_a_chain_by_its_hash() {
    let ca = CertificateAuthority::generate(now()).expect("an authority");
    let (server, _) = issue(&ca, "m1", true, now());
    let chain = &server.current().cert;
    let pem = ca.hash().find(chain).expect("it is there");
    assert_eq!(&CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate"), server.ca());
    let other = CertificateAuthority::generate(now()).expect("an authority");
    assert_eq!(other.hash().find(chain), None);
}

#[tokio::test]
async fn a_server_is_verified_by_the_hosts_that_people_name() {
    let ca = CertificateAuthority::generate(now()).expect("an authority");
    let key = MachineKey::generate().expect("a key");
    let hosts = ["10.0.0.1", "m1.example.com", "m2.machine.gantry.internal", "M2.Machine.Gantry.Internal."];
    let chain = ca.issue_server(&key.public(), &name("m1"), &hosts.map(str::to_owned), now()).expect("issued");
    let server = Credentials::new(ca.certificate_pem(), &chain, &key).expect("credentials");
    let leaf = server.current().cert[0].clone();
    let leaf = webpki::EndEntityCert::try_from(&leaf).expect("a certificate");
    for (host, is_valid) in [("10.0.0.1", true), ("m1.example.com", true), ("10.0.0.2", false)] {
        let host = tokio_rustls::rustls::pki_types::ServerName::try_from(host).expect("a name");
        assert_eq!(leaf.verify_is_valid_for_subject_name(&host).is_ok(), is_valid, "{host:?}");
    }
    let is_named = |peer: PeerName| leaf.verify_is_valid_for_subject_name(&peer.server_name()).is_ok();
    assert!(is_named(PeerName::Server) && is_named(PeerName::Machine(name("m1"))));
    assert!(!is_named(PeerName::Machine(name("m2"))), "a host passes for another machine");
}

#[tokio::test]
async fn a_peer_of_another_name_is_refused() {
    let ca = CertificateAuthority::generate(now()).expect("an authority");
    let ((other, _), (client, _)) = (issue(&ca, "m2", false, now()), issue(&ca, "m3", false, now()));
    for expected in [PeerName::Server, PeerName::Machine(name("m1"))] {
        let (connected, _) = handshake(
            other.server_config(&[]).expect("a configuration"),
            client.client_config(&[]).expect("a configuration"),
            expected,
        )
        .await;
        let error = connected.expect_err("another machine");
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })), "{error}");
    }
}

#[tokio::test]
async fn a_peer_of_another_authority_is_refused_on_both_sides() {
    let (ours, theirs) =
        (CertificateAuthority::generate(now()).expect("one"), CertificateAuthority::generate(now()).expect("two"));
    let ((server, _), (stranger, _)) = (issue(&ours, "m1", true, now()), issue(&theirs, "m2", false, now()));
    // The stranger trusts our server, so that only the server can refuse.
    let client = pinned_config(&ours.hash(), None).expect("a configuration");
    let (_, seen) = handshake(server.server_config(&[]).expect("a configuration"), client, PeerName::Server).await;
    assert_eq!(seen, None, "no certificate");
    let (connected, seen) = handshake(
        server.server_config(&[]).expect("a configuration"),
        stranger.client_config(&[]).expect("a configuration"),
        PeerName::Server,
    )
    .await;
    assert!(connected.is_err(), "the stranger does not know our authority");
    assert_eq!(seen, None);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_a_slow_or_fast_clock_is_not() {
    let ca = CertificateAuthority::generate(now().moved(-400 * 24 * 60 * MINUTE)).expect("an authority");
    let (client, _) = issue(&ca, "m2", false, now());
    let life = i64::try_from(LIFE_MILLIS).expect("small");
    for (issued, is_valid) in
        [(0, true), (10 * MINUTE, true), (-10 * MINUTE, true), (2 * 60 * MINUTE, false), (-life - MINUTE, false)]
    {
        let (server, _) = issue(&ca, "m1", true, now().moved(issued));
        let (connected, _) = handshake(
            server.cluster_config(&[]).expect("a configuration"),
            client.client_config(&[]).expect("a configuration"),
            PeerName::Server,
        )
        .await;
        assert_eq!(connected.is_ok(), is_valid, "issued {issued} ms from now: {connected:?}");
        let (connected, seen) = handshake(
            issue(&ca, "m3", true, now()).0.server_config(&[]).expect("a configuration"),
            server.client_config(&[]).expect("a configuration"),
            PeerName::Server,
        )
        .await;
        assert!(connected.is_ok(), "the server refuses only after the client is done");
        assert_eq!(seen.is_some(), is_valid, "issued {issued} ms from now");
    }
}

#[tokio::test]
async fn the_servers_listener_tells_machines_keys_and_people_apart() {
    let ca = CertificateAuthority::generate(now().moved(-400 * 24 * 60 * MINUTE)).expect("an authority");
    let other = CertificateAuthority::generate(now()).expect("another authority");
    let (server, _) = issue(&ca, "m1", true, now());
    let listener = server.cluster_config(&[]).expect("a configuration");
    let peer = async |client: Arc<ClientConfig>| {
        let (connected, seen) = handshake(Arc::clone(&listener), client, PeerName::Server).await;
        connected.expect("connects");
        server.peer(Some(&seen.expect("accepted")), now())
    };
    assert_eq!(peer(pinned_config(&ca.hash(), None).expect("a configuration")).await, Peer::Anonymous);
    let joining = MachineKey::generate().expect("a key");
    let config = pinned_config(&ca.hash(), Some(&joining)).expect("a configuration");
    assert_eq!(peer(config).await, Peer::Key(joining.public()));
    let (machine, key) = issue(&ca, "m2", false, now());
    let client = machine.client_config(&[]).expect("a configuration");
    assert_eq!(peer(client).await, Peer::Machine { name: name("m2"), key: key.public(), is_server: false });
    let (other_server, key) = issue(&ca, "m3", true, now());
    let client = other_server.client_config(&[]).expect("a configuration");
    assert_eq!(peer(client).await, Peer::Machine { name: name("m3"), key: key.public(), is_server: true });
    // Keys with a certificate that proves no name.
    let (expired, key) = issue(&ca, "m2", false, now().moved(-60 * 24 * 60 * MINUTE));
    assert_eq!(peer(expired.client_config(&[]).expect("a configuration")).await, Peer::Key(key.public()));
    let key = MachineKey::generate().expect("a key");
    let chain = other.issue(&key.public(), &name("m2"), true, now()).expect("issued");
    let foreign = Credentials::new(ca.certificate_pem(), &chain, &key).expect("credentials");
    assert_eq!(peer(foreign.client_config(&[]).expect("a configuration")).await, Peer::Key(key.public()));
}

#[tokio::test]
async fn a_server_of_another_authority_does_not_pass_for_the_pinned_one() {
    let (ours, theirs) =
        (CertificateAuthority::generate(now()).expect("one"), CertificateAuthority::generate(now()).expect("two"));
    let key = MachineKey::generate().expect("a key");
    let leaf = theirs.issue(&key.public(), &name("m1"), true, now()).expect("issued");
    // The false server shows the pinned authority's certificate, which is public, beside its own.
    let chain = format!("{}{}", leaf.replace(theirs.certificate_pem(), ""), ours.certificate_pem());
    let imposter = Credentials::new(theirs.certificate_pem(), &chain, &key).expect("credentials");
    let machine = issue(&ours, "m2", false, now()).0;
    for server in [imposter, issue(&theirs, "m1", true, now()).0, machine] {
        let client = pinned_config(&ours.hash(), None).expect("a configuration");
        let (connected, _) =
            handshake(server.cluster_config(&[]).expect("a configuration"), client, PeerName::Server).await;
        assert!(matches!(connected, Err(Error::InvalidCertificate(_))), "{connected:?}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_by_configurations_that_exist() {
    let ca = CertificateAuthority::generate(now().moved(-400 * 24 * 60 * MINUTE)).expect("an authority");
    let (old, key) = issue(&ca, "m1", true, now().moved(-60 * 24 * 60 * MINUTE));
    assert!(old.is_renewal_due(now()));
    let listener = old.server_config(&[]).expect("a configuration");
    let client = issue(&ca, "m2", false, now()).0.client_config(&[]).expect("a configuration");
    assert!(handshake(Arc::clone(&listener), Arc::clone(&client), PeerName::Server).await.0.is_err());
    let chain = ca.issue(&key.public(), &name("m1"), true, now()).expect("issued");
    old.replace(&chain, &key).expect("taken");
    handshake(listener, client, PeerName::Server).await.0.expect("the renewed certificate");
    let life = i64::try_from(LIFE_MILLIS).expect("small");
    for (age, is_due) in [(0, false), (life / 3 * 2 - MINUTE, false), (life / 3 * 2 + MINUTE, true), (2 * life, true)] {
        assert_eq!(old.is_renewal_due(now().moved(age)), is_due, "{age}");
    }
    let stranger = MachineKey::generate().expect("a key");
    assert!(old.replace(&chain, &stranger).is_err(), "a key that is not the certificate's");
}
