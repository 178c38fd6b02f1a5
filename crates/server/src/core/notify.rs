//! Wakes those whose part changed: one watch per machine, one per app, one for the routes, one for the cluster policy, one
//! for the members of the cluster. A reader of all apps learns which apps changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gantry_cluster::{ChangedParts, ClusterView};
use gantry_model::{AppName, Generation, MachineName};
use tokio::sync::watch;

use super::changed_apps::PendingApps;

/// Number of apps' channels below which channels without subscribers are not looked for.
const SWEEP_MIN: usize = 64;

/// The notification channels. A channel carries only a number: a task that wakes reads the view.
#[derive(Debug)]
pub(super) struct Notifier {
    /// Created at the first subscription; only machines with a token subscribe.
    machines: Mutex<BTreeMap<MachineName, watch::Sender<Generation>>>,
    apps: Mutex<AppChannels>,
    /// The readers of all apps.
    readers: Mutex<Vec<Weak<PendingApps>>>,
    routes: watch::Sender<Generation>,
    policy: watch::Sender<u64>,
    members: watch::Sender<u64>,
}

/// The channels of the apps, each created at a subscription. A channel without subscribers is removed at the next change
/// of its app. An app that does not exist never changes, so subscriptions remove such channels, too.
#[derive(Debug, Default)]
struct AppChannels {
    by_app: BTreeMap<AppName, watch::Sender<u64>>,
    /// Number of channels at which the next subscription looks for those without subscribers.
    sweep_at: usize,
}

impl AppChannels {
    fn subscribe(&mut self, app: &AppName) -> watch::Receiver<u64> {
        if self.by_app.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.by_app.retain(|_, sender| sender.receiver_count() > 0);
            self.sweep_at = self.by_app.len() * 2;
        }
        self.by_app.entry(app.clone()).or_default().subscribe()
    }
}

impl Default for Notifier {
    fn default() -> Self {
        Self {
            machines: Mutex::default(),
            apps: Mutex::default(),
            readers: Mutex::default(),
            routes: watch::Sender::new(Generation::default()),
            policy: watch::Sender::new(0),
            members: watch::Sender::new(0),
        }
    }
}

