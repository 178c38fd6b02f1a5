//! The plan of everything, spread over time. At each tick a few apps and machines have their turn to be planned, although no
//! event affects them. A mistake in the dirty set therefore only delays a change, and no step of a large cluster takes as
//! long as a plan of everything.

use std::collections::BTreeMap;
use std::ops::Bound;

use gantry_model::{AppName, MachineName};
use gantry_planner::ClusterIndex;

use crate::dirty::DirtySet;
use crate::state::ClusterView;

/// Ticks in which each app and each machine has a turn.
const ROUND_TICKS: usize = 600;

/// Ticks in which each app that waits has a turn, so that its reasons are of the present.
const WAITING_TICKS: usize = 60;

/// The turns of apps and machines.
#[derive(Debug, Default)]
pub(crate) struct PlanTurns {
    apps: Turns<AppName>,
    waiting: Turns<AppName>,
    machines: Turns<MachineName>,
}

impl PlanTurns {
    /// The apps and machines that have their turn at this tick.
    pub(crate) fn take(&mut self, view: &ClusterView, index: &ClusterIndex) -> DirtySet {
        let (records, waits, machines) = (&view.records, &view.report.waits, &view.observed.machines);
        let next_app = |app: Option<&AppName>| {
            let (recorded, routed) = (after(&records.apps, app), after(&records.plan.routes, app));
            [recorded, routed, index.assigned_app_after(app)].into_iter().flatten().min().cloned()
        };
        let count = records.apps.len().max(records.plan.routes.len()).max(index.assigned_count());
        let mut apps = self.apps.take(count, ROUND_TICKS, next_app);
        apps.extend(self.waiting.take(waits.len(), WAITING_TICKS, |app| after(waits, app).cloned()));
        let machines = self.machines.take(machines.len(), ROUND_TICKS, |name| after(machines, name).cloned());
        DirtySet { apps: apps.into_iter().collect(), machines: machines.into_iter().collect(), ..DirtySet::default() }
    }
}

/// Turns in the order of names, evenly over the ticks of a round.
#[derive(Debug)]
struct Turns<K> {
    /// The name that had the last turn.
    last: Option<K>,
    /// Turns that are due, in parts of a turn: as many as a round has ticks.
    due: usize,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { last: None, due: 0 }
    }
}

impl<K: Clone> Turns<K> {
    /// The names that have their turn at this tick, of `count` names. `next` returns the name after another, or the first.
    fn take(&mut self, count: usize, ticks: usize, next: impl Fn(Option<&K>) -> Option<K>) -> Vec<K> {
        self.due += count;
        let turns = self.due / ticks;
        self.due %= ticks;
        let mut names = Vec::new();
        for _ in 0..turns {
            self.last = next(self.last.as_ref()).or_else(|| next(None));
            names.extend(self.last.clone());
        }
        names
    }
}

/// The key after another, or the first.
fn after<'a, K: Ord, V>(map: &'a BTreeMap<K, V>, key: Option<&K>) -> Option<&'a K> {
    let begin: Bound<&K> = key.map_or(Bound::Unbounded, Bound::Excluded);
    let end: Bound<&K> = Bound::Unbounded;
    map.range::<K, _>((begin, end)).next().map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gantry_control::MachineReport;
    use gantry_model::clock::ClockJumps;
    use gantry_model::{App, InstanceGoal, Moment, Reason};
    use gantry_planner::PlanReport;
    use gantry_records::{RecordIndex, StoreRecord};

    use super::*;
    use crate::state::{CoreEvent, CoreState};
    use crate::tests::{app_name, machine_name, part};

    /// Takes the turns of a round among numbers.
    fn round(turns: &mut Turns<usize>, numbers: &BTreeMap<usize, ()>) -> (Vec<usize>, usize) {
        let (mut all, mut most) = (Vec::new(), 0);
        for _ in 0..ROUND_TICKS {
            let taken = turns.take(numbers.len(), ROUND_TICKS, |number| after(numbers, number).copied());
            most = most.max(taken.len());
            all.extend(taken);
        }
        (all, most)
    }

    #[test]
    fn each_name_has_one_turn_in_a_round_and_no_tick_has_more_than_its_share() {
        for count in [0, 1, 7, ROUND_TICKS, ROUND_TICKS + 1, 25_000] {
            let numbers: BTreeMap<usize, ()> = (0..count).map(|number| (number, ())).collect();
            let mut turns = Turns::default();
            for _ in 0..3 {
                let (all, most) = round(&mut turns, &numbers);
                assert_eq!(all, numbers.keys().copied().collect::<Vec<_>>());
                assert!(most <= count.div_ceil(ROUND_TICKS), "{most} of {count} in a tick");
            }
        }
    }

    #[test]
    fn names_that_come_and_go_keep_the_turns_of_the_others() {
        let mut numbers: BTreeMap<usize, ()> = (0..1_000).map(|number| (number * 2, ())).collect();
        let mut turns = Turns::default();
        let mut taken = BTreeSet::new();
        for tick in 0..ROUND_TICKS * 3 / 2 {
            numbers.insert(tick * 3 + 1, ());
            numbers.remove(&(1_998 - tick));
            taken.extend(turns.take(numbers.len(), ROUND_TICKS, |number| after(&numbers, number).copied()));
        }
        // These stay all the time.
        let mut stayed = (0..=1_998 - ROUND_TICKS * 3 / 2).filter(|number| number % 2 == 0);
        assert!(stayed.all(|number| taken.contains(&number)));
    }

    #[test]
    fn a_round_has_every_app_and_machine_of_a_plan_of_everything() {
        let mut records = RecordIndex::default();
        for name in ["blog", "shop", "wiki"] {
            records.apply(StoreRecord::App(App::new(app_name(name), Moment(0))).into());
        }
        // An app without a record: the machine has its copy, or routers have its routes.
        let assigned = part(&[("gone.v1.web-1", InstanceGoal::Run), ("shop.v1.web-1", InstanceGoal::Run)]);
        records.apply(StoreRecord::Machine(machine_name("m"), assigned.into()).into());
        records.apply(StoreRecord::Routes(app_name("left"), Default::default()).into());
        let mut state = CoreState::new(records, ClockJumps::default(), Moment(0));
        for name in ["m", "n"] {
            state.apply(CoreEvent::Machine(machine_name(name), MachineReport::default()), Moment(1));
        }
        let everything = ["blog", "gone", "left", "shop", "wiki"].map(app_name).into();
        let mut taken = DirtySet::default();
        let mut steps = 0;
        for _ in 0..ROUND_TICKS * 2 {
            let turns = state.take_turns();
            steps += usize::from(!turns.is_empty());
            taken.merge(turns);
        }
        assert_eq!((taken.apps, taken.everything), (everything, false));
        assert_eq!(taken.machines, [machine_name("m"), machine_name("n")].into());
        assert!(steps <= 10, "an idle cloud plans {steps} times in two rounds");
    }

    #[test]
    fn an_app_that_waits_has_more_turns() {
        let mut state = CoreState::new(RecordIndex::default(), ClockJumps::default(), Moment(0));
        let report = PlanReport { waits: [(app_name("shop"), vec![Reason::NoRouter])].into() };
        state.apply(CoreEvent::Planned { apps: [app_name("shop")].into(), report }, Moment(0));
        let turns = (0..ROUND_TICKS).filter(|_| !state.take_turns().is_empty()).count();
        assert_eq!(turns, ROUND_TICKS / WAITING_TICKS);
    }
}
