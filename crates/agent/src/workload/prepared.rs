//! Prepared slots: network, address and control groups of jobs that are still to come.
//!
//! ```text
//! job begins ─► takes a slot, if one is ready ─► launched in the slot      otherwise: launched without a slot
//!           └─► nudges the loop: prepares slots while jobs come ─► none for 30 s: ends all slots
//! ```
//! - A slot serves one job. It belongs to no app before, and nothing of it serves another job.
//! - Slots save time; nothing else depends on them. A job whose slot fails is launched without one, and all waiting slots
//!   end. After a failure no slot is prepared for a while.
//! - No job gets a slot whose seed has ended.
//! - A slot holds an address. A container that finds no other address free gets the address of a slot.
//! - The slots of an agent end with the agent. The next agent removes what is left.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_sandbox::{
    Container, ContainerSpec, PreparedSlot, SandboxError, SlotSpec, end_own_slots, end_slots, kill_rest, slot_group,
};
use gantry_supervision::{Backoff, Nudge, ReconcileLoop};
use tokio::time::Instant;

use super::container_network;
use crate::network::AddressPool;
use crate::trash::REMOVAL_RETRY;
use crate::{AgentContext, AgentSettings};

/// Maximum number of slots that wait for a job.
const IDLE_MAX: usize = 8;

/// Slots that are prepared at the same time. A preparation mostly waits for the kernel.
const CONCURRENT_PREPARATIONS: usize = 3;

/// Time without a job after which all slots end.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Poll interval for slots to end.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// First and longest time without new slots after a failure.
const SUSPENSION: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// The agent's prepared slots.
pub(crate) struct PreparedSlots {
    slot_pool: Mutex<SlotPool<JobSlot>>,
    refill: Nudge,
    numbers: AtomicU64,
    left: Arc<LeftGroups>,
}

/// Control groups of slots that ended, until they are removed.
#[derive(Default)]
struct LeftGroups {
    groups: Mutex<Vec<String>>,
    added: Nudge,
}

impl LeftGroups {
    fn add(&self, group: String) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).push(group);
        self.added.nudge();
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.groups.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A slot that waits for its job.
pub(crate) struct JobSlot {
    slot: PreparedSlot,
    address: Ipv4Addr,
    group: GroupRemoval,
}

/// The duty to remove the control groups of a slot. Dropping this value leaves the removal to a loop, which tries again
/// until the groups are gone.
struct GroupRemoval {
    group: Option<String>,
    left: Arc<LeftGroups>,
}

impl GroupRemoval {
    /// Ends the processes in the groups, and removes the groups.
    async fn remove(self) -> Result<(), SandboxError> {
        let removed = match &self.group {
            Some(group) => kill_rest(group).await,
            None => Ok(()),
        };
        self.finish(removed)
    }

    /// Takes note of an attempt to remove the groups. Groups that stay are left to the loop.
    fn finish<E: Error>(mut self, removed: Result<(), E>) -> Result<(), E> {
        match &removed {
            Ok(()) => self.group = None,
            Err(error) => {
                let (group, error) = (self.group.as_deref(), ErrorChain(error));
                tracing::warn!(group, %error, "cannot remove the control group of a slot; retrying");
            }
        }
        removed
    }
}

impl Drop for GroupRemoval {
    fn drop(&mut self) {
        self.group.take().into_iter().for_each(|group| self.left.add(group));
    }
}

impl JobSlot {
    /// The address of the slot's job.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Starts a container in the slot. After a failure the processes in the slot's groups have ended: one of them may have
    /// held the lock that the next launch of the container needs.
    pub(crate) async fn launch(self, spec: &ContainerSpec) -> Result<Container, SandboxError> {
        let Self { slot, mut group, .. } = self;
        let launched = slot.launch(spec).await;
        match &launched {
            // The groups have the container's name now.
            Ok(_) => group.group = None,
            Err(_) => drop(group.remove().await),
        }
        launched
    }
}

