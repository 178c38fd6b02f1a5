//! Sockets of the resolver: UDP and TCP, port 53.

use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gantry_supervision::{Backoff, Retry};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::forward;
use super::zone::{LocalAnswer, ZoneData, local_answer};
use crate::routes::store::RouteStore;

/// The longest answer in a datagram that every resolver takes (RFC 1035, section 4.2.1).
const UDP_MAX: usize = 512;

/// Maximum number of forwarded questions at once; the same limit holds for TCP connections.
const AT_ONCE: usize = 500;

/// Maximum number of connections that wait for an accept.
const BACKLOG: u32 = 1024;

/// Pause between two attempts to listen, because the agent may not have made the bridge yet.
const RETRY: Duration = Duration::from_millis(200);

/// Failed attempts before the router logs a warning: another program has the port, and no container resolves any name.
const WARN_AFTER: u64 = 25;

/// Table and address of the resolver.
struct DnsResolver {
    routes: Arc<RouteStore>,
    /// Address of the resolver itself, which is never asked.
    own: Ipv4Addr,
}

impl DnsResolver {
    fn answer(&self, question: &[u8], size_max: usize) -> LocalAnswer {
        let now = self.routes.now();
        let data = ZoneData { table: &now.table, services: &now.services, here: self.routes.own_machine() };
        local_answer(data, question, size_max)
    }
}

/// The resolver cannot bind its sockets.
#[derive(Debug, thiserror::Error)]
#[error("cannot answer DNS queries on {address}; containers and builds cannot resolve names until the address is free")]
struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Answers on `address`, for ever.
pub(crate) async fn run(routes: Arc<RouteStore>, own: Ipv4Addr) {
    let address = SocketAddr::from((own, 53));
    let retry = Retry::new("resolver", Backoff::constant(RETRY)).quiet_for(WARN_AFTER);
    let opened = retry.until_done(|| ready(listen(address).map_err(|source| ListenError { address, source }))).await;
    let (udp, tcp) = (Arc::new(opened.0), opened.1);
    tracing::info!(%address, "answering DNS queries");
    let (datagrams, streams) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(AT_ONCE)));
    let resolver = Arc::new(DnsResolver { routes, own });
    tokio::join!(serve_udp(&resolver, udp, &datagrams), serve_tcp(&resolver, tcp, &streams));
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

async fn serve_udp(resolver: &Arc<DnsResolver>, socket: Arc<UdpSocket>, slots: &Arc<Semaphore>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        // Questions about the zone are answered at once, whatever else is under way.
        let bytes = &buffer[..length];
        match resolver.answer(bytes, UDP_MAX) {
            LocalAnswer::Answer(answer) => drop(socket.try_send_to(&answer, peer)),
            LocalAnswer::Invalid => {}
            LocalAnswer::Foreign => {
                // Questions beyond the limit are dropped; resolvers ask again.
                let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
                    continue;
                };
                let (own, socket, question) = (resolver.own, Arc::clone(&socket), bytes.to_vec());
                #[expect(clippy::disallowed_methods, reason = "a resolver without an answer asks again")]
                tokio::spawn(async move {
                    if let Some(answer) = forward::query(&question, false, own).await {
                        let _ = socket.send_to(&answer, peer).await;
                    }
                    drop(slot);
                });
            }
        }
    }
}

async fn serve_tcp(resolver: &Arc<DnsResolver>, listener: TcpListener, slots: &Arc<Semaphore>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
            continue;
        };
        let resolver = Arc::clone(resolver);
        #[expect(clippy::disallowed_methods, reason = "the resolver sees the end of its connection")]
        tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(10), serve_connection(&resolver, stream)).await;
            drop(slot);
        });
    }
}

async fn serve_connection(resolver: &DnsResolver, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut question = vec![0; usize::from(length)];
        stream.read_exact(&mut question).await?;
        let answer = match resolver.answer(&question, usize::from(u16::MAX)) {
            LocalAnswer::Answer(answer) => Some(answer),
            LocalAnswer::Invalid => None,
            LocalAnswer::Foreign => forward::query(&question, true, resolver.own).await,
        };
        if let Some(answer) = answer {
            stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
            stream.write_all(&answer).await?;
        }
    }
}
