//! Questions for the machine's own name servers, and their answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::zone::reply;

/// Longest time that an upstream server may take.
const UPSTREAM: Duration = Duration::from_secs(3);

/// Returns the answer of the machine's own name servers.
pub(super) async fn query(bytes: &[u8], tcp: bool, own: Ipv4Addr) -> Option<Vec<u8>> {
    match ask_upstreams(bytes, tcp, own).await {
        Some(answer) => Some(answer),
        None => reply(&Message::from_vec(bytes).ok()?, ResponseCode::ServFail).to_vec().ok(),
    }
}

/// Returns the machine's own name servers, without this resolver.
fn upstreams(own: Ipv4Addr) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let others = servers.filter(|server| *server != IpAddr::V4(own));
    others.map(|server| SocketAddr::from((server, 53))).take(3).collect()
}

async fn ask_upstreams(question: &[u8], tcp: bool, own: Ipv4Addr) -> Option<Vec<u8>> {
    for server in upstreams(own) {
        let answering =
            async { if tcp { query_tcp(question, server).await } else { query_udp(question, server).await } };
        if let Ok(Ok(answer)) = tokio::time::timeout(UPSTREAM, answering).await {
            return Some(answer);
        }
    }
    None
}

async fn query_udp(question: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
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

async fn query_tcp(question: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_u16(u16::try_from(question.len()).unwrap_or(u16::MAX)).await?;
    stream.write_all(question).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
