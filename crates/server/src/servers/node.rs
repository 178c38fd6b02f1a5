//! One of several servers, whether it leads or follows.

use std::sync::Arc;

use gantry_blobs::BlobStore;
use gantry_store::Store;

use super::gate::Gate;
use super::membership::Membership;
use crate::ServerSettings;
use crate::leadership::Candidate;

/// One of several servers.
pub(super) struct Node {
    pub(super) store: Arc<dyn Store>,
    pub(super) settings: ServerSettings,
    pub(super) candidate: Candidate,
    pub(super) blobs: BlobStore,
    pub(super) membership: Arc<Membership>,
    pub(super) gate: Arc<Gate>,
}
