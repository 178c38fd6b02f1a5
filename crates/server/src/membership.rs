//! The server's side of trust: the authority of the cluster, the server's own certificate, and the listener for
//! machines and people.
//!
//! The server reads the authority from the records and makes a key and a certificate of its own at each start, in memory.
//! `gantry server init` leaves the first records of a cluster in a file, which the server adopts once.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use gantry_admission::{Actor, Founding};
use gantry_model::{JoinRole, MachineName, Moment};
use gantry_records::{AuthorityRecord, JoinTokenRecord, MemberRecord, RecordIndex};
use gantry_supervision::{Backoff, ReconcileLoop};
use gantry_trust::{CertificateAuthority, Credentials, MachineKey, TrustError};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::settings::ServerSettings;
use crate::{Server, ServerError, connections, core, http};

/// File with the first records of a cluster, in the server's data folder.
pub const FOUNDING_FILE: &str = "founding.json";

/// Interval between checks whether the server's certificate is to be renewed.
const RENEWAL_POLL: Duration = Duration::from_secs(3600);

/// Requests to join that are answered in each second, and in a burst.
const JOINS_PER_SECOND: f64 = 5.0;
const JOINS_BURST: f64 = 50.0;

/// Seconds until a refused request to join may be repeated: the budget grows by [`JOINS_PER_SECOND`] meanwhile.
pub(crate) const JOIN_RETRY_AFTER: u64 = 1;

/// The first records of a cluster, as `gantry server init` writes them.
#[derive(Serialize, Deserialize)]
pub struct FoundingFile {
    /// The authority.
    pub authority: AuthorityRecord,
    /// The first machine.
    pub member: MemberRecord,
    /// The first join tokens, by the hash of their secret.
    pub tokens: Vec<(String, JoinTokenRecord)>,
}

/// The authority, and the server's own certificate.
pub(crate) struct ServerTrust {
    pub(crate) authority: CertificateAuthority,
    pub(crate) credentials: Credentials,
    machine: MachineName,
    /// Hosts by which people name this server in URLs.
    hosts: Vec<String>,
}

impl ServerTrust {
    /// Makes a key and a certificate for this server.
    pub(crate) fn of(record: &AuthorityRecord, settings: &ServerSettings) -> Result<Self, ServerError> {
        let authority = CertificateAuthority::from_pem(&record.certificate, &record.key)?;
        let (key, machine) = (MachineKey::generate()?, settings.machine.clone());
        let hosts: Vec<String> = settings.advertise.iter().cloned().chain([machine.to_string()]).collect();
        let chain = authority.issue_server(&key.public(), &machine, &hosts, core::now())?;
        let credentials = Credentials::new(authority.certificate_pem(), &chain, &key)?;
        Ok(Self { authority, credentials, machine, hosts })
    }

    /// Listens for machines and people over TLS. Returns what serves them; `None` without an address.
    pub(crate) async fn listen(
        &self,
        settings: &ServerSettings,
        router: Router,
    ) -> Result<Option<impl Future<Output = Infallible> + Send + use<>>, ServerError> {
        let Some(address) = settings.cluster_listen else { return Ok(None) };
        let listening = TcpListener::bind(address).await;
        let listener = listening.map_err(|source| ServerError::ListenCluster { address, source })?;
        let tls = TlsAcceptor::from(self.credentials.cluster_config(&[b"http/1.1"])?);
        tracing::info!(%address, "serving machines");
        Ok(Some(connections::serve_tls(listener, tls, self.credentials.clone(), router)))
    }

    /// Renews the server's own certificate, for ever.
    pub(crate) async fn renew(self: Arc<Self>) -> Infallible {
        let pass = move || {
            let trust = Arc::clone(&self);
            async move { trust.renew_if_due() }
        };
        let renewal = ReconcileLoop::new("renewal of the certificate", RENEWAL_POLL, Backoff::constant(RENEWAL_POLL));
        renewal.delayed().run(pass).await
    }

