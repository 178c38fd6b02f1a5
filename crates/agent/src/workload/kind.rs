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
}

/// The differences between the kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KindPolicy {
    /// How the names of its containers begin. `None`: the plan's id of the instance is the name, and the container
    /// outlives the agent. A restarted agent removes the containers of all other kinds.
    pub(crate) prefix: Option<&'static str>,
    /// Whether the engine starts the container again after its end.
    pub(crate) restarts: bool,
    /// Whether health checks decide if the workload is ready.
    pub(crate) checked: bool,
    /// Whether the output stays after the container is removed.
    pub(crate) keeps_output: bool,
    /// Size of each of the two segments of the output, in bytes.
    pub(crate) segment: u64,
}

/// Size of each of the two segments of an instance's log, in bytes.
pub(crate) const SEGMENT: u64 = 8 << 20;

impl WorkloadKind {
    /// The kind of an instance of the plan.
    pub(crate) fn of_instance(spec: &InstanceSpec) -> Self {
        if spec.once { Self::ReleaseStep } else { Self::Service }
    }

    /// The kind of a container whose name is no instance's id; `None` for a name of no known kind.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let begins = |kind: &Self| kind.policy().prefix.is_some_and(|prefix| name.starts_with(prefix));
        Self::ALL.into_iter().find(begins)
    }

    const ALL: [Self; 3] = [Self::Service, Self::ReleaseStep, Self::OneOff];

    /// The table of the kinds.
    pub(crate) const fn policy(self) -> KindPolicy {
        match self {
            Self::Service => KindPolicy {
                prefix: None,
                restarts: true,
                checked: true,
                keeps_output: true,
                segment: SEGMENT,
            },
            Self::ReleaseStep => KindPolicy {
                prefix: None,
                restarts: false,
                checked: false,
                keeps_output: true,
                segment: SEGMENT,
            },
            Self::OneOff => KindPolicy {
                prefix: Some("run-"),
                restarts: false,
                checked: false,
                keeps_output: false,
                segment: SEGMENT,
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
