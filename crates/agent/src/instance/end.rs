//! The end of a container: asked for, noted, and removed.

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

/// Before an instance that was never ready is asked to stop once more.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Between two attempts to remove what does not go.
pub(crate) const STUCK: Duration = Duration::from_secs(5);

/// Lines of output kept with an exit.
const TAIL: usize = 20;

/// Characters of each of them: a report tells of every instance of the machine.
const LINE_SHOWN: usize = 500;

impl Instance {
    fn ask_to_end(&self, container: &Container) {
        if let Err(error) = container.signal(signal_of(self.record.spec.role.stop_signal)) {
            tracing::warn!(instance = %self.id, %error, "cannot be asked to stop");
        }
    }

    /// Asks for orderly shutdown, and waits. One that was never ready is asked again and again: its pid 1 may not have been
    /// listening yet, and the kernel keeps no signal for a pid 1 that is not. One that takes more than a quarter of its time is told of.
    pub(super) async fn stop(&mut self, container: &Container, why: Stop) {
        gantry_linux::step!("instance.stopping");
        // What is being removed has no use for it.
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

    /// Notes how it ended, and clears what is left of it.
    pub(super) async fn ended(&mut self, container: &Container) {
        let usage = container.usage();
        while let Err(error) = container.kill().await {
            self.stuck(&error).await;
        }
        // Its end is on disk before the last trace of it is removed: whoever comes after this process knows of it.
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

    /// Adds a line of Gantry's own to its log.
    pub(super) fn say(&self, text: &str) {
        if let Err(error) = gantry_relay::append(&self.places.logs, container::SEGMENT, wall(), text) {
            tracing::warn!(instance = %self.id, %error, "its log cannot be added to");
        }
    }

    /// Kernel and runtime disagree: told, tried again, and in nobody else's way. Its name and address are given to nobody
    /// until it is gone.
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

    /// Notes how it ended, from what init recorded.
    pub(super) fn note_exit(&mut self, usage: Usage, full: bool) {
        let record = ExitRecord::read(&self.places.folder.join("exit"));
        let tail = last_lines(&self.places, self.record.begun.unwrap_or_default());
        let failed = record.as_ref().is_none_or(|record| record.code != Some(0));
        // A service that ends with 0 ended too early all the same.
        let unwanted = failed || !self.record.spec.once;
        // A process of it that ran into a limit days ago is not why it ends now.
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
        // A launcher that was killed half-way leaves a group that no record tells of.
        while let Err(error) = end_rest(&self.places.cgroup).await {
            self.stuck(&error).await;
        }
        while let Err(error) = self.places.remove().await {
            self.stuck(&error).await;
        }
        gantry_linux::step!("instance.removed");
        self.agent.addresses.release(self.record.address);
        // It listens no more before it is told to be gone: whoever wants it then begins a new one.
        let Self { agent, id, wanted, .. } = self;
        drop(wanted);
        agent.disk.begin(&id);
        agent.status.remove(&id);
    }
}

/// The last lines that an instance printed since it began.
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
