//! Name resolver. Answers `<app>.gantry.internal` and `<role>.<app>.gantry.internal` with the ready instances. Forwards
//! every other question to the machine's own name servers, and their answer back, byte for byte.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use gantry_model::{AppName, RoleName, RoutingTable};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::Router;

/// The zone of the resolver.
const ZONE: &str = "gantry.internal.";

/// Time to live of an answer in seconds; short, because instances come and go.
const TTL: u32 = 1;

/// Longest time that an upstream server may take.
const UPSTREAM: Duration = Duration::from_secs(3);

/// The longest answer in a datagram that every resolver takes (RFC 1035, section 4.2.1).
const UDP_MAX: usize = 512;

/// Maximum number of forwarded questions at once; the same limit holds for TCP connections.
const AT_ONCE: usize = 500;

/// Maximum number of connections that wait for an accept.
const BACKLOG: u32 = 1024;

/// Pause between two attempts to listen, because the agent may not have made the bridge yet.
const RETRY: Duration = Duration::from_millis(200);

/// Failed attempts before the router logs a warning: another program has the port, and no container resolves any name.
const TOLD_AFTER: u32 = 25;

/// Answers on `address`, for ever.
pub(crate) async fn run(router: Arc<Router>, address: Ipv4Addr) {
    let address = SocketAddr::from((address, 53));
    let mut attempts = 0;
    let (udp, tcp) = loop {
        match listen(address) {
            Ok((udp, tcp)) => break (Arc::new(udp), tcp),
            Err(error) => {
                attempts += 1;
                if attempts == TOLD_AFTER {
                    tracing::warn!(
                        "cannot answer names on {address}: {error}; containers and builds find none until that is mended"
                    );
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    tracing::info!(%address, "answering names");
    let (datagrams, streams) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(AT_ONCE)));
    tokio::join!(serve_udp(&router, udp, &datagrams), serve_tcp(&router, tcp, &streams));
}

/// Binds the sockets. A router that replaces this router, or is replaced by this router, may share the address: both
/// follow the same table.
fn listen(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let udp = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseport(&udp, true)?;
    bind(&udp, &address)?;
    let tcp = TcpSocket::new_v4()?;
    tcp.set_reuseaddr(true)?;
    tcp.set_reuseport(true)?;
    tcp.bind(address)?;
    Ok((UdpSocket::from_std(udp.into())?, tcp.listen(BACKLOG)?))
}

async fn serve_udp(router: &Arc<Router>, socket: Arc<UdpSocket>, slots: &Arc<Semaphore>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        // Questions about the zone are answered at once, whatever else is under way.
        let bytes = &buffer[..length];
        match known(&router.routing.now().table, bytes, UDP_MAX) {
            Known::Answer(answer) => drop(socket.try_send_to(&answer, peer)),
            Known::Nothing => {}
            Known::Elsewhere => {
                // Questions beyond the limit are dropped; resolvers ask again.
                let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
                    continue;
                };
                let (router, socket, question) = (Arc::clone(router), Arc::clone(&socket), bytes.to_vec());
                tokio::spawn(async move {
                    if let Some(answer) = elsewhere(&router, &question, false).await {
                        let _ = socket.send_to(&answer, peer).await;
                    }
                    drop(slot);
                });
            }
        }
    }
}

async fn serve_tcp(router: &Arc<Router>, listener: TcpListener, slots: &Arc<Semaphore>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
            continue;
        };
        let router = Arc::clone(router);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(10), converse(&router, stream)).await;
            drop(slot);
        });
    }
}

async fn converse(router: &Router, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut question = vec![0; usize::from(length)];
        stream.read_exact(&mut question).await?;
        let answer = match known(&router.routing.now().table, &question, usize::from(u16::MAX)) {
            Known::Answer(answer) => Some(answer),
            Known::Nothing => None,
            Known::Elsewhere => elsewhere(router, &question, true).await,
        };
        if let Some(answer) = answer {
            stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
            stream.write_all(&answer).await?;
        }
    }
}

