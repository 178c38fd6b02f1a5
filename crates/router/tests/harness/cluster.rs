//! Two machines of a cluster, whose routers reach each other through tunnels.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use gantry_model::role::AppProtocol;
use gantry_model::{AllocationId, Endpoint, MachineAddress, MachineName, Moment, RoutingTable};
use gantry_trust::{CertificateAuthority, Credentials, MachineKey};

use super::{Member, NOWHERE, RunningRouter, router_of};

pub(crate) fn machine(name: &str) -> MachineName {
    MachineName::parse(name).expect("a name")
}

pub(crate) fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    Moment(u64::try_from(since.as_millis()).expect("a time"))
}

pub(crate) fn authority() -> CertificateAuthority {
    CertificateAuthority::generate(now()).expect("an authority")
}

pub(crate) fn credentials(authority: &CertificateAuthority, name: &str) -> Credentials {
    let key = MachineKey::generate().expect("a key");
    let chain = authority.issue(&key.public(), &machine(name), false, now()).expect("a certificate");
    Credentials::new(authority.certificate_pem(), &chain, &key).expect("credentials")
}

/// An endpoint of the machine `on`.
pub(crate) fn endpoint(on: &str, number: u32, address: SocketAddr) -> Endpoint {
    let allocation = AllocationId::parse(&format!("shop.v1.web-{number}")).expect("an id");
    let at = MachineAddress::new(machine(on), Ipv4Addr::LOCALHOST);
    Endpoint { allocation, at, port: address.port(), protocol: AppProtocol::Http1 }
}

/// Two machines, `m` and `far`, with the sockets of their tunnels.
pub(crate) struct Cluster {
    pub(crate) authority: CertificateAuthority,
    pub(crate) tunnels: BTreeMap<&'static str, TcpListener>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let socket = || TcpListener::bind("127.0.0.1:0").expect("a port");
        Self { authority: authority(), tunnels: [("m", socket()), ("far", socket())].into() }
    }

    pub(crate) fn table(&self, generation: u64, endpoints: Vec<Endpoint>) -> RoutingTable {
        let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
        let mut table = super::table(generation, endpoints);
        for (name, listener) in &self.tunnels {
            table.tunnels.set(&machine(name), &[address(listener).parse().expect("an address")]);
        }
        table
    }

    pub(crate) fn member(&self, name: &'static str) -> Member {
        let tunnel = Some(self.tunnels[name].try_clone().expect("a socket"));
        Member { name, tunnel, credentials: Some(credentials(&self.authority, name)) }
    }

    pub(crate) async fn router(&self, name: &'static str, table: RoutingTable) -> RunningRouter {
        router_of(self.member(name), table, NOWHERE).await
    }

    /// Starts both routers with one endpoint on `far`.
    pub(crate) async fn with_one(&self, address: SocketAddr) -> [RunningRouter; 2] {
        let table = self.table(1, vec![endpoint("far", 1, address)]);
        [self.router("m", table.clone()).await, self.router("far", table).await]
    }
}
