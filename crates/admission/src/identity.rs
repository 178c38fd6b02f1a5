//! The identity of the cluster.

use gantry_model::ClusterId;
use gantry_records::{RecordChange, RecordIndex, StoreRecord};

/// Gives the cluster its identity. Returns no change once the cluster has one.
#[must_use]
pub fn adopt_identity(records: &RecordIndex, fresh: ClusterId) -> Vec<RecordChange> {
    match records.cluster {
        Some(_) => Vec::new(),
        None => vec![StoreRecord::Cluster(fresh).into()],
    }
}
