//! The verdict on the end of a container: exit, and the limits that explain the exit.

use gantry_linux::cgroup::GroupUsage;
use gantry_sandbox::ExitRecord;

use super::WorkloadKind;

/// Facts about a container that has ended.
#[derive(Debug, Default)]
pub(crate) struct ContainerEnd {
    /// Exit of the program; `None` if the container ended before its pid 1 could write the exit.
    pub(crate) exit: Option<ExitRecord>,
    /// Resource usage at the end.
    pub(crate) usage: GroupUsage,
    /// Earlier resource usage. A limit that was reached only before does not explain the end.
    pub(crate) before: GroupUsage,
    /// True if the container has used all of its disk limit.
    pub(crate) is_full: bool,
    /// True if the engine killed the container because of its disk limit.
    pub(crate) killed_for_disk: bool,
    /// True if the container had to end because its time was over.
    pub(crate) timed_out: bool,
}

/// The verdict on the end of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The exit status, if the program exited.
    pub(crate) code: Option<i32>,
    /// The signal that ended the program.
    pub(crate) signal: Option<i32>,
    /// True if the program exited with 0 in time.
    pub(crate) succeeded: bool,
    /// True if the program left processes running, which ended with the container.
    pub(crate) left_processes: bool,
    /// True if the memory limit explains the end.
    pub(crate) out_of_memory: bool,
    /// True if the limit of processes explains the end.
    pub(crate) out_of_processes: bool,
    /// True if the disk limit explains the end.
    pub(crate) out_of_disk: bool,
}

impl Verdict {
    /// Judges the end of a workload of this kind.
    pub(crate) fn of(kind: WorkloadKind, end: &ContainerEnd) -> Self {
        let ContainerEnd { exit, usage, before, .. } = end;
        let code = exit.as_ref().and_then(|exit| exit.code);
        let succeeded = code == Some(0) && !end.timed_out;
        let needs_cause = !succeeded || kind.policy().judges_success;
        Self {
            code,
            signal: exit.as_ref().and_then(|exit| exit.signal),
            succeeded,
            left_processes: exit.as_ref().is_some_and(|exit| exit.left),
            out_of_memory: needs_cause && usage.oom_kills > before.oom_kills,
            out_of_processes: needs_cause && usage.refused > before.refused,
            out_of_disk: end.killed_for_disk || (!succeeded && end.is_full),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> ContainerEnd {
        let exit = ExitRecord { code: Some(code), signal: None, at: 0, left: false };
        ContainerEnd { exit: Some(exit), ..ContainerEnd::default() }
    }

    fn usage(oom_kills: u64, refused: u64) -> GroupUsage {
        GroupUsage { oom_kills, refused, ..GroupUsage::default() }
    }

    #[test]
    fn reads_code_signal_and_left_processes() {
        let exit = ExitRecord { code: None, signal: Some(9), at: 0, left: true };
        let verdict = Verdict::of(WorkloadKind::Job, &ContainerEnd { exit: Some(exit), ..ContainerEnd::default() });
        let expected = Verdict { signal: Some(9), left_processes: true, ..Verdict::default() };
        assert_eq!(verdict, expected);
        assert_eq!(
            Verdict::of(WorkloadKind::Job, &ContainerEnd::default()),
            Verdict::default(),
            "no exit is a failure"
        );
        let success = Verdict { code: Some(0), succeeded: true, ..Verdict::default() };
        assert_eq!(Verdict::of(WorkloadKind::Service, &exited(0)), success);
        let late = ContainerEnd { timed_out: true, ..exited(0) };
        assert!(!Verdict::of(WorkloadKind::Job, &late).succeeded);
    }

    /// A child may be killed, and its program goes on without the child: an exit with 0 needs a cause only in some kinds.
    #[test]
    fn a_limit_explains_an_end_that_needs_a_cause() {
        use WorkloadKind::{Build, Job, OneOff, ReleaseStep, Service};
        for (kind, code, by_memory) in [
            (Service, 0, true),
            (Service, 1, true),
            (Build, 0, true),
            (Build, 1, true),
            (ReleaseStep, 0, false),
            (ReleaseStep, 1, true),
            (Job, 0, false),
            (Job, 1, true),
            (OneOff, 0, false),
        ] {
            let verdict = Verdict::of(kind, &ContainerEnd { usage: usage(1, 1), ..exited(code) });
            let found = (verdict.out_of_memory, verdict.out_of_processes);
            assert_eq!(found, (by_memory, by_memory), "{kind:?} {code}");
        }
    }

    #[test]
    fn a_limit_reached_long_ago_explains_nothing() {
        let end = ContainerEnd { usage: usage(2, 3), before: usage(2, 3), ..exited(1) };
        let verdict = Verdict::of(WorkloadKind::Service, &end);
        assert!(!verdict.out_of_memory && !verdict.out_of_processes, "{verdict:?}");
        let verdict = Verdict::of(WorkloadKind::Service, &ContainerEnd { usage: usage(3, 3), ..end });
        assert!(verdict.out_of_memory && !verdict.out_of_processes, "{verdict:?}");
    }

    #[test]
    fn a_full_disk_explains_failures_alone() {
        let full = |code, killed_for_disk| ContainerEnd { is_full: true, killed_for_disk, ..exited(code) };
        for (end, expected) in [
            (full(0, false), false),
            (full(1, false), true),
            (full(0, true), true),
            (ContainerEnd { timed_out: true, ..full(0, false) }, true),
            (exited(1), false),
        ] {
            let verdict = Verdict::of(WorkloadKind::Service, &end);
            assert_eq!(verdict.out_of_disk, expected, "{end:?}");
        }
    }
}
