//! One instance, from its image to its removal: the task that owns the instance.
//!
//! ```text
//!            ┌──────────────── backoff ────────────────┐
//!            ▼                                         │
//! preparing ─► starting ─► ready ◄─► unhealthy ─► exited / failed
//!     └────────────┴─────────┴───────────┴─────────────┴─► stopping ─► gone
//! ```

mod check;
mod end;
mod start;

use std::sync::Arc;
use std::time::Duration;

use gantry_linux::cgroup::Usage;
use gantry_model::{Assignment, Goal, InstanceId, ObservedInstance, Phase, Seconds, Stop};
use gantry_sandbox::Container;
use tokio::sync::watch;
use tokio::time::Instant;

use self::check::Watched;
pub(crate) use self::end::STUCK;
use crate::Agent;
use crate::records::{Places, Record};
use crate::status::{fresh, now};

/// Shortest and longest pause before a restart.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// An instance that lived this long restarts with the shortest pause.
const STEADY: Duration = Duration::from_secs(600);

/// The assignment that the supervisor sends to an instance's task. `None`: the instance is in no plan any more.
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
    /// Resource usage at the last two checks, older first.
    used: [Usage; 2],
    /// Resource usage at the last poll of the limits.
    looked: Usage,
    /// The stop timeout, if the instance exceeded it and was killed.
    killed_after: Option<Seconds>,
    /// Whether a record existed. A container that runs without a record has an unknown address, and is started anew.
    known: bool,
}

/// The error when all addresses are assigned.
const NO_ADDRESS: &str = "the machine's network has no free address";

/// Returns once the instance has to stop.
pub(crate) async fn told_to_stop(wanted: &mut watch::Receiver<Wanted>) {
    let stops = |wanted: &Wanted| wanted.as_ref().is_none_or(|assignment| assignment.goal == Goal::Stop);
    if wanted.wait_for(stops).await.is_err() {
        // The agent is shutting down.
        std::future::pending::<()>().await;
    }
}

impl Instance {
    /// Adopts an instance: writes its record if there is none, and sets its status.
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
                    begun: None,
                    ready_since: None,
                    stop: None,
                };
                if let Err(error) = places.write(&record) {
                    agent.addresses.release(address);
                    return Err(format!("its record cannot be written: {error}"));
                }
                gantry_linux::step!("instance.recorded");
                record
            }
            // A removal was interrupted; the supervisor finishes it.
            (None, None) => return Err("nothing is known of it".to_owned()),
        };
        agent.addresses.take(record.address);
        let mut status = fresh();
        status.address = Some(record.address);
        status.restarts = record.restarts;
        status.exit.clone_from(&record.exit);
        status.started = record.begun;
        let mut instance = Self {
            agent: Arc::clone(agent),
            id,
            wanted,
            places,
            record,
            status,
            backoff: BACKOFF.0,
            used: Default::default(),
            looked: Usage::default(),
            killed_after: None,
            known,
        };
        let phase = match (instance.left(), instance.record.ready) {
            (Some(container), true) if container.is_running() && !instance.is_elsewhere() => Phase::Ready,
            (Some(container), _) if container.is_running() => Phase::Starting,
            _ if instance.is_over() => Phase::Exited,
            _ => Phase::Preparing,
        };
        // The phase began before this agent started.
        let known_since = if phase == Phase::Ready { instance.record.ready_since } else { instance.record.begun };
        if let Some(since) = known_since.filter(|_| phase != Phase::Preparing) {
            (instance.status.phase, instance.status.since) = (phase, since);
        }
        instance.enter(phase);
        Ok(instance)
    }

    fn adopt(&self) -> Option<Container> {
        Container::adopt(&self.places.state, &self.places.cgroup)
    }

    /// The container that the previous agent left running.
    fn left(&self) -> Option<Container> {
        self.adopt().filter(|container| self.known && container.was_let_go())
    }

    /// Whether the container may have run: it was started, and its launcher did not end before releasing it.
    fn has_run(&self) -> bool {
        self.record.started && self.adopt().is_none_or(|container| container.was_let_go())
    }

    /// Whether a run-once instance has ended.
    fn is_over(&self) -> bool {
        self.record.spec.once && self.record.exit.is_some()
    }

    /// Whether the address belongs to a previous network of the machine. A container there has neither a route out nor
    /// name resolution.
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

    /// Takes over the container that the previous agent left, if the container may go on running.
    async fn taken_over(&mut self) -> Option<Container> {
        let mut container = self.left();
        if let Some(container) = &container {
            self.used = [container.usage(); 2];
            self.looked = container.usage();
        }
        // A run-once instance is not started again.
        if self.record.spec.once {
            if self.has_run() && self.record.exit.is_none() && container.is_none() {
                // The instance ended while no agent was running.
                self.note_exit(Usage::default(), false);
            }
        } else if self.is_elsewhere()
            && self.goal() != Goal::Stop
            && let Some(old) = container.take()
        {
            tracing::warn!(instance = %self.id, address = %self.record.address, "of another network; started anew");
            self.stop(&old, Stop::NetworkChanged).await;
        }
        container
    }

    /// Runs until the instance is removed.
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
                    // First take the instance out of rotation; the exit is reported once it is known.
                    if self.status.phase == Phase::Ready {
                        self.enter(Phase::Starting);
                    }
                    self.ended(&running).await;
                    self.after(begun).await;
                }
                Watched::Unhealthy(stop) => {
                    // This status has already taken the instance out of rotation at the routers.
                    self.stop(&running, stop).await;
                    self.ended(&running).await;
                    self.after(begun).await;
                }
            }
        }
        self.remove(container).await;
    }

    /// Waits for a change of the assignment.
    async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            // The agent is shutting down.
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
}
