//! The identity of the cluster.

use gantry_model::ClusterId;
use gantry_records::{CLUSTER_ID_KEY, RecordIndex};

use super::with_app;
use crate::adopt_identity;

#[test]
fn a_cluster_gets_one_identity_and_keeps_it() {
    let mut records = with_app();
    let changes = adopt_identity(&records, ClusterId::from_random(7));
    let [change] = changes.as_slice() else { panic!("{changes:?}") };
    let (key, value) = change.entry().expect("a record");
    assert_eq!(key, CLUSTER_ID_KEY);
    let loaded = RecordIndex::load([(key.as_str(), value.as_deref().unwrap_or_default())]).expect("records");
    records.apply(change.clone());
    for of in [&records, &loaded] {
        assert_eq!(of.cluster, Some(ClusterId::from_random(7)));
        assert!(adopt_identity(of, ClusterId::from_random(8)).is_empty());
    }
}
