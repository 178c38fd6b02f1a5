//! Packs the changes of one step into transactions.
//!
//! A step is a list of groups. The order of the groups, and the rule that a group stays whole, make every prefix of the
//! transactions safe after a kill:
//! 1. **Numbers of allocations.** A number without an allocation is skipped; an allocation without its number could be
//!    named a second time after its removal.
//! 2. **Parts of machines.** A part may retire an instance and name a revision that is not written yet. The next server
//!    plans again and composes routes without the instance, or lets the instance run on.
//! 3. **What all routes share**, and then the **routes of each app** by rising revision. After the parts: routes without
//!    an instance whose part still says `Run` would let the next server stop that instance without the barrier. In
//!    order: a router that has a revision must have every change up to that revision.
//! 4. **Each app with its deploys and events.** A deploy enters its next state only together with its app's record, and
//!    after the routes that the state relies on.
//! 5. **Removals**, the app's own record last, so that an interrupted removal starts again.

use gantry_records::RecordChange;

/// Changes that belong together.
pub type ChangeGroup = Vec<RecordChange>;

/// Packs groups in order into transactions of at most `most` changes. Only a group that is larger is split, in order.
#[must_use]
pub fn transactions(groups: Vec<ChangeGroup>, most: usize) -> Vec<Vec<RecordChange>> {
    let mut packed: Vec<Vec<RecordChange>> = Vec::new();
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        match packed.last_mut() {
            Some(last) if last.len() + group.len() <= most => last.extend(group),
            _ => packed.extend(group.chunks(most).map(<[RecordChange]>::to_vec)),
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(sizes: &[usize]) -> Vec<ChangeGroup> {
        let numbered = |group: usize, size: usize| (0..size).map(move |n| RecordChange::Remove(format!("{group}/{n}")));
        sizes.iter().enumerate().map(|(group, size)| numbered(group, *size).collect()).collect()
    }

    fn keys(transaction: &[RecordChange]) -> Vec<String> {
        let key = |change: &RecordChange| match change {
            RecordChange::Remove(key) => key.clone(),
            RecordChange::Put(record) => record.key(),
        };
        transaction.iter().map(key).collect()
    }

    #[test]
    fn combines_small_steps_into_one_transaction() {
        assert_eq!(transactions(groups(&[1, 0, 2, 3]), 6).len(), 1);
        assert!(transactions(groups(&[0, 0]), 6).is_empty());
    }

    #[test]
    fn keeps_groups_whole_and_in_order() {
        for sizes in [vec![3, 3, 3], vec![1; 20], vec![4, 1, 4, 1, 4], vec![5, 2, 5, 2]] {
            let packed = transactions(groups(&sizes), 5);
            let all: Vec<String> = packed.iter().flat_map(|one| keys(one)).collect();
            assert_eq!(all, groups(&sizes).iter().flat_map(|group| keys(group)).collect::<Vec<_>>());
            assert!(packed.iter().all(|one| one.len() <= 5));
            for (group, size) in sizes.iter().enumerate() {
                let prefix = format!("{group}/");
                let with = packed.iter().filter(|one| keys(one).iter().any(|key| key.starts_with(&prefix)));
                assert_eq!(with.count(), 1, "group {group} of {size}");
            }
        }
    }

    #[test]
    fn splits_only_a_group_that_is_too_large() {
        let sizes: Vec<usize> = transactions(groups(&[2, 12, 1]), 5).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 5, 5, 3]);
    }
}
