//! Checks of a running container, and their effect on the instance's status.

use std::time::Duration;

use gantry_model::observed::LIMIT_TOLD_MILLIS;
use gantry_model::output::within_a_line;
use gantry_model::reason::{LimitText, Times};
use gantry_model::{Bytes, Goal, Limit, LimitHit, Phase, Probe, Said, Stop};
use gantry_sandbox::{Container, ExecSpec};
use tokio::time::Instant;

use super::Instance;
use crate::container;
use crate::health::{Check, settle};
use crate::records::Places;
use crate::status::now;

/// The minimum time span that a log should cover.
const LOUD: Duration = Duration::from_secs(60);

/// Poll interval for the limits; a poll reads a few small files of the control group.
const LOOK: Duration = Duration::from_secs(5);

/// Why the checks of a container ended.
pub(super) enum Watched {
    Ended,
    ToStop,
    Unhealthy(Stop),
}

impl Instance {
    /// Checks the container until it ends, has to stop, or fails too often.
    pub(super) async fn watch(&mut self, container: &Container) -> Watched {
        let role = self.record.spec.role.clone();
        let seconds = |seconds: gantry_model::Seconds| Duration::from_secs(u64::from(seconds.0));
        let started = Instant::now();
        // An adopted container that was ready gets its first check after the usual interval, a new container at once.
        let first = role.health.initial_delay.map_or(Duration::ZERO, seconds).max(Duration::from_millis(20));
        let first = if self.record.ready { seconds(role.health.watch) } else { first };
        let (mut check_at, mut look_at) = (started + first, started + LOOK);
        let mut command = None;
        loop {
            tokio::select! {
                () = container.ended() => return Watched::Ended,
                () = tokio::time::sleep_until(check_at.min(look_at)) => {}
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
            if Instant::now() >= look_at {
                self.look(container);
                look_at = Instant::now() + LOOK;
            }
            if Instant::now() < check_at {
                continue;
            }
            if self.record.spec.once {
                check_at = Instant::now() + Duration::from_secs(3600);
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
            if let Some(stop) = self.judge(probe, settled, role.health.attempts) {
                return Watched::Unhealthy(stop);
            }
            let pause = match (self.status.phase, settled) {
                (Phase::Ready, _) => seconds(role.health.watch),
                // The first checks follow quickly: most programs are ready within a second.
                (_, false) if started.elapsed() < Duration::from_secs(2) => Duration::from_millis(100),
                (_, true) if settle(&role).is_zero() && started.elapsed() < Duration::from_secs(2) => {
                    Duration::from_millis(50)
                }
                _ => seconds(role.health.interval),
            };
            check_at = Instant::now() + pause;
        }
    }

    /// The command of the role's check, ready to run.
    async fn health_command(&self) -> Option<ExecSpec> {
        let line = self.record.spec.role.health.command.as_ref()?;
        let words = ["/bin/sh", "-c", line].map(ToOwned::to_owned).to_vec();
        let spec = container::exec_spec(&self.agent, &self.id, &self.record.spec, words).await;
        spec.inspect_err(|error| tracing::warn!(instance = %self.id, %error, "cannot prepare the health command")).ok()
    }

    /// Records the result of a check. Returns the stop reason if the instance has failed too often.
    fn judge(&mut self, probe: Option<Probe>, settled: bool, attempts: u32) -> Option<Stop> {
        match probe {
            None if settled => {
                self.status.failed_checks = 0;
                self.status.probe = None;
                self.status.warning = too_loud(&self.places);
                // The previous agent was about to stop the instance, but the instance has recovered.
                let forgiven = self.record.stop.take().is_some();
                if !self.record.ready {
                    self.record.ready = true;
                    self.record.ready_since = Some(now());
                    self.keep_record();
                    gantry_linux::step!("instance.ready");
                } else if forgiven {
                    self.keep_record();
                }
                self.enter(Phase::Ready);
                None
            }
            // The check passes but must go on passing until the instance has settled. The earlier failure is over.
            None => {
                self.status.probe = None;
                self.enter(self.status.phase);
                None
            }
            Some(probe) if self.record.ready => {
                self.status.failed_checks += 1;
                let times = self.status.failed_checks;
                let brief = probe.brief();
                self.status.probe = Some(probe.clone());
                self.say(&format!("check {times} of {attempts} failed: {brief}"));
                tracing::warn!(instance = %self.id, times, attempts, check = brief, "a check failed");
                if times < attempts {
                    self.enter(self.status.phase);
                    return None;
                }
                self.say(&format!("stopped: its check failed {} in a row", Times(u64::from(times))));
                self.enter(Phase::Unhealthy);
                Some(Stop::FailedChecks { times, probe: Box::new(probe) })
            }
            Some(probe) => {
                self.status.probe = Some(probe);
                self.enter(Phase::Starting);
                None
            }
        }
    }

    /// Records the limits that the instance hit since the last poll, and the last output line of a run-once instance.
    fn look(&mut self, container: &Container) {
        let (before, usage, at) = (self.looked, container.usage(), now());
        self.looked = usage;
        let limits = self.record.spec.role.limits;
        let mut hits = self.status.limit_hits.clone();
        hits.retain(|hit| at.since(hit.last) <= LIMIT_TOLD_MILLIS);
        for (limit, count) in [
            (Limit::Processes(limits.pids), usage.refused.saturating_sub(before.refused)),
            (Limit::Memory(limits.memory.0), usage.oom_kills.saturating_sub(before.oom_kills)),
        ] {
            if count == 0 {
                continue;
            }
            match hits.iter_mut().find(|hit| hit.limit == limit) {
                Some(hit) => (hit.count, hit.last) = (hit.count + count, at),
                None => {
                    self.say(&LimitText(limit).to_string());
                    hits.push(LimitHit { limit, count, since: at, last: at });
                }
            }
        }
        let said = if self.record.spec.once { said(&self.places) } else { None };
        let changed = hits != self.status.limit_hits || said != self.status.said;
        (self.status.limit_hits, self.status.said) = (hits, said);
        if changed {
            self.enter(self.status.phase);
        }
    }
}

/// The last line that the instance printed, shortened for display.
fn said(places: &Places) -> Option<Said> {
    let line = gantry_relay::last_line(&places.logs)?;
    Some(Said { at: line.at, line: within_a_line(&line.text) })
}

/// A warning if the log covers less than a minute: an instance that prints this much overwrites the output needed to
/// find a failure's cause.
fn too_loud(places: &Places) -> Option<String> {
    let reach = gantry_relay::reach(&places.logs).filter(|reach| *reach < LOUD)?;
    let kept = Bytes(2 * container::SEGMENT);
    Some(format!(
        "prints so much that its log, {kept}, goes back no further than {} s; print less, or write it to a volume",
        reach.as_secs()
    ))
}
