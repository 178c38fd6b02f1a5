//! The other servers, as the server that leads sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_api::types::{ServerBlobs, ServerInfo, ServerSilence};
use gantry_model::Digest;
use gantry_store::Store;

use super::membership::{Membership, ServerRecord};
use super::replicas::PeerBlobs;
use crate::leadership::Leadership;

/// The other servers, as the server that leads sees them.
pub(crate) struct OtherServers {
    pub(crate) membership: Arc<Membership>,
    pub(super) blobs: Arc<PeerBlobs>,
    pub(super) leadership: Leadership,
    pub(super) store: Arc<dyn Store>,
}

impl OtherServers {
    /// Describes all servers. This one leads.
    pub(crate) fn info(&self) -> Vec<ServerInfo> {
        let own = &self.membership.own().name;
        let info = |(ServerRecord { name, address, .. }, lives)| ServerInfo {
            leads: name == *own,
            name,
            address: address.address,
            lives,
        };
        self.membership.all().into_iter().map(info).collect()
    }

    /// Returns which of the blobs each other server has.
    pub(crate) async fn find_blobs(&self, digests: &BTreeSet<Digest>) -> BTreeMap<String, ServerBlobs> {
        let own = &self.membership.own().name;
        let mut found = BTreeMap::new();
        for (peer, lives) in self.membership.all().into_iter().filter(|(peer, _)| peer.name != *own) {
            let blobs = match lives {
                false => ServerBlobs::unknown(ServerSilence::Away, "is away".to_owned()),
                true => match self.blobs.list(&peer).await {
                    Ok(list) => ServerBlobs::of(list.into_keys().filter(|digest| digests.contains(digest)).collect()),
                    Err(error) => {
                        let reason = format!("did not answer: {}", crate::causes(&error));
                        ServerBlobs::unknown(ServerSilence::NoAnswer, reason)
                    }
                },
            };
            found.insert(peer.name, blobs);
        }
        found
    }

    /// Returns the names of all known servers.
    pub(crate) fn names(&self) -> Vec<String> {
        self.membership.all().into_iter().map(|(record, _)| record.name).collect()
    }

    /// Returns the names of the known servers that do not live.
    pub(crate) fn unavailable(&self) -> Vec<String> {
        self.membership.all().into_iter().filter(|(_, lives)| !lives).map(|(record, _)| record.name).collect()
    }
}
