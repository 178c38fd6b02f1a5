//! One instance, from its image to its removal: a task that owns it.
//!
//! ```text
//!            ┌──────────────── backoff ────────────────┐
//!            ▼                                         │
//! preparing ─► starting ─► ready ◄─► unhealthy ─► exited / failed
//!     └────────────┴─────────┴───────────┴─────────────┴─► stopping ─► gone
//! ```

use std::sync::Arc;
use std::time::Duration;

use gantry_linux::cgroup::Usage;
use gantry_model::{Assignment, Bytes, Exit, Goal, InstanceId, ObservedInstance, Phase, Probe};
use gantry_relay::Tail;
use gantry_sandbox::{Container, ExitRecord, end_rest, launch};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::container::{self, Names};
use crate::health::{Check, settle};
use crate::records::{self, Places, Record};
use crate::status::{fresh, now};
use crate::{Agent, disk, images};

/// Pauses before an instance is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// One that lived this long begins with the shortest pause again.
const STEADY: Duration = Duration::from_secs(600);

/// Before an instance that was never ready is asked to stop once more.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The least that a log should go back.
const LOUD: Duration = Duration::from_secs(60);

/// Between two looks at whether another copy is gone.
const ALONE: Duration = Duration::from_millis(100);

/// Between two attempts to remove what does not go.
pub(crate) const STUCK: Duration = Duration::from_secs(5);

/// Characters of each of them: a report tells of every instance of the machine.
const LINE_SHOWN: usize = 500;

/// Lines of output kept with an exit.
const TAIL: usize = 20;

/// What the supervisor tells an instance's task. None: it is in no plan any more.
pub(crate) type Wanted = Option<Assignment>;

/// The task of one instance.
pub(crate) struct Instance {
    agent: Arc<Agent>,
    id: InstanceId,
    wanted: watch::Receiver<Wanted>,
    places: Places,
    record: Record,
    status: ObservedInstance,
    backoff: Duration,
    /// What it had used at the check before the last, and at the last.
    used: [Usage; 2],
    /// Its record was there. What runs under its name without one has an address that nobody knows, and is begun anew.
    known: bool,
}

/// Why watching a container ended.
enum Watched {
    Ended,
    ToStop,
    Unhealthy,
}

/// Where every address is given.
const NO_ADDRESS: &str = "the machine's network has no free address";

/// Returns once it is to stop, if it is not yet.
pub(crate) async fn told_to_stop(wanted: &mut watch::Receiver<Wanted>) {
    let stops = |wanted: &Wanted| wanted.as_ref().is_none_or(|assignment| assignment.goal == Goal::Stop);
    if wanted.wait_for(stops).await.is_err() {
        // The agent is ending.
        std::future::pending::<()>().await;
    }
}

impl Instance {
    /// Takes an instance on: its record is written, its status on the board.
    pub(crate) fn new(agent: &Arc<Agent>, id: InstanceId, wanted: watch::Receiver<Wanted>) -> Result<Self, String> {
        let places = Places::of(&agent.settings, &id);
        let kept = places.read();
        let known = kept.is_some();
        let record = match (kept, &*wanted.borrow()) {
            (Some(record), _) => record,
            (None, Some(assignment)) => {
                let address = agent.addresses.give().ok_or(NO_ADDRESS)?;
                let record = Record {
                    spec: assignment.spec.clone(),
                    address,
                    gateway: Some(agent.settings.gateway),
                    ready: false,
                    restarts: 0,
                    started: false,
                    exit: None,
                };
                if let Err(error) = places.write(&record) {
                    agent.addresses.release(address);
                    return Err(format!("its record cannot be written: {error}"));
                }
                gantry_linux::step!("instance.recorded");
                record
            }
            // Left half-removed: go on removing.
            (None, None) => return Err("nothing is known of it".to_owned()),
        };
        agent.addresses.take(record.address);
        let mut status = fresh();
        status.address = Some(record.address);
        status.restarts = record.restarts;
        status.exit.clone_from(&record.exit);
        let mut instance = Self {
            agent: Arc::clone(agent),
            id,
            wanted,
            places,
            record,
            status,
            backoff: BACKOFF.0,
            used: Default::default(),
            known,
        };
        let phase = match (instance.left(), instance.record.ready) {
            (Some(container), true) if container.is_running() && !instance.is_elsewhere() => Phase::Ready,
            (Some(container), _) if container.is_running() => Phase::Starting,
            _ if instance.is_over() => Phase::Exited,
            _ => Phase::Preparing,
        };
        instance.enter(phase);
        Ok(instance)
    }

