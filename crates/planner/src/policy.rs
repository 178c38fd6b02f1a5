//! The rules of the cluster policy that the planner reads.

use gantry_model::{ClusterPolicy, HostName, Seconds};

/// Policy that an operator may set.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannerPolicy {
    /// Drain time: how long a retired instance may finish its requests.
    pub drain: Seconds,
    /// Bake time: how long the old release stands by after promotion.
    pub watch: Seconds,
    /// Deploy deadline: how long a deploy may make no progress.
    pub progress: Seconds,
    /// Domain of all apps: each app is reached as `<app>.<domain>`.
    pub domain: HostName,
    /// Budget of moves that spread the copies of a role.
    pub rebalance: RebalanceBudget,
}

/// Budget of moves that spread the copies of a role over machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebalanceBudget {
    /// Maximum number of copies of a role that move at the same time.
    pub copies: u16,
    /// Time for which all copies of a role must be ready before a copy moves.
    pub interval: Seconds,
}

impl From<&ClusterPolicy> for RebalanceBudget {
    fn from(policy: &ClusterPolicy) -> Self {
        Self { copies: policy.rebalance_copies(), interval: policy.rebalance_interval() }
    }
}

impl PlannerPolicy {
    /// Creates the default policy for `domain`.
    #[must_use]
    pub fn new(domain: HostName) -> Self {
        Self { domain, ..Self::from(&ClusterPolicy::default()) }
    }
}

impl From<&ClusterPolicy> for PlannerPolicy {
    fn from(policy: &ClusterPolicy) -> Self {
        Self {
            drain: policy.drain(),
            watch: policy.bake_time(),
            progress: policy.deadline(),
            domain: policy.domain(),
            rebalance: RebalanceBudget::from(policy),
        }
    }
}
