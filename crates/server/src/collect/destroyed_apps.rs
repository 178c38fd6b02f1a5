//! Garbage collection of the records of destroyed apps.

use gantry_model::Moment;
use gantry_records::{RecordChange, RecordIndex, destroyed_key};

/// Returns the removals of records that no log needs any more. A machine removes the logs of a destroyed app in the
/// first garbage collection after the rule `log-retention`; a second interval is a margin for a slow one.
pub(super) fn expired(records: &RecordIndex, now: Moment) -> Vec<RecordChange> {
    let policy = &records.policy;
    let kept = policy.log_retention().millis().saturating_add(policy.collect_every().millis().saturating_mul(2));
    let expired = records.destroyed.values().filter(|destroyed| now.since(destroyed.at) > kept);
    expired.map(|destroyed| RecordChange::Remove(destroyed_key(&destroyed.app))).collect()
}

#[cfg(test)]
mod tests {
    use gantry_model::{AppName, Seconds};
    use gantry_records::{DestroyedApp, StoreRecord};

    use super::*;

    #[test]
    fn the_record_of_a_destroyed_app_outlives_its_logs() {
        let name = AppName::parse("shop").expect("a name");
        let mut records = RecordIndex::default();
        let at = Moment(1_000_000);
        records.apply(StoreRecord::Destroyed(DestroyedApp { app: name.clone(), at, last_release: 3 }).into());
        let kept = records.policy.log_retention().millis() + 2 * records.policy.collect_every().millis();
        for (age, is_kept) in [(0, true), (kept, true), (kept + 1, false)] {
            let mut later = records.clone();
            expired(&records, Moment(at.0 + age)).into_iter().for_each(|change| later.apply(change));
            assert_eq!(later.destroyed.contains_key(&name), is_kept, "{age} ms");
        }
        records.policy.log_retention = Some(Seconds(60));
        assert_eq!(expired(&records, Moment(at.0 + kept)).len(), 1, "the policy of the cluster decides");
        assert!(expired(&records, Moment(0)).is_empty(), "a record of the future is kept");
    }
}