    fn adopt(&self) -> Option<Container> {
        Container::adopt(&self.places.state, &self.places.cgroup)
    }

    /// What the agent before left running.
    fn left(&self) -> Option<Container> {
        self.adopt().filter(|container| self.known && container.was_let_go())
    }

    /// It was begun, and may have run: unless its launcher ended before it let the container go.
    fn has_run(&self) -> bool {
        self.record.started && self.adopt().is_none_or(|container| container.was_let_go())
    }

    /// It runs once, and did.
    fn is_over(&self) -> bool {
        self.record.spec.once && self.record.exit.is_some()
    }

    /// Its address is of the network that the machine had before: there is no way out of it, and names are not answered there.
    fn is_elsewhere(&self) -> bool {
        let was_another = |gateway| gateway != self.agent.settings.gateway;
        !self.agent.addresses.has(self.record.address) || self.record.gateway.is_some_and(was_another)
    }

    fn goal(&self) -> Goal {
        self.wanted.borrow().as_ref().map_or(Goal::Stop, |assignment| assignment.goal)
    }

    fn enter(&mut self, phase: Phase) {
        if self.status.phase != phase {
            self.status.since = now();
        }
        self.status.phase = phase;
        self.agent.status.set(&self.id, self.status.clone());
    }

    fn keep_record(&self) {
        if let Err(error) = self.places.write(&self.record) {
            tracing::error!(instance = %self.id, %error, "its record cannot be written");
        }
    }

    /// What the agent before left running, if it may run on.
    async fn taken_over(&mut self) -> Option<Container> {
        let mut container = self.left();
        if let Some(container) = &container {
            self.used = [container.usage(); 2];
        }
        // What runs once is not begun again.
        if self.record.spec.once {
            if self.has_run() && self.record.exit.is_none() && container.is_none() {
                // It ended while nobody looked.
                self.note_exit(Usage::default(), false);
            }
        } else if self.is_elsewhere()
            && self.goal() != Goal::Stop
            && let Some(old) = container.take()
        {
            tracing::warn!(instance = %self.id, address = %self.record.address, "of another network; started anew");
            self.stop(&old).await;
        }
        container
    }

    /// Lives until the instance is gone.
    pub(crate) async fn run(mut self) {
        let mut container = self.taken_over().await;
        while self.goal() != Goal::Stop {
            if self.is_over() {
                self.enter(Phase::Exited);
                self.changed().await;
                continue;
            }
            let running = match container.take() {
                Some(container) => container,
                None => match self.start_or_again().await {
                    Ok(container) => container,
                    Err(message) => {
                        tracing::warn!(instance = %self.id, message, "cannot be started");
                        self.status.failure = Some(message);
                        self.enter(Phase::Failed);
                        self.pause().await;
                        continue;
                    }
                },
            };
            let begun = Instant::now();
            match self.watch(&running).await {
                Watched::ToStop => container = Some(running),
                Watched::Ended => {
                    // Out of rotation first; how it ended is told once that is known.
                    if self.status.phase == Phase::Ready {
                        self.enter(Phase::Starting);
                    }
                    self.ended(&running).await;
                    self.after(begun).await;
                }
                Watched::Unhealthy => {
                    // Out of rotation first: routers are told by this status.
                    self.stop(&running).await;
                    self.ended(&running).await;
                    self.after(begun).await;
                }
            }
        }
        self.remove(container).await;
    }

