//! The caller's side of a slot: the slow parts of one container, made ahead.
//!
//! ```text
//! prepare ─► (waits, however long) ─► launch: the container      or  discard
//! ```
//! A slot saves the time of network, link, addresses and control groups at a launch (see `seed`). It is used once: what a
//! container leaves in its network and in its groups is never another container's.

use gantry_linux::cgroup::Cgroup;
use serde::de::DeserializeOwned;

use crate::container::{Container, LAUNCH_TIMEOUT, kill_rest};
use crate::launch::LaunchOutcome;
use crate::launcher_client::Worker;
use crate::sandbox_error::SandboxError;
use crate::seed::SlotOutcome;
use crate::spec::{ContainerSpec, SlotSpec};
use crate::worker::WorkerTask;

/// Begin of the name of a slot's control group, before a pid and a number. No container has a name of this form.
const GROUP: &str = "slot-";

/// The path of the control groups of a slot below `parent`. The pid tells the slots of two callers apart.
#[must_use]
pub fn slot_group(parent: &str, number: u64) -> String {
    format!("{parent}/{GROUP}{}-{number}", std::process::id())
}

/// The pid of the caller that made a slot, by the name of the slot's control group; none for other groups.
fn caller_of(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(GROUP)?.split_once('-')?;
    number.parse::<u64>().ok().and_then(|_| pid.parse().ok())
}

/// Reports whether another process than this one lives under a pid, and is of the same program by its name. A pid of an
/// ended caller may have become that of another program.
fn is_living_caller(pid: u32) -> bool {
    let name = |process: &str| std::fs::read(format!("/proc/{process}/comm")).ok();
    pid != std::process::id() && name(&pid.to_string()).is_some_and(|found| name("self") == Some(found))
}

/// A slot that waits for its container. Dropping the slot ends its seed; the control groups stay, until
/// [`PreparedSlot::discard`] or [`end_slots`] removes them.
#[derive(Debug)]
pub struct PreparedSlot {
    cgroup: String,
    seed: Worker,
}

impl PreparedSlot {
    /// Prepares a slot. After a failure, control groups may be left.
    ///
    /// # Errors
    /// When the network or the groups cannot be made, or the launcher fails.
    pub async fn prepare(spec: SlotSpec) -> Result<Self, SandboxError> {
        let seed = Worker::fork(Some(&spec.init)).await?;
        let mut slot = Self { cgroup: spec.cgroup.clone(), seed };
        match slot.request(&WorkerTask::Slot(Box::new(spec))).await? {
            SlotOutcome::Prepared => Ok(slot),
            SlotOutcome::Failed(message) => Err(SandboxError::Launch(message)),
        }
    }

    /// Creates and starts the slot's container. After a failure, control groups of the slot and of the container may be
    /// left, and [`Container::adopt`] finds a container that was released nevertheless.
    ///
    /// # Errors
    /// [`SandboxError::Launch`] names the failed operation.
    pub async fn launch(mut self, spec: &ContainerSpec) -> Result<Container, SandboxError> {
        let outcome = self.request(spec).await?;
        self.seed.detach();
        match outcome {
            LaunchOutcome::Launched(identity) => Ok(Container::launched(spec, &identity)),
            LaunchOutcome::Failed(message) => Err(SandboxError::Launch(message)),
        }
    }

    /// Reports whether the slot's seed has ended. A launch in such a slot fails.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.seed.has_ended()
    }

    /// Ends the slot without a container.
    ///
    /// # Errors
    /// [`SandboxError::Unkillable`] when the seed does not end within 30 s.
    pub async fn discard(self) -> Result<(), SandboxError> {
        let Self { cgroup, seed } = self;
        drop(seed);
        kill_rest(&cgroup).await
    }

    async fn request<T: DeserializeOwned>(&mut self, message: &impl serde::Serialize) -> Result<T, SandboxError> {
        let answered = async {
            self.seed.send(message).await.map_err(SandboxError::launcher("describe the task to"))?;
            self.seed.receive().await.ok_or(SandboxError::NoResult)
        };
        let answer = tokio::time::timeout(LAUNCH_TIMEOUT, answered).await;
        answer.unwrap_or(Err(SandboxError::NoResponse(LAUNCH_TIMEOUT.as_secs())))
    }
}

/// Ends the slots below `parent` whose caller has ended, and those with the pid of this process: an earlier caller may
/// have had the same pid. Removes their control groups. Containers that were launched in slots go on: their groups have
/// other names. Returns an error for each slot that could not be ended.
pub async fn end_slots(parent: &str) -> Vec<SandboxError> {
    end_slots_of(parent, |pid| !is_living_caller(pid)).await
}

/// Ends the slots of this process below `parent`, as [`end_slots`] does.
pub async fn end_own_slots(parent: &str) -> Vec<SandboxError> {
    end_slots_of(parent, |pid| pid == std::process::id()).await
}

async fn end_slots_of(parent: &str, is_meant: impl Fn(u32) -> bool) -> Vec<SandboxError> {
    let mut errors = Vec::new();
    for name in Cgroup::named(parent).children().iter().filter(|name| caller_of(name).is_some_and(&is_meant)) {
        errors.extend(kill_rest(&format!("{parent}/{name}")).await.err());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_groups_of_slots_from_groups_of_containers() {
        let group = slot_group("gantry", 7);
        assert_eq!(caller_of(group.strip_prefix("gantry/").expect("the parent")), Some(std::process::id()));
        for name in ["slot-", "slot-1", "slot-1-", "slot-1-2-x", "slot-1.v2.web-1", "job-1-2", "slot.v1.web-1"] {
            assert_eq!(caller_of(name), None, "{name}");
        }
    }
}
