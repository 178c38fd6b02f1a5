//! Garbage collection of old releases, deploys and events, with the tags and builds of the releases.
//!
//! Whatever a rollback needs is kept. The cluster policy says how much else is kept. An app keeps:
//! - the current release and the previous release;
//! - every release that an open deploy names, or that still runs;
//! - the newest releases (rule `releases-kept`);
//! - the newest releases that once served, however old (rule `good-releases-kept`);
//! - every release of a job that has not ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::{AllocationNumbers, AppName, DeployCause, Digest, Release, ReleaseNumber, Slot};

use gantry_records::{
    RecordChange, RecordIndex, StoreRecord, build_key, config_key, deploy_key, event_keys, release_key, tag_key,
};

/// Returns the removals of records that are no longer needed.
pub(super) fn surplus(records: &RecordIndex, pinned: &BTreeSet<(AppName, ReleaseNumber)>) -> Vec<RecordChange> {
    let mut changes: Vec<String> = records.surplus_events().flat_map(event_keys).collect();
    let deploys_kept = records.policy.deploys_kept() as usize;
    let mut numbers = Vec::new();
    let mut used: BTreeSet<&Digest> = BTreeSet::new();
    for app in records.apps.keys() {
        let mut kept = kept_releases(records, app);
        kept.extend(pinned.iter().filter(|(of, _)| of == app).map(|(_, number)| *number));
        let (stay, go): (Vec<_>, Vec<_>) = records
            .releases
            .get(app)
            .into_iter()
            .flat_map(|releases| releases.values())
            .partition(|release| kept.contains(&release.number));
        changes.extend(go.iter().map(|release| release_key(app, release.number)));
        used.extend(stay.iter().map(|release| release.config.digest()));
        numbers.extend(surplus_numbers(records, app, &go));
        changes.extend(surplus_tags(records, app, &stay, &go).into_iter().map(|tag| tag_key(app.as_str(), &tag)));
        let images: BTreeSet<&Digest> =
            kept.iter().filter_map(|n| records.release(app, *n)).map(|r| &r.image).collect();
        let builds = records.builds.iter().filter(|((of, _), build)| of == app && !images.contains(&build.image));
        // During a deploy, a build may be newer than any release.
        let idle = records.open_deploys(app).next().is_none();
        changes.extend(builds.filter(|_| idle).map(|((_, commit), _)| build_key(app, commit)));
        let deploys = records.deploys.get(app).into_iter().flatten();
        // A deploy's record is the only proof that its release once served.
        let told = |deploy: &gantry_model::Deploy| deploy.release.is_some_and(|number| kept.contains(&number));
        let ended = deploys.rev().skip(deploys_kept).filter(|(_, deploy)| deploy.state.is_final() && !told(deploy));
        changes.extend(ended.map(|(number, _)| deploy_key(app, *number)));
    }
    used.extend(records.plan.assignments().map(|(_, _, assignment)| assignment.spec.config.digest()));
    let unused = records.configs.keys().filter(|digest| !used.contains(digest));
    changes.extend(unused.map(config_key));
    changes.into_iter().map(RecordChange::Remove).chain(numbers).collect()
}

/// Returns the numbers of an app's allocations without those of the removed releases, which never run again.
fn surplus_numbers(records: &RecordIndex, app: &AppName, go: &[&Arc<Release>]) -> Option<RecordChange> {
    let numbers = records.plan.numbers.get(app)?;
    let is_gone = |slot: &Slot| go.iter().any(|release| release.number == slot.release);
    let kept = || numbers.0.iter().filter(|(slot, _)| !is_gone(slot)).map(|(slot, highest)| (slot.clone(), *highest));
    let trimmed = AllocationNumbers(kept().collect());
    (trimmed != **numbers).then(|| StoreRecord::Numbers(app.clone(), Arc::new(trimmed)).into())
}

/// Returns the tags that Gantry made for the removed releases, unless a remaining release or an open deploy uses the
/// image. Tags made by people are never removed.
fn surplus_tags(records: &RecordIndex, app: &AppName, stay: &[&Arc<Release>], go: &[&Arc<Release>]) -> Vec<String> {
    let open: Vec<&Digest> = records.open_deploys(app).filter_map(|deploy| deploy.cause.image()).collect();
    let is_named = |image: &Digest| open.contains(&image) || stay.iter().any(|release| release.image == *image);
    let made_with = |tag: &str, image: &Digest| {
        let pulled = tag == pulled_tag(image);
        pulled || go.iter().any(|release| release.commit.as_deref() == Some(tag) && release.image == *image)
    };
    let tags = records.tags.get(app.as_str()).into_iter().flatten();
    tags.filter(|(tag, image)| !is_named(image) && made_with(tag, image)).map(|(tag, _)| tag.clone()).collect()
}

