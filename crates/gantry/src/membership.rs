//! This machine's membership in a cluster: its identity decides what `gantry up` runs, and how services reach servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use gantry_api::{Client, Servers};
use gantry_control::endpoints::{Renew, ServerAddresses};
use gantry_control::join::{RenewCall, RenewReply};
use gantry_error_codes::ErrorCode;
use gantry_model::{MachineId, Moment};
use gantry_trust::{Credentials, Identity, PeerName};

use crate::args::Machine;
use crate::coded::WithCode;

/// Default ports of a server's listener for machines, and of a router's tunnel.
pub(crate) const CLUSTER_PORT: u16 = 7000;
const TUNNEL_PORT: u16 = 7001;

/// Poll interval for the certificate and the list of servers.
const POLL: Duration = Duration::from_secs(30);

/// Number of consecutive failures after which a failure is logged once.
const FAILURES_BEFORE_LOG: u32 = 2;

/// Folder of the identity.
pub(crate) fn folder(machine: &Machine) -> PathBuf {
    machine.data.join(gantry_trust::FOLDER)
}

/// Reads the machine's identity; `None` on a machine that is a cloud of its own.
pub(crate) fn identity(machine: &Machine) -> anyhow::Result<Option<Identity>> {
    let read = Identity::load(&folder(machine)).context("cannot read this machine's identity in its cluster");
    read.with_code(ErrorCode::InvalidIdentity)
}

/// The settings of `gantry up` on this machine. The identity names the machine, its network and its store; flags choose
/// the rest.
pub(crate) fn settings(machine: &Machine, identity: Option<&Identity>) -> anyhow::Result<Machine> {
    let mut settings = machine.clone();
    let Some(identity) = identity else { return Ok(settings) };
    settings.machine = Some(identity.machine.clone());
    if let Some(subnet) = identity.subnet {
        settings.network = (subnet.gateway(), subnet.prefix());
    }
    settings.advertise = settings.advertise.or_else(|| identity.advertise.clone());
    let everywhere = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    settings.tunnel = settings.tunnel.or(Some(everywhere(TUNNEL_PORT)));
    if identity.is_server {
        settings.cluster_listen = settings.cluster_listen.or(Some(everywhere(CLUSTER_PORT)));
        if let (None, Some(store)) = (&settings.store, &identity.store) {
            let store = store.parse().context("cannot read the store's address in this machine's identity");
            settings.store = Some(store.with_code(ErrorCode::InvalidIdentity)?);
        }
    }
    Ok(settings)
}

/// The settings of a command that works on this machine's data. A member of a cluster knows its store and its name.
pub(crate) fn own_settings(machine: &Machine) -> anyhow::Result<Machine> {
    settings(machine, identity(machine)?.as_ref())
}

/// Addresses and identity with which a service of a machine in a cluster reaches the servers.
#[derive(Clone)]
pub(crate) struct Membership {
    folder: PathBuf,
    identity: Identity,
    credentials: Credentials,
    servers: Servers,
    /// Address of the server on this machine.
    own: Option<String>,
}

impl Membership {
    /// Reads identity and certificate; `None` on a machine that is a cloud of its own.
    pub(crate) fn open(machine: &Machine) -> anyhow::Result<Option<Self>> {
        let Some(identity) = identity(machine)? else { return Ok(None) };
        let folder = folder(machine);
        let credentials = Credentials::load(&folder).context("cannot read this machine's certificate");
        let credentials = credentials.with_code(ErrorCode::InvalidIdentity)?;
        let config = credentials.client_config(&[b"http/1.1"])?;
        let own = identity.is_server.then_some(machine.cluster_listen).flatten();
        let own = own.map(|listen| crate::machine::own_address(listen).to_string());
        let addresses = own.iter().cloned().chain(identity.servers.iter().cloned()).collect();
        let servers = Servers::new(addresses, config, PeerName::Server.server_name());
        Ok(Some(Self { folder, identity, credentials, servers, own }))
    }