/// Result of looking up a question in the table alone.
pub(crate) enum Known {
    Answer(Vec<u8>),
    /// The message is not a question.
    Nothing,
    Elsewhere,
}

pub(crate) fn known(table: &RoutingTable, bytes: &[u8], size_max: usize) -> Known {
    let Ok(question) = Message::from_vec(bytes) else {
        return Known::Nothing;
    };
    // A message may have only one question (RFC 9619).
    let ([query], Ok(zone)) = (question.queries.as_slice(), Name::from_str(ZONE)) else {
        return Known::Nothing;
    };
    if question.metadata.message_type != MessageType::Query {
        return Known::Nothing;
    }
    if !zone.zone_of(query.name()) {
        return Known::Elsewhere;
    }
    let mut answer = own(&question, table, &zone);
    let whole = answer.to_vec().unwrap_or_default();
    if whole.len() <= size_max {
        return Known::Answer(whole);
    }
    // The answer is too long for a datagram: the resolver asks again over TCP.
    answer.answers.clear();
    answer.metadata.truncation = true;
    Known::Answer(answer.to_vec().unwrap_or_default())
}

/// Returns the answer of the machine's own name servers.
async fn elsewhere(router: &Router, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
    match hand_on(bytes, tcp, router.settings.resolver).await {
        Some(answer) => Some(answer),
        None => reply(&Message::from_vec(bytes).ok()?, ResponseCode::ServFail).to_vec().ok(),
    }
}

fn reply(question: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = true;
    reply.metadata.response_code = code;
    reply.add_queries(question.queries.clone());
    reply
}

/// Answers from the table. For a known name without an address of the requested kind, the answer is empty. Some
/// resolvers take `NXDOMAIN` for AAAA to mean that the whole name does not exist.
fn own(question: &Message, table: &RoutingTable, zone: &Name) -> Message {
    let Some(query) = question.queries.first() else {
        return reply(question, ResponseCode::FormErr);
    };
    let Some(addresses) = addresses(table, &query.name().to_string()) else {
        let mut reply = reply(question, ResponseCode::NXDomain);
        reply.add_authority(authority(zone));
        return reply;
    };
    let mut reply = reply(question, ResponseCode::NoError);
    if query.query_type() == RecordType::A && !addresses.is_empty() {
        let records = addresses.iter().map(|ip| Record::from_rdata(query.name().clone(), TTL, RData::A(A(*ip))));
        reply.add_answers(records.collect::<Vec<_>>());
    } else {
        reply.add_authority(authority(zone));
    }
    reply
}

fn authority(zone: &Name) -> Record {
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, TTL);
    Record::from_rdata(zone.clone(), TTL, RData::SOA(soa))
}

/// First label of a name that asks for every instance. No role has this name, because role names have no underscore.
const ALL: &str = "_all.";

/// Returns the addresses for a name; none if the name does not exist.
///
/// An answer names one instance, chosen at random. Clients that sort several addresses by RFC 6724, as `getaddrinfo`
/// does, would all take the same instance of a subnet.
fn addresses(table: &RoutingTable, name: &str) -> Option<Vec<Ipv4Addr>> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(ZONE)?.trim_end_matches('.');
    if let Some(name) = name.strip_prefix(ALL) {
        return instances(table, name);
    }
    let all = instances(table, name)?;
    Some(if all.is_empty() { all } else { vec![all[rand::random_range(0..all.len())]] })
}

/// Returns the instances behind `app` or `role.app`. An app's own name means its web role, or else the role with the
/// app's name, or else all roles.
fn instances(table: &RoutingTable, name: &str) -> Option<Vec<Ipv4Addr>> {
    let labels: Vec<&str> = name.split('.').collect();
    match labels.as_slice() {
        [app] => {
            let app = AppName::parse(app).ok()?;
            let roles = table.names.get(&app)?;
            let chosen = roles
                .iter()
                .find(|(role, _)| role.is_web())
                .or_else(|| roles.iter().find(|(role, _)| role.as_str() == app.as_str()));
            Some(match chosen {
                Some((_, addresses)) => addresses.clone(),
                None => roles.values().flatten().copied().collect(),
            })
        }
        [role, app] => {
            let roles = table.names.get(&AppName::parse(app).ok()?)?;
            // A role without a ready instance still has a name.
            Some(roles.get(&RoleName::parse(role).ok()?).cloned().unwrap_or_default())
        }
        _ => None,
    }
}

