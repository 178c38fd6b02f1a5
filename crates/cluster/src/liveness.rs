//! Liveness: which machines are silent, and which are lost.
//!
//! ```text
//!            first report              agent silent            agent and router silent
//! joining ────────────────► ready ────────────────► suspected ────────────────────────► lost
//!                             ▲                         │                                 │
//!                             └──────── a report ───────┴───────── a report ──────────────┘
//! ```
//! A machine has two links: its agent's and its router's. One silent link alone is no loss, because the other one
//! confirms that the machine lives. A lost machine's copies are placed elsewhere, so the decision errs on the side of
//! waiting:
//! - After the server itself stood still, all silences are counted from zero.
//! - If more than half of the machines fall silent at once, the server's own network is the likelier cause. No machine
//!   is lost then. The only machine of a cloud is therefore never lost.
//! - A machine that has not reported since the server began may take as long as any reconnection takes.
//!
//! A lost machine is **fenced** once the lease of its single copies is over (see `gantry_model::Role::single`): it has ended
//! them by itself. A lease counts from a report, so the fence counts from the last report.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{ClusterPolicy, MachineName, MachineState, Moment, ObservedCluster, RouterId};

/// Interval between two judgements above which the server counts as having stood still, in milliseconds.
const STANDSTILL_MILLIS: u64 = 2_000;

/// Time by which a fence outlasts the lease, in milliseconds: clocks differ, and pid 1 of a container looks at its lease
/// five times a second.
const FENCE_MARGIN_MILLIS: u64 = 1_000;

/// States of the machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Liveness {
    states: BTreeMap<MachineName, MachineState>,
    /// Lost machines whose leases are over.
    fenced: BTreeSet<MachineName>,
    /// The longest lease that may be in force, in milliseconds, and when such a lease was last granted.
    lease: (u64, Moment),
    /// When the machines were last judged.
    judged: Option<Moment>,
    /// When the server last went on after it had stood still.
    resumed: Moment,
}

/// The silences of a machine, in milliseconds.
struct Silence {
    /// True if the agent has reported since the server began.
    is_heard: bool,
    agent: u64,
    /// Time since the last sign of either, the agent or the router.
    both: u64,
}

impl Liveness {
    /// Liveness with these states, for decisions that only read them.
    pub(crate) fn of(states: &BTreeMap<MachineName, MachineState>) -> Self {
        Self { states: states.clone(), ..Self::default() }
    }

    /// The state of a machine; none for an unknown machine.
    pub(crate) fn state(&self, machine: &MachineName) -> Option<MachineState> {
        self.states.get(machine).copied()
    }

    /// Reports whether a machine is lost and its leases are over.
    pub(crate) fn is_fenced(&self, machine: &MachineName) -> bool {
        self.fenced.contains(machine)
    }

    /// Takes over that a machine's agent has reported. Returns whether the machine's state changed.
    pub(crate) fn record_report(&mut self, machine: &MachineName) -> bool {
        self.fenced.remove(machine);
        if self.state(machine) == Some(MachineState::Ready) {
            return false;
        }
        self.states.insert(machine.clone(), MachineState::Ready);
        true
    }

    /// Takes over that the wall clock jumped by `by` milliseconds.
    pub(crate) fn move_stamps(&mut self, by: i64) {
        self.resumed = self.resumed.moved(by);
        self.lease.1 = self.lease.1.moved(by);
        self.judged = self.judged.map(|judged| judged.moved(by));
    }

