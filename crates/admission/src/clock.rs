//! Jumps of the wall clock in the records. The deciders count durations from stamps in records. A jump moves these stamps
//! with the clock, so that no duration changes.

use std::collections::BTreeMap;

use gantry_model::clock::{ClockJump, TOLERANCE};
use gantry_model::{AppName, AuditAction, Deploy, DeployNumber, MachineName, MachinePlan, Moment};
use gantry_records::{DestroyedApp, EventRecord, RecordChange, RecordIndex, StoreRecord};

use crate::events::GANTRY;

/// Age up to which a finished deploy's stamps follow a jump of the wall clock, in milliseconds. Decisions right after a
/// deploy read its stamps.
const RECENT: u64 = 60_000;

/// The records as a jump is to leave them. If the outcome of the write is unknown, or a part of it was written, the next
/// attempt finds in these records which stamps have moved already.
#[derive(Debug, Clone)]
pub struct JumpedRecords {
    by: i64,
    deploys: BTreeMap<(AppName, DeployNumber), Deploy>,
    machines: BTreeMap<MachineName, MachinePlan>,
    destroyed: BTreeMap<AppName, DestroyedApp>,
    event: EventRecord,
}

impl JumpedRecords {
    /// Moves all stamps from which durations are counted by a jump of the wall clock, but for those that an earlier
    /// attempt has moved. Also adds an event about the jump. `now` is the wall clock's time after the jump.
    #[must_use]
    pub fn new(records: &RecordIndex, jump: ClockJump, now: Moment, earlier: Option<&Self>) -> Self {
        let before = now.moved(jump.by.saturating_neg());
        let rest = |is_moved: bool| match earlier {
            Some(earlier) if is_moved => jump.by.saturating_sub(earlier.by),
            _ => jump.by,
        };
        let counts = |deploy: &&Deploy| !deploy.state.is_final() || before.since(deploy.entered) < RECENT;
        let deploys = records.deploys.values().flat_map(|deploys| deploys.values()).map(AsRef::as_ref).filter(counts);
        let deploys = deploys.map(|deploy| {
            let key = (deploy.app.clone(), deploy.number);
            let target = earlier.and_then(|earlier| earlier.deploys.get(&key));
            let mut moved = deploy.clone();
            let is_moved = |stamp: fn(&Deploy) -> Moment| target.is_some_and(|target| stamp(target) == stamp(deploy));
            moved.entered = deploy.entered.moved(rest(is_moved(|deploy| deploy.entered)));
            moved.progressed = deploy.progressed.moved(rest(is_moved(|deploy| deploy.progressed)));
            (key, moved)
        });
        let machines = records.plan.machines.iter().filter(|(_, part)| part.retires().next().is_some());
        let machines = machines.map(|(machine, part)| {
            let target = earlier.and_then(|earlier| earlier.machines.get(machine));
            let mut moved = (**part).clone();
            for (id, since) in moved.retires_mut() {
                let known = target.and_then(|target| target.retires().find(|(other, _)| *other == id));
                *since = since.moved(rest(known.is_some_and(|(_, target)| target == *since)));
            }
            (machine.clone(), moved)
        });
        let destroyed = records.destroyed.iter().map(|(name, destroyed)| {
            let target = earlier.and_then(|earlier| earlier.destroyed.get(name));
            let is_moved = target.is_some_and(|target| target.at == destroyed.at);
            (name.clone(), DestroyedApp { at: destroyed.at.moved(rest(is_moved)), ..destroyed.clone() })
        });
        let action = AuditAction::ClockJumped { jump: jump.to_string(), by: Some(jump.by) };
        let is_told =
            |earlier: &&Self| records.events.get(&earlier.event.number).is_some_and(|event| **event == earlier.event);
        let event = match earlier.filter(is_told) {
            Some(earlier) => earlier.event.clone(),
            None => EventRecord::new(records.next_event(), now, GANTRY, None, action),
        };
        let (deploys, machines, destroyed) = (deploys.collect(), machines.collect(), destroyed.collect());
        Self { by: jump.by, deploys, machines, destroyed, event }
    }

    /// Returns the changes that `records` does not have yet.
    #[must_use]
    pub fn changes(&self, records: &RecordIndex) -> Vec<RecordChange> {
        let known = |deploy: &Deploy| records.deploys.get(&deploy.app)?.get(&deploy.number).cloned();
        let deploys = self.deploys.values().filter(|deploy| known(deploy).as_deref() != Some(deploy));
        let deploys = deploys.map(|deploy| StoreRecord::Deploy(deploy.clone()).into());
        let machines = self.machines.iter().filter(|(name, part)| {
            let known = records.plan.machines.get(*name);
            known.is_none_or(|known| **known != **part)
        });
        let machines = machines.map(|(name, part)| StoreRecord::Machine(name.clone(), part.clone().into()).into());
        let destroyed = self.destroyed.iter().filter(|(name, moved)| records.destroyed.get(*name) != Some(*moved));
        let destroyed = destroyed.map(|(_, moved)| StoreRecord::Destroyed(moved.clone()).into());
        let is_told = records.events.contains_key(&self.event.number);
        let event = (!is_told).then(|| StoreRecord::Event(self.event.clone()).into());
        deploys.chain(machines).chain(destroyed).chain(event).collect()
    }
}

/// The newest stamp in the records: that of the last event, or one from which durations are counted. A stamp in the future
/// comes from a server whose clock was ahead, or from the time before this machine's clock went back.
#[must_use]
pub fn newest_stamp(records: &RecordIndex) -> Option<Moment> {
    let event = records.events.values().next_back().map(|event| event.at);
    let deploys = records.deploys.values().flat_map(|deploys| deploys.values());
    let deploys = deploys.filter(|deploy| !deploy.state.is_final()).map(|deploy| deploy.entered.max(deploy.progressed));
    let retires = records.plan.machines.values().flat_map(|part| part.retires()).map(|(_, since)| since);
    event.into_iter().chain(deploys).chain(retires).max()
}

/// The jump that takes the newest stamp back to the time of this server; `None` if no stamp lies in the future by more than
/// the tolerance.
#[must_use]
pub fn stamps_ahead(records: &RecordIndex, now: Moment) -> Option<ClockJump> {
    let ahead = newest_stamp(records)?.since(now);
    let by = i64::try_from(ahead).ok()?.saturating_neg();
    (ahead >= TOLERANCE).then_some(ClockJump { at: now, by, suspended: 0 })
}
