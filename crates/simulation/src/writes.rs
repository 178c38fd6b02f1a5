//! Guarded writes of a leader, with their faults, and the plan until nothing changes.

use gantry_admission::Admitted;
use gantry_cluster::{ChangeGroup, CoreEvent, DirtySet, transactions};
use gantry_model::Moment;
use gantry_records::{RecordChange, RecordIndex, StoreRecord};

use crate::servers::Leader;
use crate::simulation::Simulation;
use crate::timeline::BEGIN;

/// Maximum number of changes of a user's command in one transaction, as in the server.
const TRANSACTION_MAX: usize = 127;

/// Maximum number of planning rounds in a row, as in the server.
const ROUNDS_MAX: usize = 64;

/// Reason why a write has no known good outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// Another server leads, or the lease has ended.
    Deposed,
    /// The server died, before or after the write.
    Died,
    /// The store refused the write.
    Refused,
    /// The outcome is unknown.
    Unknown,
}

impl Simulation {
    /// Writes changes in order, and applies each transaction once it is written.
    pub(crate) fn commit(
        &mut self,
        leader: &mut Leader,
        groups: Vec<ChangeGroup>,
        most: usize,
    ) -> Result<(), WriteError> {
        for transaction in transactions(groups, most) {
            match self.write(leader.term, &transaction) {
                Err(WriteError::Unknown) => {
                    leader.is_stale = true;
                    return Err(WriteError::Unknown);
                }
                written => written?,
            }
            leader.apply(CoreEvent::Committed(transaction), self.now_of(leader));
        }
        Ok(())
    }

    /// Writes one transaction, or lets the write fail.
    fn write(&mut self, term: u64, transaction: &[RecordChange]) -> Result<(), WriteError> {
        let now = self.timeline.now;
        if self.store.is_away(now) {
            return Err(WriteError::Refused);
        }
        let fault = if self.is_faulty() && self.random.chance(10) { self.random.between(0, 4) } else { u64::MAX };
        match fault {
            0 => return Err(WriteError::Refused),
            1 => return Err(WriteError::Unknown),
            2 => return Err(WriteError::Died),
            _ => {}
        }
        if !self.store.leads(term, now) {
            return Err(WriteError::Deposed);
        }
        self.assert_barrier(transaction);
        self.assert_placed_once(transaction);
        self.assert_no_router_fails_a_deploy(transaction);
        if self.settings.prints {
            println!("{} ms, term {term}: {}", now.since(BEGIN), summary(transaction));
        }
        self.store.write(transaction);
        self.written += 1;
        match fault {
            3 => Err(WriteError::Unknown),
            4 => Err(WriteError::Died),
            _ => Ok(()),
        }
    }

    /// Writes the events of a report. The report counts even if its events cannot be written.
    pub(crate) fn commit_trail(&mut self, leader: &mut Leader, trail: Vec<RecordChange>) -> Result<(), WriteError> {
        match self.commit(leader, vec![trail], TRANSACTION_MAX) {
            Err(WriteError::Refused | WriteError::Unknown) => Ok(()),
            committed => committed,
        }
    }

    /// Decides and writes a command, and plans until nothing changes. Returns none if admission refuses the command.
    pub(crate) fn mutate<T>(
        &mut self,
        leader: &mut Leader,
        decide: impl FnOnce(&RecordIndex, Moment) -> Admitted<T>,
    ) -> Result<Option<T>, WriteError> {
        self.refresh(leader)?;
        let decided = decide(&leader.core.view().records, self.now_of(leader));
        let Ok((changes, value)) = decided else { return Ok(None) };
        self.commit(leader, vec![changes], TRANSACTION_MAX)?;
        self.plan_until_stable(leader)?;
        Ok(Some(value))
    }

    /// Plans until nothing changes. If the store refuses a write, the next tick tries again.
    pub(crate) fn plan_until_stable(&mut self, leader: &mut Leader) -> Result<(), WriteError> {
        for _ in 0..ROUNDS_MAX {
            match self.plan_once(leader) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error @ (WriteError::Deposed | WriteError::Died)) => return Err(error),
                Err(WriteError::Refused | WriteError::Unknown) => {
                    leader.dirty = DirtySet::everything();
                    return Ok(());
                }
            }
        }
        panic!("the planner does not come to rest");
    }

    /// Plans once for what is dirty, writes the changes, and returns whether there were any.
    fn plan_once(&mut self, leader: &mut Leader) -> Result<bool, WriteError> {
        self.refresh(leader)?;
        let dirty = std::mem::take(&mut leader.dirty);
        let Some(step) = leader.core.plan(&dirty, self.now_of(leader)) else { return Ok(false) };
        leader.apply(CoreEvent::Planned { apps: step.apps, report: step.report }, self.now_of(leader));
        let is_change = !step.groups.is_empty();
        self.commit(leader, step.groups, self.transaction_size)?;
        Ok(is_change)
    }

    /// Reads the records again if the outcome of a write is unknown.
    pub(crate) fn refresh(&mut self, leader: &mut Leader) -> Result<(), WriteError> {
        if leader.is_stale {
            if self.store.is_away(self.timeline.now) {
                return Err(WriteError::Refused);
            }
            let records = self.store.load();
            leader.apply(CoreEvent::Loaded(Box::new(records)), self.now_of(leader));
            leader.is_stale = false;
        }
        Ok(())
    }
}

/// The parts of a transaction that matter to a reader, in a line.
fn summary(transaction: &[RecordChange]) -> String {
    let change = |change: &RecordChange| match change {
        RecordChange::Remove(key) => format!("- {key}"),
        RecordChange::Put(record) => match &**record {
            StoreRecord::Machine(machine, part) => {
                let goals = part.instances.iter().map(|(id, assignment)| format!("{id} {:?}", assignment.goal));
                format!("{machine} {}: {}", part.generation, goals.collect::<Vec<_>>().join(", "))
            }
            StoreRecord::Routes(app, routes) => {
                let targets = routes.endpoints().map(|endpoint| endpoint.allocation.to_string());
                format!("routes of {app} {}: {}", routes.revision, targets.collect::<Vec<_>>().join(", "))
            }
            StoreRecord::Deploy(deploy) => format!("deploy {} of {}: {}", deploy.number, deploy.app, deploy.state),
            other => other.key(),
        },
    };
    transaction.iter().map(change).collect::<Vec<_>>().join("; ")
}
