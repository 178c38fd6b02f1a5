//! The end of a job as it is kept: exit, usage, and the newest lines of the output.

use gantry_control::jobs::{AttemptDetails, AttemptOutcome, JobLine, OUTPUT_MAX};
use gantry_model::{Moment, ResourceLimits};
use gantry_relay::{LogLine, LogTail};

use crate::records::ContainerPaths;
use crate::workload::{ContainerEnd, Verdict, WorkloadKind};

/// Bytes that count for a line besides its text.
const LINE_OVERHEAD: usize = 32;

/// Facts about an attempt that has ended.
pub(super) struct AttemptEnd {
    pub(super) container: ContainerEnd,
    pub(super) peak_memory: u64,
    pub(super) started: Moment,
    pub(super) ended: Moment,
}

/// The outcome of an attempt, and its details.
pub(super) fn outcome(end: &AttemptEnd, limits: &ResourceLimits) -> (AttemptOutcome, AttemptDetails) {
    let (verdict, timed_out) = (Verdict::of(WorkloadKind::Job, &end.container), end.container.timed_out);
    let outcome = match (verdict.succeeded, timed_out) {
        (true, _) => AttemptOutcome::Succeeded,
        (false, true) => AttemptOutcome::TimedOut,
        (false, false) => AttemptOutcome::Failed,
    };
    let details = AttemptDetails {
        code: verdict.code,
        signal: verdict.signal,
        out_of_memory: verdict.out_of_memory.then_some(limits.memory.0),
        out_of_disk: verdict.out_of_disk.then_some(limits.disk.0),
        failure: timed_out.then(|| "exceeded its timeout".to_owned()),
        started: Some(end.started),
        ended: end.ended,
        peak_memory: end.peak_memory,
        cpu_micros: end.container.usage.cpu_micros,
        output_cut: false,
    };
    (outcome, details)
}

/// The newest lines of the output, and whether older lines were dropped.
pub(super) fn output(paths: &ContainerPaths) -> (Vec<JobLine>, bool) {
    let lines = LogTail::new(gantry_relay::segments(&paths.logs)).new_lines();
    let cut = gantry_relay::oldest_record_age(&paths.logs).is_some();
    let (kept, dropped) = newest(lines.into_iter().map(job_line).collect());
    (kept, cut || dropped)
}

/// A line of a log as the server stores it.
pub(super) fn job_line(line: LogLine) -> JobLine {
    JobLine { at: line.at, error: line.error, text: line.text }
}

/// The newest lines that fit into [`OUTPUT_MAX`], and whether that dropped others.
fn newest(mut lines: Vec<JobLine>) -> (Vec<JobLine>, bool) {
    let mut size = 0;
    let fits = |line: &&JobLine| {
        size += line.text.len() + LINE_OVERHEAD;
        size <= OUTPUT_MAX
    };
    let count = lines.iter().rev().take_while(fits).count();
    let first = lines.len() - count;
    (lines.split_off(first), first > 0)
}

#[cfg(test)]
mod tests {
    use gantry_linux::cgroup::GroupUsage;
    use gantry_model::Bytes;
    use gantry_sandbox::ExitRecord;

    use super::*;

    fn end(code: Option<i32>, oom_kills: u64, timed_out: bool) -> AttemptEnd {
        let container = ContainerEnd {
            exit: Some(ExitRecord { code, signal: code.is_none().then_some(9), at: 0, left: false }),
            usage: GroupUsage { oom_kills, ..GroupUsage::default() },
            timed_out,
            ..ContainerEnd::default()
        };
        AttemptEnd { container, peak_memory: 1, started: Moment(10), ended: Moment(20) }
    }

    #[test]
    fn distinguishes_success_failure_timeout_and_out_of_memory() {
        let limits = ResourceLimits { memory: Bytes::mebi(64), ..ResourceLimits::default() };
        for (end, expected, oom) in [
            (end(Some(0), 0, false), AttemptOutcome::Succeeded, None),
            // A child was killed, and the program went on without it.
            (end(Some(0), 1, false), AttemptOutcome::Succeeded, None),
            (end(Some(3), 0, false), AttemptOutcome::Failed, None),
            (end(None, 1, false), AttemptOutcome::Failed, Some(64 << 20)),
            (end(Some(0), 0, true), AttemptOutcome::TimedOut, None),
        ] {
            let (outcome, details) = outcome(&end, &limits);
            assert_eq!((outcome, details.out_of_memory), (expected, oom));
        }
    }

    #[test]
    fn keeps_the_newest_lines() {
        let line = |text: String| JobLine { at: Moment(1), error: false, text };
        let lines: Vec<JobLine> = (0..100_000).map(|number| line(number.to_string())).collect();
        let (kept, cut) = newest(lines);
        assert!(cut && kept.last().is_some_and(|line| line.text == "99999"));
        let size: usize = kept.iter().map(|line| line.text.len() + LINE_OVERHEAD).sum();
        assert!(size <= OUTPUT_MAX && size > OUTPUT_MAX - 64, "{size}");
        assert_eq!(newest(vec![line("one".to_owned())]), (vec![line("one".to_owned())], false));
        assert_eq!(newest(vec![line("x".repeat(OUTPUT_MAX))]), (Vec::new(), true));
    }
}