    /// Id under which the machine has joined.
    pub(crate) fn id(&self) -> &MachineId {
        &self.identity.id
    }

    /// The machine's key and certificates, which [`Self::keep`] keeps up to date.
    pub(crate) fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// A client that the machine's certificate authenticates.
    pub(crate) fn client(&self) -> Client {
        Client::over_tls(self.servers.clone(), None)
    }

    /// Keeps certificate and list of servers up to date, for ever. One service of the machine renews; the others read
    /// what that service wrote.
    pub(crate) async fn keep(mut self, renews: bool) {
        let mut failures = 0_u32;
        loop {
            let kept = if renews { self.renew().await } else { self.reload() };
            failures = if kept.is_ok() { 0 } else { failures.saturating_add(1) };
            // The server may still be starting, or be away for hours.
            if let (Err(error), FAILURES_BEFORE_LOG) = (kept, failures) {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot keep this machine's certificate and servers up to date"
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Renews the certificate at two thirds of its life, also one that has expired, and asks for the list of servers.
    async fn renew(&mut self) -> anyhow::Result<()> {
        if self.credentials.is_renewal_due(Moment(gantry_linux::clock::wall())) {
            let call = RenewCall { machine: self.identity.machine.clone() };
            // A client of its own: its connection shows the old certificate.
            let RenewReply { chain, ca } = self.client().submit(&Renew {}, &call).await?;
            Identity::store_certificate(&self.folder, &chain, &ca)?;
            self.credentials.reload(&self.folder)?;
            tracing::info!("this machine's certificate was renewed");
        }
        let servers = self.client().fetch(&ServerAddresses { machine: self.identity.machine.clone() }).await?;
        if !servers.is_empty() && servers != self.identity.servers {
            self.identity.servers = servers;
            self.identity.store(&self.folder)?;
            self.take_servers();
        }
        Ok(())
    }

    /// Reads the certificate and the servers that another service of this machine has written.
    fn reload(&mut self) -> anyhow::Result<()> {
        if self.credentials.reload(&self.folder)? {
            tracing::info!("this machine's renewed certificate is in use");
        }
        if let Some(identity) = Identity::load(&self.folder)?.filter(|identity| *identity != self.identity) {
            self.identity = identity;
            self.take_servers();
        }
        Ok(())
    }

    fn take_servers(&self) {
        self.servers.set_addresses(self.own.iter().cloned().chain(self.identity.servers.iter().cloned()).collect());
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use gantry_model::MachineName;

    use super::*;
    use crate::args::{Args, Command};

    fn machine(words: &[&str]) -> Machine {
        match Args::parse_from([&["gantry", "up"], words].concat()).command {
            Command::Up(machine) => machine,
            _ => panic!("up"),
        }
    }

    #[test]
    fn a_member_works_on_the_store_of_its_identity_unless_another_is_named() {
        let data = tempfile::tempdir().expect("a folder");
        let folder = data.path().display().to_string();
        let store = |words: &[&str]| {
            let settings = own_settings(&machine(&[&["--data", folder.as_str()], words].concat())).expect("settings");
            (settings.store().to_string(), settings.machine.map(|name| name.to_string()))
        };
        let file = data.path().canonicalize().expect("a folder").join("store.db").display().to_string();
        assert_eq!(store(&["--machine", "m9"]), (file, Some("m9".to_owned())), "a cloud of its own");
        let identity = Identity {
            machine: MachineName::parse("m1").expect("a name"),
            id: MachineId::from_random(1),
            is_server: true,
            servers: Vec::new(),
            subnet: None,
            advertise: None,
            store: Some("etcd://m1:2379/gantry".to_owned()),
        };
        identity.store(&data.path().join(gantry_trust::FOLDER)).expect("stored");
        assert_eq!(store(&[]), ("etcd://m1:2379/gantry".to_owned(), Some("m1".to_owned())));
        assert_eq!(store(&["--store", "/elsewhere/store.db"]).0, "/elsewhere/store.db");
    }
}
