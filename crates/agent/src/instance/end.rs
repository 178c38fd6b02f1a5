//! The end of a container: stop, record the exit, remove.

use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_linux::cgroup::GroupUsage;
use gantry_model::{ExitStatus, InstanceGoal, InstancePhase, Moment, StopReason};
use gantry_relay::LogTail;
use gantry_sandbox::Container;

use super::Instance;
use crate::records::ContainerPaths;
use crate::status::{now, wall};
use crate::trash::REMOVAL_RETRY;
use crate::workload::{ContainerEnd, StopOrder, Verdict};

/// Number of output lines kept with an exit.
const TAIL: usize = 20;

/// Maximum length of each line, in characters: a report contains every instance of the machine.
const LINE_SHOWN: usize = 500;

impl Instance {
    /// Sends the stop signal and waits for the end, at most for the stop timeout. An instance that was never ready gets
    /// the signal repeatedly. Its pid 1 may not have a handler yet, and the kernel discards signals that pid 1 does not
    /// handle. After a quarter of the timeout, the status of an instance that was ready says that the instance is still
    /// running.
    pub(super) async fn stop_container(&mut self, container: &Container, why: StopReason) {
        gantry_failpoint::failpoint!("instance.stopping");
        // A planned removal deletes the record, so there is no need to write it.
        let lasts = why != StopReason::Planned;
        self.record.stop = Some(why);
        if lasts {
            self.write_record();
        }
        const REMEDY: &str = "let it end on that signal, or set `stop_signal` or `stop_timeout` of the role";
        let role = &self.record.spec.role;
        let (signal, timeout) = (role.stop_signal.name(), role.stop_timeout);
        let time = Duration::from_secs(u64::from(timeout.0));
        let order = StopOrder { signal: role.stop_signal, timeout: time, repeats: !self.record.ready };
        let name = self.id.to_string();
        let late = || {
            let why = format!("was sent {signal} and is still running; Gantry kills it after {timeout}; {REMEDY}");
            self.status.failure = Some(why);
            self.enter_phase(self.status.phase);
        };
        if !order.carry_out(&name, container, late).await {
            let why = format!("did not end within {timeout} of {signal}; killed; {REMEDY}");
            tracing::warn!(instance = %self.id, why);
            self.append_log(&why);
            self.killed_after = Some(timeout);
        }
        gantry_failpoint::failpoint!("instance.stopped");
    }

    /// Records the exit and removes the container.
    pub(super) async fn finish(&mut self, container: &Container) {
        let usage = container.usage();
        while let Err(error) = container.kill().await {
            self.wait_after_failed_removal(&error).await;
        }
        // The exit is on disk before the last trace of the container is removed, so that a restarted agent knows of the
        // exit.
        gantry_failpoint::failpoint!("instance.killed");
        let is_full = self.workload.is_full(self.record.spec.role.limits.disk).await;
        self.record_exit(usage, is_full);
        gantry_failpoint::failpoint!("instance.noted");
        loop {
            match container.destroy().await {
                Ok(()) => {
                    gantry_failpoint::failpoint!("instance.destroyed");
                    break;
                }
                Err(error) => self.wait_after_failed_removal(&error).await,
            }
        }
        self.enter_phase(InstancePhase::Exited);
    }

    /// Appends a line of Gantry's own to the instance's log.
    pub(super) fn append_log(&self, text: &str) {
        if let Err(error) = gantry_relay::append(&self.workload.paths().logs, self.policy().segment, wall(), text) {
            tracing::warn!(instance = %self.id, %error, "cannot append to the instance's log");
        }
    }

    /// Handles a failed removal: reports the failure and waits before the retry, without delaying other instances. The
    /// instance keeps its name and address until it is removed.
    async fn wait_after_failed_removal(&mut self, error: &(dyn std::error::Error + Sync + 'static)) {
        let why = ErrorChain(error).to_string();
        tracing::error!(instance = %self.id, why, "cannot remove the instance; retrying");
        let (phase, what) = match self.goal() {
            InstanceGoal::Stop => (InstancePhase::Stopping, "cannot be removed; retrying"),
            _ => (InstancePhase::Failed, "the previous container cannot be removed; retrying"),
        };
        self.status.failure = Some(format!("{what}: {why}"));
        self.enter_phase(phase);
        tokio::time::sleep(REMOVAL_RETRY).await;
    }

    /// Records the exit, from the file that init wrote.
    pub(super) fn record_exit(&mut self, usage: GroupUsage, is_full: bool) {
        let tail = last_lines(self.workload.paths(), self.record.begun.unwrap_or_default());
        let end = ContainerEnd {
            exit: self.workload.exit(),
            usage,
            // A limit that one of its processes hit days ago is not the cause of this exit.
            before: self.used[0],
            is_full,
            killed_for_disk: self.agent.disk.is_over(&self.id),
            timed_out: false,
        };
        let (verdict, limits) = (Verdict::of(self.workload.kind(), &end), self.record.spec.role.limits);
        let exit = ExitStatus {
            code: verdict.code,
            signal: verdict.signal,
            out_of_memory: verdict.out_of_memory.then_some(limits.memory.0),
            out_of_disk: verdict.out_of_disk.then_some(limits.disk.0),
            out_of_processes: verdict.out_of_processes.then_some(limits.pids),
            at: now(),
            tail,
            stopped: self.record.stop.take(),
            killed_after: self.killed_after.take(),
            left_processes: verdict.left_processes,
        };
        self.record.ready = false;
        self.record.exit = Some(exit.clone());
        self.write_record();
        if let Some(line) = exit.limit_line(&self.id.short()) {
            self.append_log(&line);
        }
        self.status.exit = Some(exit);
    }

    pub(super) async fn remove(mut self, container: Option<Container>) {
        if let Some(container) = container.or_else(|| self.workload.container()) {
            self.enter_phase(InstancePhase::Stopping);
            self.stop_container(&container, StopReason::Planned).await;
            self.finish(&container).await;
            self.enter_phase(InstancePhase::Stopping);
        }
        for volume in self.record.spec.role.volumes.keys() {
            let folder = self.record.spec.volume_folder(&self.id.slot.app);
            crate::volumes::mark_used(&self.agent.settings, folder, volume);
        }
        while let Err(error) = self.workload.try_discard(&self.agent).await {
            self.wait_after_failed_removal(&error).await;
        }
        gantry_failpoint::failpoint!("instance.removed");
        self.agent.addresses.release(self.record.address);
        // Close the receiver before removing the status: the supervisor then starts a new task when the plan names the
        // instance again.
        let Self { agent, id, desired, .. } = self;
        drop(desired);
        agent.disk.begin(&id);
        agent.fence.leave(&id);
        agent.status.remove(&id);
    }
}

/// The last lines that the instance printed since its last start.
fn last_lines(paths: &ContainerPaths, begun: Moment) -> Vec<String> {
    let mut lines = LogTail::new(gantry_relay::segments(&paths.logs)).new_lines();
    lines.retain(|line| !line.own && line.at >= begun);
    let last = lines.split_off(lines.len().saturating_sub(TAIL));
    last.into_iter().map(|line| line.text.chars().take(LINE_SHOWN).collect()).collect()
}
