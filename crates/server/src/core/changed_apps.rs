//! Values that a task derives from each app. The values follow the records, and only changed apps are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_cluster::{ChangedParts, PublishedView};
use gantry_model::{App, AppName};
use gantry_records::RecordIndex;
use tokio::sync::Notify;

/// Apps that changed since a reader last looked.
#[derive(Debug, Default, PartialEq, Eq)]
struct ChangedApps {
    /// Each app may have changed.
    all: bool,
    names: BTreeSet<AppName>,
}

/// The changes that wait for one reader.
#[derive(Debug)]
pub(super) struct PendingApps {
    changed: Mutex<ChangedApps>,
    news: Notify,
}

impl PendingApps {
    /// Each app has changed.
    pub(super) fn all() -> Self {
        Self { changed: Mutex::new(ChangedApps { all: true, ..ChangedApps::default() }), news: Notify::new() }
    }

    /// Adds changes, and wakes the reader.
    pub(super) fn add(&self, parts: &ChangedParts) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.all |= parts.all_apps;
        changed.names.extend(parts.apps.iter().cloned());
        self.news.notify_one();
    }

    fn take(&self) -> ChangedApps {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Derives the value of an app; none if the app has no value.
type Derivation<V> = fn(&RecordIndex, &App) -> Option<V>;

/// The values of all apps that have one.
pub(crate) struct AppValues<V> {
    published: PublishedView,
    pending: Arc<PendingApps>,
    derive: Derivation<V>,
    values: BTreeMap<AppName, V>,
}

impl<V: PartialEq> AppValues<V> {
    pub(super) fn new(published: PublishedView, pending: Arc<PendingApps>, derive: Derivation<V>) -> Self {
        Self { published, pending, derive, values: BTreeMap::new() }
    }

    /// Takes over what has changed. Returns whether a value changed.
    pub(crate) fn update(&mut self) -> bool {
        // The view is at least as new as the changes.
        let changed = self.pending.take();
        let view = self.published.get();
        follow(&mut self.values, self.derive, &view.records, changed)
    }

    /// The values by app.
    pub(crate) fn by_app(&self) -> &BTreeMap<AppName, V> {
        &self.values
    }

    /// Resolves once apps have changed since the last update.
    pub(crate) async fn changed(&self) {
        self.pending.news.notified().await;
    }
}

/// Brings values up to date with the records. Returns whether a value changed.
fn follow<V: PartialEq>(
    values: &mut BTreeMap<AppName, V>,
    derive: impl Fn(&RecordIndex, &App) -> Option<V>,
    records: &RecordIndex,
    changed: ChangedApps,
) -> bool {
    if changed.all {
        let derived = records.apps.iter().filter_map(|(name, app)| Some((name.clone(), derive(records, app)?)));
        let before = std::mem::replace(values, derived.collect());
        return *values != before;
    }
    let mut is_changed = false;
    for name in changed.names {
        let value = records.apps.get(&name).and_then(|app| derive(records, app));
        is_changed |= values.get(&name) != value.as_ref();
        match value {
            Some(value) => drop(values.insert(name, value)),
            None => drop(values.remove(&name)),
        }
    }
    is_changed
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use gantry_model::Moment;
    use gantry_records::{RecordChange, StoreRecord};

    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a name")
    }

    fn put(records: &mut RecordIndex, name: &str, destroying: bool) {
        records.apply(StoreRecord::App(App { destroying, ..App::new(app(name), Moment(0)) }).into());
    }

    fn parts(names: &[&str]) -> ChangedParts {
        ChangedParts { apps: names.iter().map(|name| app(name)).collect(), ..ChangedParts::default() }
    }

    /// The names of the apps that are being destroyed, and the number of apps that were looked at.
    struct Destroyed {
        pending: PendingApps,
        values: BTreeMap<AppName, Moment>,
        looks: Cell<usize>,
    }

    impl Destroyed {
        fn update(&mut self, records: &RecordIndex) -> (bool, usize, Vec<&str>) {
            self.looks.set(0);
            let derive = |_: &RecordIndex, app: &App| {
                self.looks.set(self.looks.get() + 1);
                app.destroying.then_some(app.created)
            };
            let is_changed = follow(&mut self.values, derive, records, self.pending.take());
            (is_changed, self.looks.get(), self.values.keys().map(AppName::as_str).collect())
        }
    }

    #[test]
    fn an_update_looks_at_the_changed_apps_alone() {
        let mut records = RecordIndex::default();
        (0..1_000).for_each(|number| put(&mut records, &format!("app-{number}"), number == 7));
        let mut destroyed = Destroyed { pending: PendingApps::all(), values: BTreeMap::new(), looks: Cell::default() };
        assert_eq!(destroyed.update(&records), (true, 1_000, vec!["app-7"]));
        assert_eq!(destroyed.update(&records), (false, 0, vec!["app-7"]), "nothing has changed");
        put(&mut records, "app-8", true);
        put(&mut records, "app-9", false);
        destroyed.pending.add(&parts(&["app-8"]));
        destroyed.pending.add(&parts(&["app-9"]));
        assert_eq!(destroyed.update(&records), (true, 2, vec!["app-7", "app-8"]));
        records.apply(RecordChange::Remove("apps/app-7".into()));
        destroyed.pending.add(&parts(&["app-7", "app-9"]));
        assert_eq!(destroyed.update(&records), (true, 1, vec!["app-8"]), "a removed app has no value");
        destroyed.pending.add(&parts(&["app-8"]));
        assert_eq!(destroyed.update(&records), (false, 1, vec!["app-8"]), "an equal value is no change");
        destroyed.pending.add(&ChangedParts { all_apps: true, ..ChangedParts::default() });
        assert_eq!(destroyed.update(&RecordIndex::default()), (true, 0, vec![]));
    }

    #[tokio::test]
    async fn changes_wake_a_reader_that_waits_later() {
        let pending = PendingApps::all();
        pending.add(&parts(&["shop"]));
        pending.news.notified().await;
        assert_eq!(pending.take(), ChangedApps { all: true, names: [app("shop")].into() });
    }
}