impl Notifier {
    pub(super) fn machine(&self, machine: &MachineName) -> watch::Receiver<Generation> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || watch::Sender::new(Generation::default());
        machines.entry(machine.clone()).or_insert_with(new).subscribe()
    }

    pub(super) fn routes(&self) -> watch::Receiver<Generation> {
        self.routes.subscribe()
    }

    pub(super) fn app(&self, app: &AppName) -> watch::Receiver<u64> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner).subscribe(app)
    }

    /// Adds a reader of all apps. Each app counts as changed at first.
    pub(super) fn reader(&self) -> Arc<PendingApps> {
        let reader = Arc::new(PendingApps::all());
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&reader));
        reader
    }

    pub(super) fn policy(&self) -> watch::Receiver<u64> {
        self.policy.subscribe()
    }

    pub(super) fn members(&self) -> watch::Receiver<u64> {
        self.members.subscribe()
    }

    /// Wakes the subscribers of the changed parts.
    pub(super) fn notify(&self, view: &ClusterView, changed: ChangedParts) {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        for machine in &changed.machines {
            if let (Some(sender), Some(part)) = (machines.get(machine), view.records.plan.machines.get(machine)) {
                sender.send_replace(part.generation);
            }
        }
        drop(machines);
        if changed.routes {
            self.routes.send_replace(view.records.plan.routing.revision);
        }
        self.wake_followers(&changed);
        if changed.all_apps || !changed.apps.is_empty() {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            readers.retain(|reader| {
                reader.upgrade().is_some_and(|reader| {
                    reader.add(&changed);
                    true
                })
            });
        }
        if changed.policy {
            self.policy.send_modify(|count| *count += 1);
        }
        if changed.members {
            self.members.send_modify(|count| *count += 1);
        }
    }

    /// Wakes the followers of the changed apps.
    fn wake_followers(&self, changed: &ChangedParts) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let wake = |sender: &watch::Sender<u64>| sender.send_modify(|count| *count += 1);
        if changed.all_apps {
            return apps.by_app.values().for_each(wake);
        }
        for app in changed.apps.union(&changed.statuses) {
            match apps.by_app.get(app) {
                Some(sender) if sender.receiver_count() == 0 => drop(apps.by_app.remove(app)),
                Some(sender) => wake(sender),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_cluster::{CoreEvent, CoreState};
    use gantry_control::{MachineReport, RouterReport};
    use gantry_model::clock::ClockJumps;
    use gantry_model::{App, Moment};
    use gantry_records::{RecordChange, RecordIndex, StoreRecord};

    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a name")
    }

    fn state() -> CoreState {
        let mut records = RecordIndex::default();
        for name in ["blog", "shop"] {
            records.apply(StoreRecord::App(App::new(app(name), Moment(0))).into());
        }
        CoreState::new(records, ClockJumps::default(), Moment(0))
    }

    fn put(record: StoreRecord) -> CoreEvent {
        CoreEvent::Committed(vec![record.into()])
    }

    /// Counts the followers of a hundred connections to each app that an event wakes: of `blog`, and of `shop`.
    fn woken(notifier: &Notifier, state: &mut CoreState, event: CoreEvent) -> [usize; 2] {
        let followers = ["blog", "shop"].map(|name| (0..100).map(|_| notifier.app(&app(name))).collect::<Vec<_>>());
        let changed = state.apply(event, Moment(1)).changed;
        notifier.notify(&state.view(), changed);
        let is_woken = |follower: &&watch::Receiver<u64>| follower.has_changed().expect("open");
        followers.map(|followers| followers.iter().filter(is_woken).count())
    }

    #[test]
    fn an_event_wakes_the_followers_of_the_apps_that_it_changes_and_no_others() {
        let (notifier, mut state) = (Notifier::default(), state());
        let machine = MachineName::parse("m").expect("a name");
        let report = MachineReport::default();
        let router = |number| RouterReport { number, ..RouterReport::default() };
        for (name, event, expected) in [
            ("a report", CoreEvent::Machine(machine.clone(), report.clone()), [0, 0]),
            ("a heartbeat", CoreEvent::MachineAlive(machine.clone(), Arc::new(report)), [0, 0]),
            ("a new router", CoreEvent::Router(machine.clone(), router(1)), [0, 0]),
            ("another router", CoreEvent::Router(machine, router(2)), [0, 0]),
            ("time", CoreEvent::Tick, [0, 0]),
            ("an app", put(StoreRecord::App(App::new(app("shop"), Moment(1)))), [0, 100]),
            ("routes", put(StoreRecord::Routes(app("blog"), Arc::default())), [100, 0]),
            ("a removed app", CoreEvent::Committed(vec![RecordChange::Remove("apps/blog".into())]), [100, 0]),
            ("all records", CoreEvent::Loaded(Box::default()), [100, 100]),
        ] {
            assert_eq!(woken(&notifier, &mut state, event), expected, "{name}");
        }
    }

    #[test]
    fn a_channel_without_followers_goes_with_the_next_change() {
        let (notifier, mut state) = (Notifier::default(), state());
        let follower = notifier.app(&app("shop"));
        let mut change = || {
            let changed = state.apply(put(StoreRecord::App(App::new(app("shop"), Moment(1)))), Moment(1)).changed;
            notifier.notify(&state.view(), changed);
            notifier.apps.lock().expect("no panic").by_app.len()
        };
        assert_eq!(change(), 1);
        drop(follower);
        assert_eq!(change(), 0);
    }

    #[test]
    fn channels_of_apps_that_never_change_do_not_gather() {
        let notifier = Notifier::default();
        let followed: Vec<_> = (0..100).map(|number| notifier.app(&app(&format!("followed-{number}")))).collect();
        for number in 0..10_000 {
            drop(notifier.app(&app(&format!("unknown-{number}"))));
            let channels = notifier.apps.lock().expect("no panic").by_app.len();
            assert!(channels <= 2 * followed.len() + 1, "{channels} channels");
        }
        notifier.notify(&state().view(), ChangedParts { all_apps: true, ..ChangedParts::default() });
        let is_woken = |follower: &watch::Receiver<u64>| follower.has_changed().expect("open");
        assert!(followed.iter().all(is_woken), "a channel with a follower stays");
    }
}
