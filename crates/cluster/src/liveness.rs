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
//! patience:
//! - After the server itself stood still, all silences are counted anew.
//! - If more than half of the machines fall silent at once, the server's own network is the likelier cause. No machine
//!   is lost then. The only machine of a cloud is therefore never lost.
//! - A machine that has not reported since the server began may take as long as any reconnection takes.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{ClusterPolicy, MachineName, MachineState, Moment, ObservedCluster, RouterId};

/// Interval between two judgements above which the server counts as having stood still, in milliseconds.
const STANDSTILL_MILLIS: u64 = 2_000;

/// States of the machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Liveness {
    states: BTreeMap<MachineName, MachineState>,
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
    /// Of agent and router both.
    both: u64,
}

impl Liveness {
    /// The state of a machine; none for an unknown machine.
    pub(crate) fn state(&self, machine: &MachineName) -> Option<MachineState> {
        self.states.get(machine).copied()
    }

    /// Takes over that a machine's agent has reported. Returns whether the machine's state changed.
    pub(crate) fn heard(&mut self, machine: &MachineName) -> bool {
        if self.state(machine) == Some(MachineState::Ready) {
            return false;
        }
        self.states.insert(machine.clone(), MachineState::Ready);
        true
    }

    /// Takes over that the wall clock jumped by `by` milliseconds.
    pub(crate) fn move_stamps(&mut self, by: i64) {
        self.resumed = self.resumed.moved(by);
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
        let is_changed = |(machine, state): &(&MachineName, &MachineState)| self.state(machine) != Some(**state);
        let changed = next.iter().filter(is_changed).map(|(machine, _)| machine.clone()).collect();
        self.states = next;
        changed
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
    }

    impl Machines {
        fn new(count: usize) -> Self {
            let now = Moment(1_000_000);
            let observed = ObservedCluster { began: now, ..ObservedCluster::default() };
            let mut machines =
                Self { liveness: Liveness::default(), observed, names: (0..count).map(name).collect(), now };
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
                    self.liveness.heard(&name(*machine));
                }
                for machine in routers {
                    let id = RouterId { machine: name(*machine), number: 1 };
                    self.observed.routers.insert(id, ObservedRouter { seen: self.now, ..ObservedRouter::default() });
                }
                self.judge();
            }
        }

        fn judge(&mut self) -> Vec<MachineName> {
            let policy = ClusterPolicy::default();
            self.liveness.judge(&self.names, |_| false, &self.observed, &policy, self.now)
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
            let heard: Vec<usize> = (silent..count).collect();
            machines.pass(20_000, &heard, &heard);
            assert_eq!(machines.state(0) == MachineState::Lost, lost, "{silent} of {count}");
        }
    }

    #[test]
    fn machines_may_be_lost_one_after_another() {
        let mut machines = Machines::new(5);
        for lost in 0..4 {
            let heard: Vec<usize> = (lost + 1..5).collect();
            machines.pass(5_000, &heard, &heard);
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