    fn renew_if_due(&self) -> Result<(), TrustError> {
        let now = core::now();
        if self.credentials.is_renewal_due(now) {
            let key = MachineKey::generate()?;
            let chain = self.authority.issue_server(&key.public(), &self.machine, &self.hosts, now)?;
            self.credentials.replace(&chain, &key)?;
            tracing::info!("the server's certificate was renewed");
        }
        Ok(())
    }
}

/// The server's means to admit machines.
pub(crate) struct Membership {
    pub(crate) trust: Arc<ServerTrust>,
    joins: Mutex<JoinBudget>,
}

/// Number of requests to join that may be answered now.
struct JoinBudget {
    left: f64,
    at: Instant,
}

impl JoinBudget {
    fn new(now: Instant) -> Self {
        Self { left: JOINS_BURST, at: now }
    }

    /// Takes one request. Returns false if the budget is used up.
    fn take(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * JOINS_PER_SECOND).min(JOINS_BURST);
        self.at = now;
        let may = self.left >= 1.0;
        self.left -= if may { 1.0 } else { 0.0 };
        may
    }
}

impl Membership {
    fn new(record: &AuthorityRecord, settings: &ServerSettings) -> Result<Self, ServerError> {
        let joins = Mutex::new(JoinBudget::new(Instant::now()));
        Ok(Self { trust: Arc::new(ServerTrust::of(record, settings)?), joins })
    }

    /// Takes one request to join from the budget. Returns false if the budget is used up.
    pub(crate) fn may_answer(&self) -> bool {
        self.joins.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}

/// Adopts the first records of a cluster, and makes the server's certificate. Returns `None` in a cloud of one machine.
pub(crate) async fn prepare(
    core: &core::CoreHandle,
    settings: &ServerSettings,
) -> Result<Option<Membership>, ServerError> {
    adopt(core, settings).await?;
    core.view().records.authority.as_ref().map(|record| Membership::new(record, settings)).transpose()
}

/// Writes the records in the founding file to the store, and removes the file. A repetition after a kill changes nothing.
async fn adopt(core: &core::CoreHandle, settings: &ServerSettings) -> Result<(), ServerError> {
    let path = settings.data.join(FOUNDING_FILE);
    let file = |action| {
        let path = path.clone();
        move |source| ServerError::File { action, path, source }
    };
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(file("read"))?,
    };
    let parsed = serde_json::from_slice(&text);
    let FoundingFile { authority, member, tokens } =
        parsed.map_err(|source| ServerError::Founding { path: path.clone(), source })?;
    let founding = Founding { authority, member, tokens };
    let found = |records: &RecordIndex, now: Moment| Actor::new(records, now, "gantry").found_cluster(founding);
    core.mutate(found).await?;
    std::fs::remove_file(&path).and_then(|()| gantry_ledger::sync(&settings.data)).map_err(file("remove"))
}

/// Serves the cluster port of the only server of a cluster. One of several servers serves its own, whether it leads or not
/// (`servers::cluster_port`).
pub(crate) async fn serve(
    server: &Arc<Server>,
) -> Result<Option<impl Future<Output = ()> + Send + use<>>, ServerError> {
    let Some(membership) = server.membership.as_ref().filter(|_| server.servers.is_none()) else { return Ok(None) };
    let serving = membership.trust.listen(&server.settings, http::router(Arc::clone(server))).await?;
    let server = Arc::clone(server);
    Ok(serving.map(|serving| async move {
        let Some(membership) = &server.membership else { return };
        match tokio::select! {
            never = serving => never,
            never = Arc::clone(&membership.trust).renew() => never,
        } {}
    }))
}

/// Addresses of all servers, each `host:port`.
pub(crate) fn servers(records: &RecordIndex) -> Vec<String> {
    let servers = records.members.values().filter(|member| member.role == JoinRole::Server);
    servers.filter_map(|member| member.server.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_to_join_is_answered_after_the_promised_seconds() {
        let begin = Instant::now();
        let mut budget = JoinBudget::new(begin);
        let taken = (0..100).filter(|_| budget.take(begin)).count();
        assert_eq!(taken, 50, "the burst");
        assert!(!budget.take(begin));
        let later = begin + Duration::from_secs(JOIN_RETRY_AFTER);
        assert_eq!((0..100).filter(|_| budget.take(later)).count(), 5);
    }
}
