//! Checks of a running container, and their effect on the instance's status.

use std::time::Duration;

use gantry_error::ErrorChain;
use gantry_model::exit_text::{LimitText, TimesText};
use gantry_model::observed::LIMIT_SHOWN_MILLIS;
use gantry_model::output::within_a_line;
use gantry_model::{Bytes, FailedProbe, InstanceGoal, InstancePhase, LimitHit, OutputLine, RoleLimit, StopReason};
use gantry_sandbox::{Container, ExecSpec};
use tokio::time::Instant;

use super::Instance;
use crate::container;
use crate::health::{InstanceCheck, minimum_uptime};
use crate::records::ContainerPaths;
use crate::status::now;
use crate::workload::SEGMENT;

/// The minimum time span that a log should cover.
const LOG_SPAN_MIN: Duration = Duration::from_secs(60);

/// Poll interval for the limits; a poll reads a few small files of the control group.
const LIMITS_POLL: Duration = Duration::from_secs(5);

/// End of the checks of a container.
pub(super) enum MonitorEnd {
    Ended,
    ToStop,
    Unhealthy(StopReason),
}

impl Instance {
    /// Checks the container until it ends, has to stop, or fails too often.
    pub(super) async fn monitor(&mut self, container: &Container) -> MonitorEnd {
        let role = self.record.spec.role.clone();
        let seconds = |seconds: gantry_model::Seconds| Duration::from_secs(u64::from(seconds.0));
        let started = Instant::now();
        // An adopted container that was ready gets its first check after the usual interval, a new container at once.
        let first = role.health.initial_delay.map_or(Duration::ZERO, seconds).max(Duration::from_millis(20));
        let first = if self.record.ready { seconds(role.health.watch) } else { first };
        let (mut check_at, mut look_at) = (started + first, started + LIMITS_POLL);
        let mut command = None;
        loop {
            tokio::select! {
                () = container.ended() => return MonitorEnd::Ended,
                () = tokio::time::sleep_until(check_at.min(look_at)) => {}
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    if self.goal() == InstanceGoal::Stop {
                        return MonitorEnd::ToStop;
                    }
                    continue;
                }
            }
            if Instant::now() >= look_at {
                self.poll_limits(container);
                look_at = Instant::now() + LIMITS_POLL;
            }
            if Instant::now() < check_at {
                continue;
            }
            if !self.policy().checked {
                check_at = Instant::now() + Duration::from_secs(3600);
                continue;
            }
            if command.is_none() {
                command = self.health_command().await;
            }
            let check = InstanceCheck {
                role: &role,
                address: self.record.address,
                container,
                command: command.clone(),
                age: started.elapsed(),
            };
            let probe = tokio::select! {
                () = container.ended() => return MonitorEnd::Ended,
                probe = check.probe() => probe,
            };
            if self.record.ready {
                self.used = [self.used[1], container.usage()];
            }
            let settled = started.elapsed() >= minimum_uptime(&role);
            if let Some(stop) = self.apply_check(probe, settled, role.health.attempts) {
                return MonitorEnd::Unhealthy(stop);
            }
            let pause = match (self.status.phase, settled) {
                (InstancePhase::Ready, _) => seconds(role.health.watch),
                // The first checks follow quickly: most programs are ready within a second.
                (_, false) if started.elapsed() < Duration::from_secs(2) => Duration::from_millis(100),
                (_, true) if minimum_uptime(&role).is_zero() && started.elapsed() < Duration::from_secs(2) => {
                    first_pause(started.elapsed())
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
        let warn = |error: &container::ExecError| {
            tracing::warn!(instance = %self.id, error = %ErrorChain(error), "cannot prepare the health command");
        };
        spec.inspect_err(warn).ok()
    }

    /// Records the result of a check. Returns the stop reason if the instance has failed too often.
    fn apply_check(&mut self, probe: Option<FailedProbe>, settled: bool, attempts: u32) -> Option<StopReason> {
        match probe {
            None if settled => {
                self.status.failed_checks = 0;
                self.status.probe = None;
                let lost = || crate::volumes::lost_warning(&self.agent.settings, &self.id, &self.record.spec);
                let memory = || memory_warning(self.record.spec.role.limits.memory, machine_memory());
                self.status.warning = log_warning(self.workload.paths()).or_else(lost).or_else(memory);
                // The previous agent was about to stop the instance, but the instance has recovered.
                let forgiven = self.record.stop.take().is_some();
                if !self.record.ready {
                    self.record.ready = true;
                    self.record.ready_since = Some(now());
                    self.write_record();
                    gantry_failpoint::failpoint!("instance.ready");
                } else if forgiven {
                    self.write_record();
                }
                self.enter_phase(InstancePhase::Ready);
                None
            }
            // The check passes but must go on passing until the instance has settled. The earlier failure is over.
            None => {
                self.status.probe = None;
                self.enter_phase(self.status.phase);
                None
            }
            Some(probe) if self.record.ready => {
                self.status.failed_checks += 1;
                let times = self.status.failed_checks;
                let brief = probe.brief();
                self.status.probe = Some(probe.clone());
                self.append_log(&format!("check {times} of {attempts} failed: {brief}"));
                tracing::warn!(instance = %self.id, times, attempts, check = brief, "health check failed");
                if times < attempts {
                    self.enter_phase(self.status.phase);
                    return None;
                }
                self.append_log(&format!("stopped: its check failed {} in a row", TimesText(u64::from(times))));
                self.enter_phase(InstancePhase::Unhealthy);
                Some(StopReason::FailedChecks { times, probe: Box::new(probe) })
            }
            Some(probe) => {
                self.status.probe = Some(probe);
                self.enter_phase(InstancePhase::Starting);
                None
            }
        }
    }

    /// Records the limits that the instance hit since the last poll, and the last output line of a run-once instance.
    fn poll_limits(&mut self, container: &Container) {
        let (before, usage, at) = (self.looked, container.usage(), now());
        self.looked = usage;
        let limits = self.record.spec.role.limits;
        let mut hits = self.status.limit_hits.clone();
        hits.retain(|hit| at.since(hit.last) <= LIMIT_SHOWN_MILLIS);
        for (limit, count) in [
            (RoleLimit::Processes(limits.pids), usage.refused.saturating_sub(before.refused)),
            (RoleLimit::Memory(limits.memory.0), usage.oom_kills.saturating_sub(before.oom_kills)),
        ] {
            if count == 0 {
                continue;
            }
            match hits.iter_mut().find(|hit| hit.limit == limit) {
                Some(hit) => (hit.count, hit.last) = (hit.count + count, at),
                None => {
                    self.append_log(&LimitText(limit).to_string());
                    hits.push(LimitHit { limit, count, since: at, last: at });
                }
            }
        }
        let last = if self.policy().restarts { None } else { last_output(self.workload.paths()) };
        let changed = hits != self.status.limit_hits || last != self.status.last_output;
        (self.status.limit_hits, self.status.last_output) = (hits, last);
        if changed {
            self.enter_phase(self.status.phase);
        }
    }
}

/// The pause between the first checks of a new container: an eighth of its age. The checks then delay a deploy by
/// little more than a tenth of the program's own start, with some forty checks in two seconds.
fn first_pause(age: Duration) -> Duration {
    (age / 8).clamp(Duration::from_millis(5), Duration::from_millis(50))
}

/// The last line that the instance printed, shortened for display.
fn last_output(paths: &ContainerPaths) -> Option<OutputLine> {
    let line = gantry_relay::last_line(&paths.logs)?;
    Some(OutputLine { at: line.at, line: within_a_line(&line.text) })
}

/// A warning if the log covers less than a minute: an instance that prints this much overwrites the output needed to
/// find a failure's cause.
fn log_warning(paths: &ContainerPaths) -> Option<String> {
    let reach = gantry_relay::oldest_record_age(&paths.logs).filter(|reach| *reach < LOG_SPAN_MIN)?;
    let kept = Bytes(2 * SEGMENT);
    Some(format!(
        "prints so much that its log of {kept} covers only the last {} s; print less, or write to a volume",
        reach.as_secs()
    ))
}

/// A warning if the machine has less memory than the role's limit: the kernel then ends processes of any app.
fn memory_warning(limit: Bytes, machine: Bytes) -> Option<String> {
    (limit > machine).then(|| {
        format!("may take {limit} of memory, but its machine has {machine} in all; lower `memory` of the role")
    })
}

/// Memory of the machine, without swap.
fn machine_memory() -> Bytes {
    let info = rustix::system::sysinfo();
    Bytes(info.totalram.saturating_mul(u64::from(info.mem_unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_of_a_limit_beyond_the_machine() {
        let warning = memory_warning(Bytes(64 << 30), Bytes(24 << 30)).expect("a warning");
        assert!(warning.starts_with("may take 64G of memory, but its machine has 24G in all"), "{warning}");
        assert_eq!(memory_warning(Bytes(24 << 30), Bytes(24 << 30)), None);
        assert!(machine_memory() > Bytes(1 << 20));
    }
}
