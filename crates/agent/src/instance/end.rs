//! The end of a container: stop, record the exit, remove.

use std::time::Duration;

use gantry_linux::cgroup::Usage;
use gantry_model::{Exit, Goal, Moment, Phase, Stop};
use gantry_relay::Tail;
use gantry_sandbox::{Container, ExitRecord, end_rest};
use rustix::process::Signal;
use tokio::time::Instant;

use super::Instance;
use crate::records::Places;
use crate::status::{now, wall};
use crate::{container, disk};

/// Interval at which the stop signal is repeated to an instance that was never ready.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Retry interval for a removal that fails.
pub(crate) const STUCK: Duration = Duration::from_secs(5);

/// Number of output lines kept with an exit.
const TAIL: usize = 20;

/// Maximum length of each line, in characters: a report contains every instance of the machine.
const LINE_SHOWN: usize = 500;

impl Instance {
    fn ask_to_end(&self, container: &Container) {
        if let Err(error) = container.signal(signal_of(self.record.spec.role.stop_signal)) {
            tracing::warn!(instance = %self.id, %error, "cannot be asked to stop");
        }
    }

    /// Sends the stop signal and waits for the end, at most for the stop timeout. An instance that was never ready gets
    /// the signal repeatedly. Its pid 1 may not have a handler yet, and the kernel discards signals that pid 1 does not
    /// handle. After a quarter of the timeout, the status of an instance that was ready says that the instance is still
    /// running.
    pub(super) async fn stop(&mut self, container: &Container, why: Stop) {
        gantry_linux::step!("instance.stopping");
        // A planned removal deletes the record, so there is no need to write it.
        let lasts = why != Stop::Planned;
        self.record.stop = Some(why);
        if lasts {
            self.keep_record();
        }
        let (signal, patience) = (self.record.spec.role.stop_signal.name(), self.record.spec.role.stop_timeout);
        let time = Duration::from_secs(u64::from(patience.0));
        let (deadline, told) = (Instant::now() + time, Instant::now() + time / 4);
        const REMEDY: &str = "let it end on that signal, or set `stop_signal` or `stop_timeout` of the role";
        self.ask_to_end(container);
        while tokio::time::timeout_at(deadline.min(Instant::now() + ASK_AGAIN), container.ended()).await.is_err() {
            if Instant::now() >= deadline {
                let why = format!("it did not end within {patience} of {signal}, and is killed; {REMEDY}");
                tracing::warn!(instance = %self.id, why);
                self.say(&why);
                self.killed_after = Some(patience);
                break;
            }
            if !self.record.ready {
                self.ask_to_end(container);
            } else if Instant::now() >= told {
                let why = format!("was sent {signal} and runs on; it is killed after {patience}; {REMEDY}");
                self.status.failure = Some(why);
                self.enter(self.status.phase);
            }
        }
        gantry_linux::step!("instance.stopped");
    }

    /// Records the exit and removes the container.
    pub(super) async fn ended(&mut self, container: &Container) {
        let usage = container.usage();
        while let Err(error) = container.kill().await {
            self.stuck(&error).await;
        }
        // The exit is on disk before the last trace of the container is removed, so that a restarted agent knows of the
        // exit.
        gantry_linux::step!("instance.killed");
        let full = disk::is_full(&self.places, self.record.spec.role.limits.disk).await;
        self.note_exit(usage, full);
        gantry_linux::step!("instance.noted");
        loop {
            match container.destroy().await {
                Ok(()) => {
                    gantry_linux::step!("instance.destroyed");
                    break;
                }
                Err(error) => self.stuck(&error).await,
            }
        }
        self.enter(Phase::Exited);
    }

    /// Appends a line of Gantry's own to the instance's log.
    pub(super) fn say(&self, text: &str) {
        if let Err(error) = gantry_relay::append(&self.places.logs, container::SEGMENT, wall(), text) {
            tracing::warn!(instance = %self.id, %error, "its log cannot be added to");
        }
    }