    /// Judges the machines by their silences. `idle` are those without a copy that would move. Returns the machines whose
    /// state changed.
    pub(crate) fn judge<'a>(
        &mut self,
        machines: impl IntoIterator<Item = &'a MachineName>,
        idle: impl Fn(&MachineName) -> bool,
        observed: &ObservedCluster,
        policy: &ClusterPolicy,
        now: Moment,
    ) -> Vec<MachineName> {
        if self.judged.replace(now).is_some_and(|judged| now.since(judged) > STANDSTILL_MILLIS) {
            self.resumed = now;
        }
        let lease = self.longest_lease(policy.single_lease(), now);
        let machines: BTreeSet<&MachineName> = machines.into_iter().collect();
        self.states.retain(|machine, _| machines.contains(machine));
        let mut next = BTreeMap::new();
        // Machines that may be lost, and all that were not lost before.
        let (mut silent, mut present) = (Vec::new(), 0);
        for machine in machines {
            let silence = self.silence(machine, observed, now);
            let state = next_state(self.state(machine), &silence, policy);
            let matters = silence.is_heard || !idle(machine);
            if self.state(machine) != Some(MachineState::Lost) && matters {
                present += 1;
                silent.extend((state == MachineState::Lost).then_some(machine));
            }
            next.insert(machine.clone(), state);
        }
        if silent.len() * 2 > present {
            for machine in silent {
                next.insert(machine.clone(), MachineState::Suspected);
            }
        }
        let is_over = |machine: &&MachineName| {
            let fenced_after = lease.saturating_add(FENCE_MARGIN_MILLIS);
            next[*machine] == MachineState::Lost && self.silence(machine, observed, now).agent > fenced_after
        };
        let fenced: BTreeSet<MachineName> = next.keys().filter(is_over).cloned().collect();
        let is_changed = |(machine, state): &(&MachineName, &MachineState)| {
            self.state(machine) != Some(**state) || self.is_fenced(machine) != fenced.contains(*machine)
        };
        let changed = next.iter().filter(is_changed).map(|(machine, _)| machine.clone()).collect();
        (self.states, self.fenced) = (next, fenced);
        changed
    }

    /// The longest lease that a machine may have. A lease granted before the leases became shorter is waited for.
    fn longest_lease(&mut self, lease: u64, now: Moment) -> u64 {
        let (longest, granted) = self.lease;
        if lease >= longest || now.since(granted) > longest {
            self.lease = (lease, now);
        }
        self.lease.0
    }

    fn silence(&self, machine: &MachineName, observed: &ObservedCluster, now: Moment) -> Silence {
        let report = observed.machines.get(machine).map(|report| report.seen);
        let first = RouterId { machine: machine.clone(), number: 0 };
        let routers = observed.routers.range(first..).take_while(|(id, _)| id.machine == *machine);
        let router = routers.map(|(_, router)| router.seen).max();
        let since = |seen: Option<Moment>| now.since(seen.unwrap_or(observed.began).max(self.resumed));
        Silence { is_heard: report.is_some(), agent: since(report), both: since(report.max(router)) }
    }
}

