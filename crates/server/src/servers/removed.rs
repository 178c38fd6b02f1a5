//! Removal of the records of servers whose machines were removed, by the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_model::{JoinRole, MachineName};
use gantry_records::MemberRecord;
use gantry_store::{StoreError, Txn, TxnCondition};
use gantry_supervision::{Backoff, ReconcileLoop};

use super::keys::KNOWN;
use super::other_servers::OtherServers;
use crate::{Server, leadership};

/// Poll interval for the records of the servers.
const INTERVAL: Duration = Duration::from_secs(30);

impl OtherServers {
    /// Forgets the servers that do not live and whose machines do not belong to the cluster any more.
    pub(crate) async fn forget_removed(&self, server: &Server) -> Result<(), StoreError> {
        let removed = self.removed(&server.core.view().records.members);
        if removed.is_empty() {
            return Ok(());
        }
        let leads = TxnCondition::Created(leadership::KEY.to_owned(), self.leadership.revision().await);
        let txn = removed.iter().fold(Txn::default().when(leads), |txn, name| txn.delete(format!("{KNOWN}{name}")));
        self.store.commit(txn).await?;
        tracing::info!(servers = removed.join(","), "servers of removed machines are forgotten");
        Ok(())
    }

    /// The servers that do not live and whose machines are not among the members.
    fn removed(&self, members: &BTreeMap<MachineName, Arc<MemberRecord>>) -> Vec<String> {
        let is_server = |name: &String| {
            members.iter().any(|(machine, member)| machine.as_str() == name && member.role == JoinRole::Server)
        };
        // Without members, servers share the store alone, and no command removes them.
        match members.is_empty() {
            true => Vec::new(),
            false => self.unavailable().into_iter().filter(|name| !is_server(name)).collect(),
        }
    }
}

/// Forgets removed servers for as long as the term lasts: a server may have lived when its machine was removed.
pub(crate) async fn forget_removed_servers(server: Arc<Server>) {
    let pass = move || {
        let server = Arc::clone(&server);
        async move {
            match &server.servers {
                Some(servers) => servers.forget_removed(&server).await,
                None => Ok(()),
            }
        }
    };
    ReconcileLoop::new("removal of servers", INTERVAL, Backoff::constant(INTERVAL)).delayed().run(pass).await;
}