    /// Waits for another goal.
    async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            // The agent is ending.
            std::future::pending::<()>().await;
        }
    }

    async fn pause(&mut self) {
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        let _ = tokio::time::timeout(pause, told_to_stop(&mut self.wanted)).await;
    }

    async fn after(&mut self, begun: Instant) {
        if self.is_over() {
            return;
        }
        if begun.elapsed() >= STEADY {
            self.backoff = BACKOFF.0;
        }
        self.pause().await;
        if self.goal() != Goal::Stop {
            self.status.restarts += 1;
            self.record.restarts = self.status.restarts;
            self.keep_record();
        }
    }

    /// What fails for a moment, such as a link that the kernel is just taking away, fails no deploy.
    async fn start_or_again(&mut self) -> Result<Container, String> {
        match self.start().await {
            Err(message) if self.goal() != Goal::Stop => {
                tracing::warn!(instance = %self.id, message, "not started; once more");
                self.start().await
            }
            result => result,
        }
    }

    async fn start(&mut self) -> Result<Container, String> {
        self.status.probe = None;
        self.status.failure = None;
        self.status.warning = None;
        self.enter(Phase::Preparing);
        self.alone().await?;
        // Until it runs, its layers are not collected; from then on its record speaks for them.
        let _held = self.agent.layers.hold().map_err(|error| error.to_string())?;
        let agent = Arc::clone(&self.agent);
        let image = tokio::select! {
            image = images::fetch(&agent, &self.id.app, &self.record.spec.image) => image?,
            () = told_to_stop(&mut self.wanted) => return Err("it is not wanted any more".to_owned()),
        };
        gantry_linux::step!("instance.fetched");
        let names = Names {
            app: self.id.app.clone(),
            short: self.id.short(),
            release: self.id.release.to_string(),
            role: self.id.role.to_string(),
        };
        // What ran before under this name is gone for good, or this one does not begin.
        match self.adopt() {
            Some(old) => old.destroy().await.map_err(|error| error.to_string())?,
            None => end_rest(&self.places.cgroup).await.map_err(|error| error.to_string())?,
        }
        if self.is_elsewhere() {
            // The one it had stays taken while this agent lives: routers may look for it there still.
            self.record.address = self.agent.addresses.give().ok_or(NO_ADDRESS)?;
            self.status.address = Some(self.record.address);
        }
        self.record.gateway = Some(self.agent.settings.gateway);
        let (agent, places, spec, address) =
            (Arc::clone(&self.agent), self.places.clone(), self.record.spec.clone(), self.record.address);
        let spec =
            tokio::task::spawn_blocking(move || container::prepare(&agent, &places, &names, &spec, &image, address))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
        gantry_linux::step!("instance.prepared");
        let _ = std::fs::remove_file(&spec.exit);
        self.agent.disk.begin(&self.id);
        self.record.started = true;
        // The one before may have gone with the machine, which noted nothing.
        self.record.ready = false;
        self.places.write(&self.record).map_err(|error| format!("its record cannot be written: {error}"))?;
        gantry_linux::step!("instance.marked");
        // Counted from its first moment: it may run into a limit before anybody looks.
        self.used = Default::default();
        let container = launch(&spec).await.map_err(|error| error.to_string())?;
        gantry_linux::step!("instance.launched");
        self.enter(Phase::Starting);
        Ok(container)
    }

    /// A volume has one writer: until every other copy of the role is gone from this machine, this one waits. The plan sees to
    /// that; one out of a backup does not know of all that runs.
    async fn alone(&mut self) -> Result<(), String> {
        let (settings, id) = (&self.agent.settings, &self.id);
        let is_other = |other: &InstanceId| (&other.app, &other.role) == (&id.app, &id.role) && other != id;
        while self.record.spec.role.stop_first() && records::all(settings).iter().any(is_other) {
            if tokio::time::timeout(ALONE, told_to_stop(&mut self.wanted)).await.is_ok() {
                return Err("it is not wanted any more".to_owned());
            }
        }
        Ok(())
    }

    /// Checks the container until it ends, is to stop, or fails too often.
    async fn watch(&mut self, container: &Container) -> Watched {
        let role = self.record.spec.role.clone();
        let seconds = |seconds: gantry_model::Seconds| Duration::from_secs(u64::from(seconds.0));
        let started = Instant::now();
        let mut failures = 0;
        // An adopted one that was ready is looked at after its usual pause, a new one at once.
        let mut pause = if self.record.ready { seconds(role.health.watch) } else { Duration::from_millis(20) };
        loop {
            tokio::select! {
                () = container.ended() => return Watched::Ended,
                () = tokio::time::sleep(pause) => {}
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    if self.goal() == Goal::Stop {
                        return Watched::ToStop;
                    }
                    continue;
                }
            }
            if self.record.spec.once {
                pause = Duration::from_secs(3600);
                continue;
            }
            let check = Check { role: &role, address: self.record.address, pid: container.pid().unwrap_or_default() };
            let probe = tokio::select! {
                () = container.ended() => return Watched::Ended,
                probe = check.probe() => probe,
            };
            if self.record.ready {
                self.used = [self.used[1], container.usage()];
            }
            let settled = started.elapsed() >= settle(&role);
            if self.judge(probe, settled, &mut failures, role.health.attempts) {
                return Watched::Unhealthy;
            }
            pause = match (self.status.phase, settled) {
                (Phase::Ready, _) => seconds(role.health.watch),
                // The first checks come quickly: most programs are ready within a second.
                (_, false) if started.elapsed() < Duration::from_secs(2) => Duration::from_millis(100),
                (_, true) if role.health.path.is_some() && started.elapsed() < Duration::from_secs(2) => {
                    Duration::from_millis(50)
                }
                _ => seconds(role.health.interval),
            };
        }
    }

    /// Takes a check's outcome; whether the instance has failed too often.
    fn judge(&mut self, probe: Option<Probe>, settled: bool, failures: &mut u32, attempts: u32) -> bool {
        match probe {
            None if settled => {
                *failures = 0;
                self.status.probe = None;
                self.status.warning = too_loud(&self.places);
                if !self.record.ready {
                    self.record.ready = true;
                    self.keep_record();
                    gantry_linux::step!("instance.ready");
                }
                self.enter(Phase::Ready);
            }
            // It answers, and has to go on doing so: what was wrong before is over.
            None => {
                self.status.probe = None;
                self.enter(self.status.phase);
            }
            Some(probe) if self.record.ready => {
                *failures += 1;
                self.status.probe = Some(probe);
                let phase = if *failures >= attempts { Phase::Unhealthy } else { self.status.phase };
                self.enter(phase);
                return *failures >= attempts;
            }
            Some(probe) => {
                self.status.probe = Some(probe);
                self.enter(Phase::Starting);
            }
        }
        false
    }

    fn ask_to_end(&self, container: &Container) {
        if let Err(error) = container.signal(signal_of(self.record.spec.role.stop_signal)) {
            tracing::warn!(instance = %self.id, %error, "cannot be asked to stop");
        }
    }

    /// Asks for orderly shutdown, and waits. One that was never ready is asked again and again: its pid 1 may not have been
    /// listening yet, and the kernel keeps no signal for a pid 1 that is not. One that takes more than a quarter of its time is told of.
    async fn stop(&mut self, container: &Container) {
        gantry_linux::step!("instance.stopping");
        let (signal, patience) = (self.record.spec.role.stop_signal.name(), self.record.spec.role.stop_timeout);
        let time = Duration::from_secs(u64::from(patience.0));
        let (deadline, told) = (Instant::now() + time, Instant::now() + time / 4);
        const REMEDY: &str = "let it end on that signal, or set `stop_signal` or `stop_timeout` of the role";
        self.ask_to_end(container);
        while tokio::time::timeout_at(deadline.min(Instant::now() + ASK_AGAIN), container.ended()).await.is_err() {
            if Instant::now() >= deadline {
                let why = format!("it did not end within {patience} of {signal}, and is killed; {REMEDY}");
                tracing::warn!(instance = %self.id, why);
                if let Err(error) = gantry_relay::append(&self.places.logs, now(), &format!("gantry: {why}")) {
                    tracing::warn!(instance = %self.id, %error, "its log cannot be added to");
                }
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
    async fn ended(&mut self, container: &Container) {
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

    /// Kernel and runtime disagree: told, tried again, and in nobody else's way. Its name and address are given to nobody
    /// until it is gone.
    async fn stuck(&mut self, error: &(dyn std::error::Error + Sync)) {
        let causes = std::iter::successors(error.source(), |error| error.source());
        let why = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
        tracing::error!(instance = %self.id, why, "cannot be removed; trying again");
        self.status.failure = Some(format!("cannot be removed, and is tried again: {why}"));
        self.enter(if self.goal() == Goal::Stop { Phase::Stopping } else { Phase::Failed });
        tokio::time::sleep(STUCK).await;
    }

    /// Notes how it ended, from what init recorded.
    fn note_exit(&mut self, usage: Usage, full: bool) {
        let record = ExitRecord::read(&self.places.folder.join("exit"));
        let tail = last_lines(&self.places);
        let failed = record.as_ref().is_none_or(|record| record.code != Some(0));
        // A process of it that ran into a limit days ago is not why it ends now.
        let recent = |count: fn(&Usage) -> u64| failed && count(&usage) > count(&self.used[0]);
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
        };
        self.record.ready = false;
        self.record.exit = Some(exit.clone());
        self.keep_record();
        self.status.exit = Some(exit);
    }

    async fn remove(mut self, container: Option<Container>) {
        if let Some(container) = container.or_else(|| self.adopt()) {
            self.enter(Phase::Stopping);
            self.stop(&container).await;
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

/// An instance that prints so much that what it said a minute ago is gone helps nobody who looks for why.
fn too_loud(places: &Places) -> Option<String> {
    let reach = gantry_relay::reach(&places.logs).filter(|reach| *reach < LOUD)?;
    let kept = Bytes(2 * container::SEGMENT);
    Some(format!(
        "prints so much that its log, {kept}, goes back no further than {} s; print less, or write it to a volume",
        reach.as_secs()
    ))
}

/// The last lines of an instance's output.
fn last_lines(places: &Places) -> Vec<String> {
    let mut lines = Tail::new(gantry_relay::segments(&places.logs)).fresh();
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