/// Returns the machine's own name servers, without this resolver.
fn upstreams(own: Option<Ipv4Addr>) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let others = servers.filter(|server| Some(*server) != own.map(IpAddr::V4));
    others.map(|server| SocketAddr::from((server, 53))).take(3).collect()
}

async fn hand_on(question: &[u8], tcp: bool, own: Option<Ipv4Addr>) -> Option<Vec<u8>> {
    for server in upstreams(own) {
        let asking = async { if tcp { ask_tcp(question, server).await } else { ask_udp(question, server).await } };
        if let Ok(Ok(answer)) = tokio::time::timeout(UPSTREAM, asking).await {
            return Some(answer);
        }
    }
    None
}

async fn ask_udp(question: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Accept only an answer with the same id, from the server that was asked.
        if length >= 2 && buffer[..2] == question[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(question: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_u16(u16::try_from(question.len()).unwrap_or(u16::MAX)).await?;
    stream.write_all(question).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use std::collections::BTreeMap;

    fn table() -> RoutingTable {
        let name = |text: &str| RoleName::parse(text).expect("a name");
        let shop = BTreeMap::from([
            (name("web"), vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)]),
            (name("worker"), vec![Ipv4Addr::new(10, 0, 0, 4)]),
        ]);
        let redis = BTreeMap::from([(name("server"), vec![Ipv4Addr::new(10, 0, 0, 5)])]);
        let app = |text: &str| AppName::parse(text).expect("a name");
        RoutingTable { names: BTreeMap::from([(app("shop"), shop), (app("redis"), redis)]), ..RoutingTable::default() }
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
        own(&question, &table(), &Name::from_str(ZONE).expect("a zone"))
    }

    #[test]
    fn apps_and_roles_are_found() {
        assert_eq!(ask("shop.gantry.internal.", RecordType::A).answers.len(), 1);
        assert_eq!(ask("_all.shop.gantry.internal.", RecordType::A).answers.len(), 2);
        assert_eq!(ask("_ALL.web.shop.gantry.internal.", RecordType::A).answers.len(), 2);
        assert_eq!(ask("worker.SHOP.gantry.internal.", RecordType::A).answers.len(), 1);
        assert_eq!(ask("redis.gantry.internal.", RecordType::A).answers.len(), 1);
        let none = ask("shop.gantry.internal.", RecordType::AAAA);
        assert_eq!(
            (none.metadata.response_code, none.answers.len(), none.authorities.len()),
            (ResponseCode::NoError, 0, 1)
        );
        let idle = ask("cron.shop.gantry.internal.", RecordType::A);
        assert_eq!((idle.metadata.response_code, idle.answers.len()), (ResponseCode::NoError, 0));
        for unknown in [
            "ghost.gantry.internal.",
            "_all.gantry.internal.",
            "_all._all.shop.gantry.internal.",
            "a.b.shop.gantry.internal.",
            "gantry.internal.",
        ] {
            assert_eq!(ask(unknown, RecordType::A).metadata.response_code, ResponseCode::NXDomain, "{unknown}");
        }
    }

    #[test]
    fn answers_are_spread_over_all_copies() {
        let first = |_| ask("shop.gantry.internal.", RecordType::A).answers[0].data.to_string();
        let answers: Vec<String> = (0..200).map(first).collect();
        for copy in ["10.0.0.2", "10.0.0.3"] {
            let share = answers.iter().filter(|answer| *answer == copy).count();
            assert!((50..=150).contains(&share), "{copy} has {share} of 200");
        }
    }
}