    /// Handles a failed removal: reports the failure and waits before the retry, without delaying other instances. The
    /// instance keeps its name and address until it is removed.
    async fn stuck(&mut self, error: &(dyn std::error::Error + Sync)) {
        let causes = std::iter::successors(error.source(), |error| error.source());
        let why = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
        tracing::error!(instance = %self.id, why, "cannot be removed; trying again");
        let (phase, what) = match self.goal() {
            Goal::Stop => (Phase::Stopping, "cannot be removed, and is tried again"),
            _ => (Phase::Failed, "what ran before cannot be removed, and is tried again"),
        };
        self.status.failure = Some(format!("{what}: {why}"));
        self.enter(phase);
        tokio::time::sleep(STUCK).await;
    }

    /// Records the exit, from the file that init wrote.
    pub(super) fn note_exit(&mut self, usage: Usage, full: bool) {
        let record = ExitRecord::read(&self.places.folder.join("exit"));
        let tail = last_lines(&self.places, self.record.begun.unwrap_or_default());
        let failed = record.as_ref().is_none_or(|record| record.code != Some(0));
        // A service that ends with 0 also ended too early.
        let unwanted = failed || !self.record.spec.once;
        // A limit that one of its processes hit days ago is not the cause of this exit.
        let recent = |count: fn(&Usage) -> u64| unwanted && count(&usage) > count(&self.used[0]);
        let by_limit = recent(|usage| usage.oom_kills);
        let over_disk = self.agent.disk.is_over(&self.id) || (failed && full);
        let exit = Exit {
            code: record.as_ref().and_then(|record| record.code),
            signal: record.as_ref().and_then(|record| record.signal),
            out_of_memory: by_limit.then_some(self.record.spec.role.limits.memory.0),
            out_of_disk: over_disk.then_some(self.record.spec.role.limits.disk.0),
            out_of_processes: recent(|usage| usage.refused).then_some(self.record.spec.role.limits.pids),
            at: now(),
            tail,
            stopped: self.record.stop.take(),
            killed_after: self.killed_after.take(),
            left_processes: record.as_ref().is_some_and(|record| record.left),
        };
        self.record.ready = false;
        self.record.exit = Some(exit.clone());
        self.keep_record();
        self.status.exit = Some(exit);
    }

    pub(super) async fn remove(mut self, container: Option<Container>) {
        if let Some(container) = container.or_else(|| self.adopt()) {
            self.enter(Phase::Stopping);
            self.stop(&container, Stop::Planned).await;
            self.ended(&container).await;
            self.enter(Phase::Stopping);
        }
        // A launcher that was killed midway leaves a control group without a record.
        while let Err(error) = end_rest(&self.places.cgroup).await {
            self.stuck(&error).await;
        }
        while let Err(error) = self.places.remove().await {
            self.stuck(&error).await;
        }
        gantry_linux::step!("instance.removed");
        self.agent.addresses.release(self.record.address);
        // Close the receiver before removing the status: the supervisor then starts a new task when the plan names the
        // instance again.
        let Self { agent, id, wanted, .. } = self;
        drop(wanted);
        agent.disk.begin(&id);
        agent.status.remove(&id);
    }
}

/// The last lines that the instance printed since its last start.
fn last_lines(places: &Places, begun: Moment) -> Vec<String> {
    let mut lines = Tail::new(gantry_relay::segments(&places.logs)).fresh();
    lines.retain(|line| !line.own && line.at >= begun);
    let last = lines.split_off(lines.len().saturating_sub(TAIL));
    last.into_iter().map(|line| line.text.chars().take(LINE_SHOWN).collect()).collect()
}

fn signal_of(signal: gantry_model::role::Signal) -> Signal {
    use gantry_model::role::Signal as Asked;
    match signal {
        Asked::Term => Signal::TERM,
        Asked::Quit => Signal::QUIT,
        Asked::Int => Signal::INT,
        Asked::Hup => Signal::HUP,
        Asked::Usr1 => Signal::USR1,
        Asked::Usr2 => Signal::USR2,
        Asked::Winch => Signal::WINCH,
    }
}
