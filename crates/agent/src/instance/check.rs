//! The checks of a running container, and what they make of it.

use std::time::Duration;

use gantry_model::{Bytes, Goal, Phase, Probe};
use gantry_sandbox::{Container, ExecSpec};
use tokio::time::Instant;

use super::Instance;
use crate::container;
use crate::health::{Check, settle};
use crate::records::Places;

/// The least that a log should go back.
const LOUD: Duration = Duration::from_secs(60);

/// Why watching a container ended.
pub(super) enum Watched {
    Ended,
    ToStop,
    Unhealthy,
}

impl Instance {
    /// Checks the container until it ends, is to stop, or fails too often.
    pub(super) async fn watch(&mut self, container: &Container) -> Watched {
        let role = self.record.spec.role.clone();
        let seconds = |seconds: gantry_model::Seconds| Duration::from_secs(u64::from(seconds.0));
        let started = Instant::now();
        let mut failures = 0;
        // An adopted one that was ready is looked at after its usual pause, a new one at once.
        let first = role.health.initial_delay.map_or(Duration::ZERO, seconds).max(Duration::from_millis(20));
        let mut pause = if self.record.ready { seconds(role.health.watch) } else { first };
        let mut command = None;
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
            if command.is_none() {
                command = self.health_command().await;
            }
            let check = Check { role: &role, address: self.record.address, container, command: command.clone() };
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
                (_, true) if settle(&role).is_zero() && started.elapsed() < Duration::from_secs(2) => {
                    Duration::from_millis(50)
                }
                _ => seconds(role.health.interval),
            };
        }
    }

    /// The command of the role's check, ready to run.
    async fn health_command(&self) -> Option<ExecSpec> {
        let line = self.record.spec.role.health.command.as_ref()?;
        let words = ["/bin/sh", "-c", line].map(ToOwned::to_owned).to_vec();
        let spec = container::exec_spec(&self.agent, &self.id, &self.record.spec, words).await;
        spec.inspect_err(|error| tracing::warn!(instance = %self.id, %error, "cannot prepare the health command")).ok()
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
