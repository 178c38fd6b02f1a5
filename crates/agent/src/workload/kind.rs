//! The kinds of workloads, and a table of their differences.

use gantry_model::InstanceSpec;

/// The kind of a workload. The engine treats all kinds alike, except for what [`KindPolicy`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkloadKind {
    /// A copy of a role: runs until the plan says otherwise.
    Service,
    /// A copy of a role that runs once before its release serves.
    ReleaseStep,
    /// The container of `gantry run`: lives as long as the client's session.
    OneOff,
    /// The build of an image: lives as long as the server's session.
    Build,
    /// A container job: lives as long as its program, and outlives the agent.
    Job,
    /// The making of a base image: a program in a control group of its own, without a container.
    Base,
}

/// The differences between the kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KindPolicy {
    /// Prefix of the names of its containers. `None`: the plan's id of the instance is the name.
    pub(crate) prefix: Option<&'static str>,
    /// True if the engine starts the container again after its end.
    pub(crate) restarts: bool,
    /// True if health checks decide if the workload is ready.
    pub(crate) checked: bool,
    /// True if a limit that was reached explains even an exit with 0: a service has ended too early, and a build may go on
    /// without a process that was killed.
    pub(crate) judges_success: bool,
    /// Part that counts the disk usage and acts on it.
    pub(crate) disk: DiskAccount,
    /// True if the output stays after the container is removed.
    pub(crate) keeps_output: bool,
    /// Size of each of the two segments of the output, in bytes.
    pub(crate) segment: u64,
    /// True if an agent reads the exit record after a power loss: a release step that has ended is not run again. The
    /// owner of any other workload ends with the power loss, or starts the workload again.
    pub(crate) durable_exit: bool,
}

/// Part that counts the disk usage of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskAccount {
    /// The engine: kills the workload above its limit.
    Engine,
    /// The task that owns the workload. The limit covers more than the container, such as a build's cache.
    Owner,
}

/// Size of each of the two segments of an instance's log, in bytes.
pub(crate) const SEGMENT: u64 = 8 << 20;

/// Size of each of the two segments of a build's output, in bytes. A busy machine reads the output late.
const BUILD_SEGMENT: u64 = 16 << 20;

/// Size of each of the two segments of a job's output, in bytes. The newest lines are kept after the job's end.
const JOB_SEGMENT: u64 = 256 << 10;

impl WorkloadKind {
    /// The kind of an instance of the plan.
    pub(crate) fn of_instance(spec: &InstanceSpec) -> Self {
        if spec.role.is_service() { Self::Service } else { Self::ReleaseStep }
    }

    /// The kind of a container whose name is no instance's id; `None` for a name of no known kind.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let begins = |kind: &Self| kind.policy().prefix.is_some_and(|prefix| name.starts_with(prefix));
        Self::ALL.into_iter().find(begins)
    }

    const ALL: [Self; 6] = [Self::Service, Self::ReleaseStep, Self::OneOff, Self::Build, Self::Job, Self::Base];

    /// The table of the kinds.
    pub(crate) const fn policy(self) -> KindPolicy {
        match self {
            Self::Service => KindPolicy {
                prefix: None,
                restarts: true,
                checked: true,
                judges_success: true,
                disk: DiskAccount::Engine,
                keeps_output: true,
                segment: SEGMENT,
                durable_exit: true,
            },
            Self::ReleaseStep => KindPolicy {
                prefix: None,
                restarts: false,
                checked: false,
                judges_success: false,
                disk: DiskAccount::Engine,
                keeps_output: true,
                segment: SEGMENT,
                durable_exit: true,
            },
            Self::OneOff => KindPolicy {
                prefix: Some("run-"),
                restarts: false,
                checked: false,
                judges_success: false,
                disk: DiskAccount::Engine,
                keeps_output: false,
                segment: SEGMENT,
                durable_exit: false,
            },
            Self::Build => KindPolicy {
                prefix: Some("build-"),
                restarts: false,
                checked: false,
                judges_success: true,
                disk: DiskAccount::Owner,
                keeps_output: false,
                segment: BUILD_SEGMENT,
                durable_exit: false,
            },
            Self::Job => KindPolicy {
                prefix: Some("job-"),
                restarts: false,
                checked: false,
                judges_success: false,
                disk: DiskAccount::Engine,
                keeps_output: false,
                segment: JOB_SEGMENT,
                durable_exit: false,
            },
            Self::Base => KindPolicy {
                prefix: Some("base-"),
                restarts: false,
                checked: false,
                judges_success: false,
                disk: DiskAccount::Owner,
                keeps_output: false,
                segment: BUILD_SEGMENT,
                durable_exit: false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_kind_of_a_leftover_by_its_name() {
        assert_eq!(WorkloadKind::of_name("run-shop-00c0ffee"), Some(WorkloadKind::OneOff));
        assert_eq!(WorkloadKind::of_name("build-shop-3-00c0ffee"), Some(WorkloadKind::Build));
        assert_eq!(WorkloadKind::of_name("job-shop-7-1"), Some(WorkloadKind::Job));
        assert_eq!(WorkloadKind::of_name("base-00c0ffee"), Some(WorkloadKind::Base));
        assert_eq!(WorkloadKind::of_name("shop.v1.web-1"), None);
    }

    #[test]
    fn every_name_belongs_to_one_kind() {
        let prefixes: Vec<&str> = WorkloadKind::ALL.into_iter().filter_map(|kind| kind.policy().prefix).collect();
        for (place, prefix) in prefixes.iter().enumerate() {
            let others = prefixes.iter().enumerate().filter(|(other, _)| *other != place);
            assert!(others.map(|(_, other)| other).all(|other| !other.starts_with(prefix)), "{prefix}");
        }
    }
}