/// Returns the tag of an image pulled for a deploy.
pub(crate) fn pulled_tag(image: &Digest) -> String {
    format!("pulled-{}", image.short())
}

fn kept_releases(records: &RecordIndex, app: &AppName) -> BTreeSet<ReleaseNumber> {
    let Some(releases) = records.releases.get(app) else {
        return BTreeSet::new();
    };
    let newest = releases.keys().rev().take(records.policy.releases_kept() as usize).copied();
    let good = releases
        .iter()
        .rev()
        .filter(|(_, release)| records.is_good(release))
        .take(records.policy.good_releases_kept() as usize)
        .map(|(number, _)| *number);
    let current = records.apps.get(app).and_then(|app| app.current);
    let deploys = records.open_deploys(app).flat_map(|deploy| {
        let target = match deploy.cause {
            DeployCause::Rollback { to } => Some(to),
            _ => None,
        };
        [deploy.release, deploy.previous, target]
    });
    let running = records.plan.assignments_of(app).map(|(_, id, _)| id.slot.release);
    newest.chain(good).chain(current).chain(deploys.flatten()).chain(running).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gantry_model::{AllocationId, App, Deploy, DeployNumber, DeployState, Moment, ReleaseConfig};

    use super::*;

    /// Releases that the policy keeps by default.
    const RELEASES_KEPT: usize = 20;

    fn image(number: u64) -> Digest {
        Digest::from_hex(&format!("{number:02x}").repeat(32)).expect("a digest")
    }

    fn release(app: &AppName, number: u64) -> Release {
        Release {
            app: app.clone(),
            number: ReleaseNumber(number),
            image: image(number),
            commit: Some(format!("{number:040x}")),
            config: ReleaseConfig::default(),
            roles: BTreeMap::new(),
            deploy: DeployNumber(number),
            created: Moment(0),
            by: "test".into(),
            cause: DeployCause::Config { keys: Vec::new() },
        }
    }

    #[test]
    fn removes_the_tags_of_removed_releases_only() {
        let app = AppName::parse("shop").expect("a name");
        let mut records = RecordIndex::default();
        let tag = |records: &mut RecordIndex, tag: &str, digest| {
            records.apply(StoreRecord::Tag { repository: app.to_string(), tag: tag.to_owned(), digest }.into());
        };
        records.apply(StoreRecord::App(App::new(app.clone(), Moment(0))).into());
        for number in 1..=RELEASES_KEPT as u64 + 2 {
            let release = release(&app, number);
            tag(&mut records, release.commit.as_deref().expect("a commit"), release.image.clone());
            records.apply(StoreRecord::Release(release).into());
        }
        tag(&mut records, "mine", image(1));
        tag(&mut records, &pulled_tag(&image(2)), image(2));
        tag(&mut records, &pulled_tag(&image(9)), image(9));
        let keys: BTreeSet<String> = surplus(&records, &BTreeSet::new())
            .into_iter()
            .map(|change| match change {
                RecordChange::Remove(key) => key,
                RecordChange::Put(_) => panic!("nothing is written"),
            })
            .collect();
        let tags = [format!("{:040x}", 1), format!("{:040x}", 2), pulled_tag(&image(2))];
        let releases = [1, 2].map(|number| release_key(&app, ReleaseNumber(number)));
        assert_eq!(keys, tags.iter().map(|tag| tag_key("shop", tag)).chain(releases).collect());
    }

    #[test]
    fn keeps_the_release_of_a_job_that_has_not_ended() {
        let app = AppName::parse("shop").expect("a name");
        let mut records = RecordIndex::default();
        records.apply(StoreRecord::App(App::new(app.clone(), Moment(0))).into());
        for number in 1..=RELEASES_KEPT as u64 + 2 {
            records.apply(StoreRecord::Release(release(&app, number)).into());
        }
        let pinned = BTreeSet::from([(app.clone(), ReleaseNumber(1))]);
        surplus(&records, &pinned).into_iter().for_each(|change| records.apply(change));
        let left = |number| records.release(&app, ReleaseNumber(number)).is_some();
        assert!(left(1) && !left(2) && left(3));
    }

    #[test]
    fn removes_unreferenced_configurations() {
        let app = AppName::parse("shop").expect("a name");
        let mut records = RecordIndex::default();
        records.apply(StoreRecord::App(App::new(app.clone(), Moment(0))).into());
        let config =
            |number: u64| -> ReleaseConfig { BTreeMap::from([("NUMBER".to_owned(), (number / 2).to_string())]).into() };
        for number in 1..=RELEASES_KEPT as u64 + 2 {
            let release = Release { config: config(number), ..release(&app, number) };
            records.apply(StoreRecord::Config(release.config.clone()).into());
            records.apply(StoreRecord::Release(release).into());
        }
        // Releases 1 and 2 go; release 3 has the configuration of release 2.
        surplus(&records, &BTreeSet::new()).into_iter().for_each(|change| records.apply(change));
        assert!(!records.configs.contains_key(config(1).digest()));
        assert_eq!(records.configs.len(), RELEASES_KEPT / 2 + 1);
        let named = |release: &Arc<Release>| records.configs.contains_key(release.config.digest());
        assert!(records.releases[&app].values().all(named));
    }

    #[test]
    fn removes_the_allocation_numbers_of_removed_releases_only() {
        let app = AppName::parse("shop").expect("a name");
        let mut records = RecordIndex::default();
        records.apply(StoreRecord::App(App::new(app.clone(), Moment(0))).into());
        let mut numbers = AllocationNumbers::default();
        for number in 1..=RELEASES_KEPT as u64 + 2 {
            records.apply(StoreRecord::Release(release(&app, number)).into());
            numbers.record(&AllocationId::parse(&format!("shop.v{number}.web-1.3")).expect("an id"));
        }
        records.apply(StoreRecord::Numbers(app.clone(), numbers.into()).into());
        surplus(&records, &BTreeSet::new()).into_iter().for_each(|change| records.apply(change));
        let kept: Vec<u64> = records.plan.numbers[&app].0.keys().map(|slot| slot.release.0).collect();
        assert_eq!(kept, (3..=RELEASES_KEPT as u64 + 2).collect::<Vec<_>>());
        assert!(surplus(&records, &BTreeSet::new()).is_empty(), "a second round has nothing to do");
    }

    /// Of 80 releases only the first seven served, and all later releases failed.
    #[test]
    fn keeps_the_last_five_good_releases() {
        let app = AppName::parse("shop").expect("a name");
        let mut records = RecordIndex::default();
        records.apply(
            StoreRecord::App(App { current: Some(ReleaseNumber(7)), ..App::new(app.clone(), Moment(0)) }).into(),
        );
        for number in 1..=80 {
            let release = release(&app, number);
            let cause = release.cause.clone();
            let mut deploy = Deploy::new(app.clone(), release.deploy, cause, "test".into(), false, Moment(0));
            deploy.release = Some(release.number);
            deploy.state = if number <= 7 { DeployState::Done } else { DeployState::Reverted };
            records.apply(StoreRecord::Deploy(deploy).into());
            records.apply(StoreRecord::Release(release).into());
        }
        let kept: Vec<u64> = kept_releases(&records, &app).into_iter().map(|number| number.0).collect();
        assert_eq!(kept, (3..=7).chain(61..=80).collect::<Vec<_>>());
        // The deploys of the kept releases are kept; of the other deploys, the last fifty.
        let removed = surplus(&records, &BTreeSet::new());
        let is_removed = |key: &String| {
            removed.iter().any(|change| matches!(change, RecordChange::Remove(removed) if removed == key))
        };
        let deploys: Vec<u64> = (1..=80).filter(|n| is_removed(&deploy_key(&app, DeployNumber(*n)))).collect();
        assert_eq!(deploys, [1, 2].into_iter().chain(8..=30).collect::<Vec<_>>());
    }

    #[test]
    fn a_policy_change_applies_to_existing_apps() {
        let app = AppName::parse("shop").expect("a name");
        let mut records = RecordIndex::default();
        records.apply(StoreRecord::App(App::new(app.clone(), Moment(0))).into());
        for number in 1..=10 {
            records.apply(StoreRecord::Release(release(&app, number)).into());
        }
        assert!(surplus(&records, &BTreeSet::new()).is_empty());
        records.policy.releases_kept = Some(3);
        surplus(&records, &BTreeSet::new()).into_iter().for_each(|change| records.apply(change));
        let left: Vec<u64> = records.releases[&app].keys().map(|number| number.0).collect();
        assert_eq!(left, [8, 9, 10]);
    }
}