impl PreparedSlots {
    /// At most `jobs` jobs run at the same time.
    pub(crate) fn new(jobs: u16) -> Self {
        let most = usize::from(jobs).saturating_mul(2).min(IDLE_MAX);
        let slot_pool = Mutex::new(SlotPool::new(most));
        Self { slot_pool, refill: Nudge::default(), numbers: AtomicU64::default(), left: Arc::default() }
    }

    fn slot_pool(&self) -> MutexGuard<'_, SlotPool<JobSlot>> {
        self.slot_pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot for a job, if one is ready, and has others prepared. Ends the slots whose seed has ended.
    pub(crate) fn take(&self, addresses: &AddressPool) -> Option<JobSlot> {
        let (slot, ended) = self.slot_pool().take(Instant::now(), |slot| !slot.slot.has_ended());
        end(ended, addresses);
        self.refill.nudge();
        slot
    }

    /// Ends a slot, and returns its address, which stays in use.
    pub(crate) fn give_up_address(&self) -> Option<Ipv4Addr> {
        let slot = self.slot_pool().idle.pop_front();
        slot.map(|slot| slot.address)
    }

    /// Records that a job started in a slot.
    pub(crate) fn succeed(&self) {
        self.slot_pool().backoff.reset();
    }

    /// Records that a slot failed, so that its job started without a slot. Ends the waiting slots, which may fail as well.
    pub(crate) fn fail(&self, addresses: &AddressPool) {
        let rest = std::mem::take(&mut self.slot_pool().idle);
        end(rest, addresses);
        self.suspend();
    }

    /// Prepares no slot for a while.
    fn suspend(&self) {
        let pause = self.slot_pool().suspend(Instant::now());
        if let Some(pause) = pause {
            tracing::warn!(seconds = pause.as_secs(), "jobs start without prepared slots for a while");
        }
    }

    fn removal_of(&self, group: &str) -> GroupRemoval {
        GroupRemoval { group: Some(group.to_owned()), left: Arc::clone(&self.left) }
    }

    /// Removes the groups of slots that ended. A group that cannot be removed stays for the next pass, and keeps none of
    /// the others.
    async fn remove_left(&self) -> Result<(), SandboxError> {
        let mut result = Ok(());
        for group in self.left.take() {
            let removed = self.removal_of(&group).remove().await;
            result = result.and(removed);
        }
        result
    }
}

/// The slots that wait and those in preparation.
struct SlotPool<S> {
    idle: VecDeque<S>,
    preparing: usize,
    most: usize,
    /// Time of the last job.
    used: Option<Instant>,
    /// Time until which no slot is prepared.
    suspended: Option<Instant>,
    backoff: Backoff,
}

impl<S> SlotPool<S> {
    fn new(most: usize) -> Self {
        let [first, longest] = SUSPENSION;
        let backoff = Backoff::new(first, longest);
        Self { idle: VecDeque::new(), preparing: 0, most, used: None, suspended: None, backoff }
    }

    /// Takes the usable slot that has waited longest, and the unusable ones before it.
    fn take(&mut self, now: Instant, is_usable: impl Fn(&S) -> bool) -> (Option<S>, Vec<S>) {
        self.used = Some(now);
        let unusable = self.idle.iter().take_while(|slot| !is_usable(slot)).count();
        let unusable = self.idle.drain(..unusable).collect();
        (self.idle.pop_front(), unusable)
    }

    fn is_used(&self, now: Instant) -> bool {
        self.used.is_some_and(|used| now.duration_since(used) < IDLE_TIME)
    }

    /// Begins a preparation. Returns false if no further slot is wanted.
    fn begin(&mut self, now: Instant) -> bool {
        let is_wanted = self.is_used(now)
            && self.suspended.is_none_or(|until| now >= until)
            && self.idle.len() + self.preparing < self.most;
        self.preparing += usize::from(is_wanted);
        is_wanted
    }