/// The state of a machine by its silences, as if it were the only one.
fn next_state(before: Option<MachineState>, silence: &Silence, policy: &ClusterPolicy) -> MachineState {
    let lost_after = policy.lost_after().millis().max(policy.suspect_after().millis());
    if !silence.is_heard {
        return match before {
            Some(MachineState::Lost) => MachineState::Lost,
            _ if silence.both > lost_after.max(SILENCE_MILLIS) => MachineState::Lost,
            _ => MachineState::Joining,
        };
    }
    match before {
        _ if silence.agent <= policy.suspect_after().millis() => MachineState::Ready,
        Some(MachineState::Lost) => MachineState::Lost,
        _ if silence.both > lost_after => MachineState::Lost,
        _ => MachineState::Suspected,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_model::{ObservedMachine, ObservedRouter};

    use super::*;

    fn name(number: usize) -> MachineName {
        MachineName::parse(&format!("m{number}")).expect("a name")
    }

    /// Machines that are judged twice a second.
    struct Machines {
        liveness: Liveness,
        observed: ObservedCluster,
        names: Vec<MachineName>,
        now: Moment,
        policy: ClusterPolicy,
    }

    impl Machines {
        fn new(count: usize) -> Self {
            let now = Moment(1_000_000);
            let observed = ObservedCluster { began: now, ..ObservedCluster::default() };
            let (liveness, policy) = Default::default();
            let mut machines = Self { liveness, observed, names: (0..count).map(name).collect(), now, policy };
            let all: Vec<usize> = (0..count).collect();
            machines.pass(1_000, &all, &all);
            machines
        }

        /// Lets time pass while some agents and routers report.
        fn pass(&mut self, millis: u64, agents: &[usize], routers: &[usize]) {
            for _ in 0..millis / 500 {
                self.now.0 += 500;
                for machine in agents {
                    let report = ObservedMachine { seen: self.now, ..ObservedMachine::default() };
                    self.observed.machines.insert(name(*machine), Arc::new(report));
                    self.liveness.record_report(&name(*machine));
                }
                for machine in routers {
                    let id = RouterId { machine: name(*machine), number: 1 };
                    self.observed.routers.insert(id, ObservedRouter { seen: self.now, ..ObservedRouter::default() });
                }
                self.judge();
            }
        }

        fn judge(&mut self) -> Vec<MachineName> {
            self.liveness.judge(&self.names, |_| false, &self.observed, &self.policy, self.now)
        }

        fn is_fenced(&self, machine: usize) -> bool {
            self.liveness.is_fenced(&name(machine))
        }

        fn state(&self, machine: usize) -> MachineState {
            self.liveness.state(&name(machine)).expect("judged")
        }
    }

    #[test]
    fn a_machine_whose_links_are_both_silent_is_suspected_and_then_lost() {
        let mut machines = Machines::new(5);
        assert_eq!(machines.state(4), MachineState::Ready);
        machines.pass(2_000, &[0, 1, 2, 3], &[0, 1, 2, 3]);
        assert_eq!(machines.state(4), MachineState::Ready);
        machines.pass(500, &[0, 1, 2, 3], &[0, 1, 2, 3]);
        assert_eq!(machines.state(4), MachineState::Suspected);
        machines.pass(1_000, &[0, 1, 2, 3], &[0, 1, 2, 3]);
        assert_eq!(machines.state(4), MachineState::Lost);
        machines.pass(500, &[0, 1, 2, 3], &[0, 1, 2, 3, 4]);
        assert_eq!(machines.state(4), MachineState::Lost, "its agent must know what has moved");
        machines.pass(500, &[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]);
        assert_eq!(machines.state(4), MachineState::Ready);
    }

    #[test]
    fn a_lost_machine_is_fenced_once_its_lease_is_over() {
        let mut machines = Machines::new(3);
        machines.pass(10_000, &[0, 1], &[0, 1]);
        assert_eq!((machines.state(2), machines.is_fenced(2)), (MachineState::Lost, false));
        machines.pass(500, &[0, 1], &[0, 1]);
        assert!(machines.is_fenced(2), "three times lost-after, and a second");
        machines.pass(500, &[0, 1, 2], &[0, 1]);
        assert_eq!((machines.state(2), machines.is_fenced(2)), (MachineState::Ready, false));
    }

    #[test]
    fn a_lease_outlasts_a_change_of_the_policy() {
        let mut machines = Machines::new(3);
        machines.policy.lost_after = Some(gantry_model::Seconds(20));
        machines.pass(1_000, &[0, 1, 2], &[0, 1, 2]);
        machines.policy.lost_after = None;
        machines.pass(55_000, &[0, 1], &[0, 1]);
        assert_eq!((machines.state(2), machines.is_fenced(2)), (MachineState::Lost, false));
        machines.pass(10_000, &[0, 1], &[0, 1]);
        assert!(machines.is_fenced(2));
    }

    #[test]
    fn a_machine_with_one_link_is_not_lost() {
        let mut machines = Machines::new(3);
        machines.pass(60_000, &[0, 1], &[0, 1, 2]);
        assert_eq!(machines.state(2), MachineState::Suspected, "the router confirms that the machine lives");
        machines.pass(60_000, &[0, 1, 2], &[0, 1]);
        assert_eq!(machines.state(2), MachineState::Ready);
    }

    #[test]
    fn the_only_machine_is_never_lost() {
        let mut machines = Machines::new(1);
        machines.pass(600_000, &[], &[]);
        assert_eq!(machines.state(0), MachineState::Suspected);
    }

    #[test]
    fn more_than_half_of_the_machines_are_not_lost_at_once() {
        for (count, silent, lost) in [(2, 1, true), (2, 2, false), (5, 2, true), (5, 3, false), (5, 5, false)] {
            let mut machines = Machines::new(count);
            let reporting: Vec<usize> = (silent..count).collect();
            machines.pass(20_000, &reporting, &reporting);
            assert_eq!(machines.state(0) == MachineState::Lost, lost, "{silent} of {count}");
        }
    }

    #[test]
    fn machines_may_be_lost_one_after_another() {
        let mut machines = Machines::new(5);
        for lost in 0..4 {
            let reporting: Vec<usize> = (lost + 1..5).collect();
            machines.pass(5_000, &reporting, &reporting);
            assert_eq!(machines.state(lost), MachineState::Lost, "{lost}");
        }
    }

    #[test]
    fn a_server_that_stood_still_counts_silences_anew() {
        let mut machines = Machines::new(3);
        machines.now.0 += 3_600_000;
        assert_eq!(machines.judge(), [], "nothing is judged by the time in which nobody listened");
        machines.pass(2_000, &[0], &[0]);
        assert_eq!(machines.state(1), MachineState::Ready);
        machines.pass(2_000, &[0, 1], &[0, 1]);
        assert_eq!((machines.state(1), machines.state(2)), (MachineState::Ready, MachineState::Lost));
    }

    /// The time settings `suspect-after` and `lost-after`, and the states of a machine after silences in milliseconds. The
    /// longer of the two times counts for a loss.
    #[test]
    fn the_policy_sets_the_silences_of_the_states() {
        use MachineState::{Lost, Ready, Suspected};
        let policy = |suspect_after: Option<u32>, lost_after: Option<u32>| ClusterPolicy {
            suspect_after: suspect_after.map(gantry_model::Seconds),
            lost_after: lost_after.map(gantry_model::Seconds),
            ..ClusterPolicy::default()
        };
        for (policy, silences) in [
            (policy(None, None), [(0, Ready), (2_000, Ready), (2_001, Suspected), (3_000, Suspected), (3_001, Lost)]),
            (
                policy(Some(1), None),
                [(0, Ready), (1_000, Ready), (1_001, Suspected), (3_000, Suspected), (3_001, Lost)],
            ),
            (
                policy(None, Some(30)),
                [(0, Ready), (2_000, Ready), (2_001, Suspected), (30_000, Suspected), (30_001, Lost)],
            ),
            (policy(Some(5), Some(3)), [(0, Ready), (3_001, Ready), (5_000, Ready), (5_001, Lost), (9_000, Lost)]),
            (policy(Some(4), Some(4)), [(0, Ready), (3_999, Ready), (4_000, Ready), (4_001, Lost), (9_000, Lost)]),
        ] {
            for (millis, expected) in silences {
                let silence = Silence { is_heard: true, agent: millis, both: millis };
                for before in [None, Some(Ready), Some(Suspected)] {
                    let found = next_state(before, &silence, &policy);
                    assert_eq!(found, expected, "{before:?} after {millis} ms of {policy:?}");
                }
            }
        }
    }

    #[test]
    fn the_state_follows_from_the_state_before_and_both_links() {
        use MachineState::{Joining, Lost, Ready, Suspected};
        let policy = ClusterPolicy::default();
        // The state before; whether the agent was heard; the silences of the agent, and of agent and router both.
        for (before, is_heard, agent, both, expected) in [
            (None, false, 0, 0, Joining),
            (None, false, 10_000, 10_000, Joining),
            (None, false, 10_001, 10_001, Lost),
            (None, false, 60_000, 500, Joining),
            (Some(Ready), false, 9_000, 9_000, Joining),
            (Some(Lost), false, 500, 500, Lost),
            (Some(Joining), true, 500, 500, Ready),
            (Some(Ready), true, 60_000, 500, Suspected),
            (Some(Ready), true, 60_000, 3_001, Lost),
            (Some(Suspected), true, 60_000, 500, Suspected),
            (Some(Suspected), true, 2_000, 500, Ready),
            (Some(Lost), true, 60_000, 500, Lost),
            (Some(Lost), true, 2_001, 2_001, Lost),
            (Some(Lost), true, 2_000, 2_000, Ready),
        ] {
            let found = next_state(before, &Silence { is_heard, agent, both }, &policy);
            assert_eq!(found, expected, "{before:?}, heard {is_heard}, {agent} ms and {both} ms");
        }
    }

    #[test]
    fn a_judgement_names_the_machines_whose_state_changed() {
        let mut machines = Machines::new(3);
        let mut seen = Vec::new();
        for _ in 0..24 {
            machines.now.0 += 500;
            for machine in [0, 1] {
                let report = ObservedMachine { seen: machines.now, ..ObservedMachine::default() };
                machines.observed.machines.insert(name(machine), Arc::new(report));
            }
            let silence = machines.now.since(machines.observed.machines[&name(2)].seen);
            let changed = machines.judge();
            seen.extend((!changed.is_empty()).then(|| (silence, changed, machines.state(2), machines.is_fenced(2))));
        }
        let changed = || vec![name(2)];
        let expected = [
            (2_500, changed(), MachineState::Suspected, false),
            (3_500, changed(), MachineState::Lost, false),
            (10_500, changed(), MachineState::Lost, true),
        ];
        assert_eq!(seen, expected);
        assert!(machines.liveness.record_report(&name(2)), "the report ends the loss");
        assert!(!machines.liveness.record_report(&name(2)), "the next report changes no state");
    }

    #[test]
    fn a_jump_of_the_clock_is_no_silence_and_hides_none() {
        for by in [3_600_000, -900_000] {
            let mut machines = Machines::new(3);
            machines.pass(2_500, &[0, 1], &[0, 1]);
            assert_eq!(machines.state(2), MachineState::Suspected);
            machines.now = machines.now.moved(by);
            machines.observed.move_stamps(by);
            machines.liveness.move_stamps(by);
            assert_eq!(machines.judge(), [], "by {by}");
            machines.pass(1_000, &[0, 1], &[0, 1]);
            assert_eq!(machines.state(0), MachineState::Ready, "by {by}");
            assert_eq!(machines.state(2), MachineState::Lost, "by {by}");
            machines.pass(6_500, &[0, 1], &[0, 1]);
            assert!(!machines.is_fenced(2), "by {by}");
            machines.pass(500, &[0, 1], &[0, 1]);
            assert!(machines.is_fenced(2), "by {by}");
        }
    }

    #[test]
    fn machines_that_never_reported_hint_at_a_fault_of_the_server_only_if_they_have_copies() {
        for (is_idle, expected) in [(true, MachineState::Lost), (false, MachineState::Suspected)] {
            let mut machines = Machines::new(2);
            machines.names.extend([name(2), name(3)]);
            for _ in 0..30 {
                machines.now.0 += 500;
                let report = ObservedMachine { seen: machines.now, ..ObservedMachine::default() };
                machines.observed.machines.insert(name(0), Arc::new(report));
                let Machines { liveness, observed, names, now, policy } = &mut machines;
                liveness.judge(&*names, |_| is_idle, observed, policy, *now);
            }
            assert_eq!(machines.state(1), MachineState::Lost, "one of two that reported");
            assert_eq!([machines.state(2), machines.state(3)], [expected; 2], "idle: {is_idle}");
        }
    }

    #[test]
    fn a_machine_that_left_the_cluster_has_no_state() {
        let mut machines = Machines::new(3);
        machines.names.pop();
        machines.judge();
        assert_eq!(machines.liveness.state(&name(2)), None);
        assert_eq!(machines.state(1), MachineState::Ready);
    }

    #[test]
    fn only_an_agent_s_report_ends_the_first_wait() {
        let mut machines = Machines::new(3);
        machines.names.push(name(3));
        machines.pass(30_000, &[0, 1, 2], &[0, 1, 2, 3]);
        assert_eq!(machines.state(3), MachineState::Joining, "its router confirms that the machine lives");
        machines.pass(500, &[0, 1, 2, 3], &[0, 1, 2, 3]);
        assert_eq!(machines.state(3), MachineState::Ready);
    }

    #[test]
    fn a_machine_that_never_reported_has_time_to_connect() {
        let mut machines = Machines::new(3);
        machines.names.push(name(3));
        machines.observed.began = machines.now;
        machines.pass(10_000, &[0, 1, 2], &[0, 1, 2]);
        assert_eq!(machines.state(3), MachineState::Joining);
        machines.pass(1_000, &[0, 1, 2], &[0, 1, 2]);
        assert_eq!(machines.state(3), MachineState::Lost);
    }
}
