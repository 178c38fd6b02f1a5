//! Result of a planning pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::{
    AllocationNumbers, App, AppName, AppRoutes, Deploy, MachineName, MachinePlan, Plan, Reason, RoutingHead,
};
use serde::{Deserialize, Serialize};

/// Result of a planning pass: everything that changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlanDecision {
    /// The numbers of allocations that change. To be written before the parts that have the allocations.
    pub numbers: BTreeMap<AppName, Arc<AllocationNumbers>>,
    /// The machines' parts that change.
    pub machines: BTreeMap<MachineName, Arc<MachinePlan>>,
    /// The part that all routes share, if it changes. To be written before the routes.
    pub routing: Option<RoutingHead>,
    /// The routes that change, by rising revision. The routes of one group are to be written in one transaction: hosts
    /// move from one app of the group to another.
    pub routes: Vec<RoutesGroup>,
    /// The apps whose records change.
    pub apps: Vec<App>,
    /// The deploys whose records change.
    pub deploys: Vec<Deploy>,
    /// Destroyed apps without remaining instances: their records can be deleted.
    pub gone: Vec<AppName>,
    /// Reasons for the plan, for each app of the scope that waits.
    pub report: PlanReport,
}

/// Routes that change together.
pub type RoutesGroup = Vec<(AppName, Arc<AppRoutes>)>;

impl PlanDecision {
    /// Reports whether no record changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { numbers, machines, routing, routes, apps, deploys, gone, report: _ } = self;
        numbers.is_empty()
            && machines.is_empty()
            && routing.is_none()
            && routes.is_empty()
            && apps.is_empty()
            && deploys.is_empty()
            && gone.is_empty()
    }

    /// Returns the plan that the decision leads to.
    #[must_use]
    pub fn applied_to(&self, previous: &Plan) -> Plan {
        let mut plan = previous.clone();
        plan.numbers.extend(self.numbers.iter().map(|(app, numbers)| (app.clone(), Arc::clone(numbers))));
        plan.machines.extend(self.machines.iter().map(|(machine, part)| (machine.clone(), Arc::clone(part))));
        self.routing.iter().for_each(|head| plan.put_routing(head.clone()));
        self.routes.iter().flatten().for_each(|(app, routes)| plan.put_routes(app.clone(), Arc::clone(routes)));
        plan
    }
}

/// Reasons that accompany a plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// Reasons why each app waits, most important first.
    pub waits: BTreeMap<AppName, Vec<Reason>>,
}