    /// Ends a preparation.
    fn end(&mut self, made: Option<S>) {
        self.preparing -= 1;
        self.idle.extend(made);
    }

    /// Takes all slots that wait, if no job came for [`IDLE_TIME`].
    fn take_expired(&mut self, now: Instant) -> Vec<S> {
        if self.is_used(now) { Vec::new() } else { self.idle.drain(..).collect() }
    }

    /// Suspends preparations, each time for longer. Returns the pause; none if preparations are suspended already. Several
    /// slots that fail together are one failure.
    fn suspend(&mut self, now: Instant) -> Option<Duration> {
        if self.suspended.is_some_and(|until| now < until) {
            return None;
        }
        let pause = self.backoff.pause();
        self.suspended = Some(now + pause);
        Some(pause)
    }
}

/// Prepares slots while jobs come, and ends them afterwards, for ever.
pub(crate) async fn run(agent: &Arc<AgentContext>) {
    let pass = async || {
        let expired = agent.prepared.slot_pool().take_expired(Instant::now());
        end(expired, &agent.addresses);
        let makers: [_; CONCURRENT_PREPARATIONS] = std::array::from_fn(|_| fill(agent));
        let [first, second, third] = makers;
        tokio::join!(first, second, third);
        Ok::<_, Infallible>(())
    };
    // A group that the kernel does not release keeps no job from its slot.
    let removal = async || agent.prepared.remove_left().await;
    let slots = ReconcileLoop::new("prepared slots", POLL_INTERVAL, Backoff::constant(POLL_INTERVAL));
    let groups = ReconcileLoop::new("groups of slots", POLL_INTERVAL, Backoff::constant(REMOVAL_RETRY));
    tokio::join!(
        slots.run_nudged(&agent.prepared.refill, pass),
        groups.run_nudged(&agent.prepared.left.added, removal)
    );
}

/// Ends slots, and releases their addresses.
fn end(slots: impl IntoIterator<Item = JobSlot>, addresses: &AddressPool) {
    for slot in slots {
        let address = slot.address;
        drop(slot);
        addresses.release(address);
    }
}

/// Prepares slots, one after the other, while further slots are wanted.
async fn fill(agent: &Arc<AgentContext>) {
    while agent.prepared.slot_pool().begin(Instant::now()) {
        let made = match agent.addresses.allocate() {
            Some(address) => prepare(agent, address).await,
            None => None,
        };
        let failed = made.is_none();
        agent.prepared.slot_pool().end(made);
        if failed {
            return;
        }
    }
}

async fn prepare(agent: &Arc<AgentContext>, address: Ipv4Addr) -> Option<JobSlot> {
    let slots = &agent.prepared;
    let cgroup = slot_group(&agent.settings.cgroup, slots.numbers.fetch_add(1, Ordering::Relaxed));
    let group = slots.removal_of(&cgroup);
    let network = Some(container_network(&agent.settings, address));
    match PreparedSlot::prepare(SlotSpec { cgroup, network, init: agent.init.clone() }).await {
        Ok(slot) => Some(JobSlot { slot, address, group }),
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "cannot prepare a slot for a job");
            slots.suspend();
            agent.addresses.release(address);
            None
        }
    }
}

/// Ends the slots of this agent, and removes what is left of them.
pub(crate) async fn close(agent: &AgentContext) {
    let idle = std::mem::take(&mut agent.prepared.slot_pool().idle);
    drop(idle);
    for error in end_own_slots(&agent.settings.cgroup).await {
        tracing::warn!(error = %ErrorChain(&error), "cannot remove a slot of this agent");
    }
}

/// Removes the slots that a killed agent left behind.
pub(crate) async fn sweep(settings: &AgentSettings) {
    for error in end_slots(&settings.cgroup).await {
        tracing::warn!(error = %ErrorChain(&error), "cannot remove a slot of an earlier agent");
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn filled(most: usize, now: Instant) -> SlotPool<u32> {
        let mut slot_pool = SlotPool::new(most);
        assert_eq!(slot_pool.take(now, |_| true), (None, vec![]), "the first job starts without a slot");
        for number in 0.. {
            if !slot_pool.begin(now) {
                return slot_pool;
            }
            slot_pool.end(Some(number));
        }
        unreachable!("a stock has a bound")
    }

    #[tokio::test(start_paused = true)]
    async fn prepares_a_bounded_number_of_slots_once_a_job_came() {
        let now = Instant::now();
        assert!(!SlotPool::<u32>::new(3).begin(now), "no job came");
        let mut slot_pool = filled(3, now);
        assert_eq!(slot_pool.idle, [0, 1, 2]);
        assert_eq!(slot_pool.take(now, |_| true), (Some(0), vec![]));
        assert!(slot_pool.begin(now) && !slot_pool.begin(now), "a slot in preparation counts");
        slot_pool.end(None);
        assert!(slot_pool.begin(now));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_the_slots_when_no_job_came_for_a_while() {
        let now = Instant::now();
        let mut slot_pool = filled(2, now);
        assert_eq!(slot_pool.take_expired(now + IDLE_TIME / 2), [0; 0]);
        assert_eq!(slot_pool.take_expired(now + IDLE_TIME), [0, 1]);
        assert!(!slot_pool.begin(now + IDLE_TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_longer_after_each_failure_until_a_job_started_in_a_slot() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut slot_pool = SlotPool::<u32>::new(2);
        slot_pool.take(now, |_| true);
        let at = [0_u32, 1, 3].map(|after| now + after * second);
        assert_eq!(at.map(|now| slot_pool.suspend(now)), [1_u32, 2, 4].map(|pause| Some(pause * second)));
        assert!(!slot_pool.begin(now + 6 * second));
        assert!(slot_pool.begin(now + 7 * second));
        slot_pool.end(Some(1));
        slot_pool.backoff.reset();
        assert_eq!(slot_pool.suspend(now + 7 * second), Some(second));
    }

    #[tokio::test(start_paused = true)]
    async fn slots_that_fail_together_suspend_once() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut slot_pool = filled(3, now);
        slot_pool.idle.clear();
        assert_eq!([(); 3].map(|()| slot_pool.suspend(now)), [Some(second), None, None]);
        assert!(!slot_pool.begin(now) && slot_pool.begin(now + second));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_no_job_an_unusable_slot() {
        let now = Instant::now();
        let mut slot_pool = filled(4, now);
        assert_eq!(slot_pool.take(now, |slot| *slot == 2), (Some(2), vec![0, 1]));
        assert_eq!(slot_pool.take(now, |_| false), (None, vec![3]));
    }

    #[tokio::test]
    async fn leaves_the_groups_of_a_dropped_slot_to_the_loop() {
        let slots = PreparedSlots::new(2);
        drop(slots.removal_of("gantry/slot-1-0"));
        let mut used = slots.removal_of("gantry/slot-1-1");
        used.group = None;
        drop(used);
        slots.removal_of("gantry-none/slot-1-2").remove().await.expect("no such group");
        assert_eq!(slots.left.take(), ["gantry/slot-1-0"]);
        assert_eq!(slots.left.take(), [""; 0]);
    }

    #[tokio::test]
    async fn keeps_a_group_that_cannot_be_removed_for_the_next_pass() {
        let slots = PreparedSlots::new(2);
        let busy = || Err(io::Error::other("busy"));
        slots.removal_of("gantry/slot-1-0").finish(busy()).expect_err("busy");
        let left = slots.left.take();
        assert_eq!(left, ["gantry/slot-1-0"]);
        slots.left.added.nudged().await;
        slots.removal_of(&left[0]).finish(busy()).expect_err("still busy");
        assert_eq!(slots.left.take(), left);
        drop(slots.removal_of("gantry-none/slot-1-1"));
        slots.remove_left().await.expect("removed");
        assert_eq!(slots.left.take(), [""; 0]);
    }
}
