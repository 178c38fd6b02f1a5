//! The planner's decision: the complete, numbered next state of every machine and router. The plan leaves no choice to
//! the executors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    AllocationId, AllocationNumbers, AppName, Digest, Endpoint, Generation, HostName, MachineAddress, MachineName,
    MachineTunnels, Moment, ReleaseConfig, ReleaseNumber, RequestTimeouts, Role, RoleName, TrafficPolicy,
    TrustedProxies,
};

/// Complete specification of an instance: everything that the machine needs to run it.
///
/// Messages, records and files of a machine have this form; see the crate's page.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "crate::serialized_spec::SerializedSpec")]
pub struct InstanceSpec {
    /// The digest of the image's manifest.
    pub image: Digest,
    /// The commit, for `REVISION`.
    pub commit: Option<String>,
    /// The app's configuration in this release.
    pub config: ReleaseConfig,
    /// Kind, command, limits and health checks.
    pub role: Role,
    /// Folder of the app's volumes, if it is not the app's name.
    pub volumes_of: Option<AppName>,
}

impl InstanceSpec {
    /// Folder of the volumes of `app`, the instance's app, below the folder of all volumes.
    #[must_use]
    pub fn volume_folder<'a>(&'a self, app: &'a AppName) -> &'a AppName {
        self.volumes_of.as_ref().unwrap_or(app)
    }
}

/// The goal for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum InstanceGoal {
    /// Run, and restart after a crash.
    Run,
    /// Keep running, but receive no new request from this generation of the routing table on.
    Retire {
        /// The first routing table without the instance.
        removed_in: Generation,
        /// When the planner removed the instance from the routing table.
        since: Moment,
    },
    /// Stop signal, stop timeout, SIGKILL, remove.
    Stop,
}

/// One instance in a machine's plan.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The specification to run. Copies of a role share it.
    pub spec: Arc<InstanceSpec>,
    /// The goal.
    pub goal: InstanceGoal,
}

/// The entries of one app in a map by instance.
pub fn instances_of<'a, V>(
    instances: &'a BTreeMap<AllocationId, V>,
    app: &'a AppName,
) -> impl Iterator<Item = (&'a AllocationId, &'a V)> {
    instances.range(AllocationId::lower_bound(app)..).take_while(move |(id, _)| id.slot.app == *app)
}

/// Assignments that share their spec are compared without a look at the spec.
impl PartialEq for Assignment {
    fn eq(&self, other: &Self) -> bool {
        self.goal == other.goal && (Arc::ptr_eq(&self.spec, &other.spec) || self.spec == other.spec)
    }
}

/// A machine's part of the plan.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "crate::serialized_plan::SerializedPlan")]
pub struct MachinePlan {
    /// Revision of this machine's part. The revision rises only when this part changes, so changes elsewhere do not
    /// wake the machine.
    pub generation: Generation,
    /// All instances that must exist on the machine. The agent removes all others.
    pub instances: BTreeMap<AllocationId, Assignment>,
}

impl MachinePlan {
    /// The assignments of one app.
    pub fn of_app<'a>(&'a self, app: &'a AppName) -> impl Iterator<Item = (&'a AllocationId, &'a Assignment)> {
        instances_of(&self.instances, app)
    }

    /// The instances that retire, with the time since which they do.
    pub fn retires(&self) -> impl Iterator<Item = (&AllocationId, Moment)> {
        self.instances.iter().filter_map(|(id, assignment)| match assignment.goal {
            InstanceGoal::Retire { since, .. } => Some((id, since)),
            _ => None,
        })
    }

    /// As [`MachinePlan::retires`], to move the times after a jump of the wall clock.
    pub fn retires_mut(&mut self) -> impl Iterator<Item = (&AllocationId, &mut Moment)> {
        self.instances.iter_mut().filter_map(|(id, assignment)| match &mut assignment.goal {
            InstanceGoal::Retire { since, .. } => Some((id, since)),
            _ => None,
        })
    }
}

/// The complete next state of the cluster. Clones share the parts and the routes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Each machine's part.
    pub machines: BTreeMap<MachineName, Arc<MachinePlan>>,
    /// The numbers of each app's allocations. A number is recorded before the allocation is assigned.
    pub numbers: BTreeMap<AppName, Arc<AllocationNumbers>>,
    /// Each app's routes. Change them with [`Plan::put_routes`].
    pub routes: BTreeMap<AppName, Arc<AppRoutes>>,
    /// The part that all routes share. Change it with [`Plan::put_routing`]. Its revision is the highest revision of
    /// all.
    pub routing: RoutingHead,
}

impl Plan {
    /// Every assignment with its machine.
    pub fn assignments(&self) -> impl Iterator<Item = (&MachineName, &AllocationId, &Assignment)> {
        self.machines.iter().flat_map(|(machine, part)| part.instances.iter().map(move |(id, a)| (machine, id, a)))
    }

    /// Every assignment of an app with its machine.
    pub fn assignments_of<'a>(
        &'a self,
        app: &'a AppName,
    ) -> impl Iterator<Item = (&'a MachineName, &'a AllocationId, &'a Assignment)> {
        self.machines.iter().flat_map(move |(machine, part)| part.of_app(app).map(move |(id, a)| (machine, id, a)))
    }

    /// The machine and the assignment of an allocation.
    #[must_use]
    pub fn assignment(&self, id: &AllocationId) -> Option<(&MachineName, &Assignment)> {
        self.machines.iter().find_map(|(machine, part)| Some((machine, part.instances.get(id)?)))
    }

    /// The machine and the assignment of an allocation, or of the newest allocation of its slot once the allocation is
    /// gone.
    #[must_use]
    pub fn nearest<'a>(&'a self, id: &'a AllocationId) -> Option<(&'a MachineName, &'a AllocationId, &'a Assignment)> {
        let of_slot = self.assignments_of(&id.slot.app).filter(|(_, other, _)| other.slot == id.slot);
        of_slot.max_by_key(|(_, other, _)| (*other == id, other.number))
    }

    /// Sets the routes of an app.
    pub fn put_routes(&mut self, app: AppName, routes: Arc<AppRoutes>) {
        self.routing.revision = self.routing.revision.max(routes.revision);
        self.routes.insert(app, routes);
    }

    /// Sets what all routes share. The highest revision never falls.
    pub fn put_routing(&mut self, head: RoutingHead) {
        let revision = self.routing.revision.max(head.revision);
        self.routing = RoutingHead { revision, ..head };
    }

    /// Every endpoint that routes lead to.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.routes.values().flat_map(|routes| routes.endpoints())
    }
}

/// The part that the routes of all apps share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingHead {
    /// A revision that was assigned. All revisions of routes rise together, so a router that acknowledges a revision
    /// has every app's routes up to this revision.
    pub revision: Generation,
    /// Routers below this revision have routes from lost records, and count as behind every revision.
    #[serde(default)]
    pub floor: Generation,
    /// Proxies that every app trusts.
    #[serde(default, skip_serializing_if = "TrustedProxies::is_empty")]
    pub trusted_proxies: TrustedProxies,
    /// Tunnel addresses of the machines.
    #[serde(default, skip_serializing_if = "MachineTunnels::is_empty")]
    pub tunnels: MachineTunnels,
    /// The machines with tunnels that are lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost: BTreeSet<MachineName>,
}

/// Routes of one app, and the app's names for the resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRoutes {
    /// Revision of these routes. No two changes of routes in the cluster have the same revision.
    pub revision: Generation,
    /// Routes by host name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<HostName, Route>,
    /// Host names of an app that serves no request now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<HostName, ClosedRoute>,
    /// The app's names for the resolver; `None` without a release.
    #[serde(default, rename = "resolver", skip_serializing_if = "Option::is_none")]
    pub names: Option<AppNames>,
}

impl AppRoutes {
    /// Reports whether routes differ in anything but their revision.
    #[must_use]
    pub fn differ(&self, other: &Self) -> bool {
        (&self.routes, &self.closed, &self.names) != (&other.routes, &other.closed, &other.names)
    }

    /// Reports whether the app has no route and no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.closed.is_empty() && self.names.is_none()
    }

    /// The endpoints of all routes.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.routes.values().flat_map(|route| &route.endpoints)
    }

    /// The addresses that the names lead to.
    pub fn addresses(&self) -> impl Iterator<Item = &MachineAddress> {
        self.names.iter().flat_map(|names| names.roles.values()).flatten()
    }
}

/// The names of an app for the resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppNames {
    /// The role that the app's own name leads to; `None` if that name leads to all roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<RoleName>,
    /// Addresses of each role's ready instances.
    pub roles: BTreeMap<RoleName, Vec<MachineAddress>>,
    /// Ports of the roles that serve on one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<RoleName, u16>,
}

/// The routing table of a router: the routes of all apps, with the names for the resolver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoutingTable {
    /// The highest revision of the routes in the table.
    pub generation: Generation,
    /// Routes by host name.
    pub routes: BTreeMap<HostName, Route>,
    /// Host names of apps that serve no request now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<HostName, ClosedRoute>,
    /// The names of each app for the resolver.
    pub names: BTreeMap<AppName, AppNames>,
    /// Proxies that every app trusts.
    #[serde(default, skip_serializing_if = "TrustedProxies::is_empty")]
    pub trusted_proxies: TrustedProxies,
    /// The machines whose routers may send requests through tunnels, and their tunnel addresses.
    #[serde(default, skip_serializing_if = "MachineTunnels::is_empty")]
    pub tunnels: MachineTunnels,
    /// The machines with tunnels that are lost. A router that gets no answer from a lost machine gives up the requests
    /// that are under way there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost: BTreeSet<MachineName>,
}

impl RoutingTable {
    /// Assembles the table from the routes of all apps.
    #[must_use]
    pub fn assemble(plan: &Plan) -> Self {
        let mut table = Self {
            generation: plan.routing.revision,
            trusted_proxies: plan.routing.trusted_proxies.clone(),
            tunnels: plan.routing.tunnels.clone(),
            lost: plan.routing.lost.clone(),
            ..Self::default()
        };
        for (app, routes) in &plan.routes {
            table.routes.extend(routes.routes.iter().map(|(host, route)| (host.clone(), route.clone())));
            table.closed.extend(routes.closed.iter().map(|(host, closed)| (host.clone(), closed.clone())));
            table.names.extend(routes.names.iter().map(|names| (app.clone(), names.clone())));
        }
        table
    }
}

/// A host name without a serving app. Routers refuse its requests at once, because no instance will become ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedRoute {
    /// The app.
    pub app: AppName,
    /// The cause.
    pub reason: ClosedReason,
}

/// Reason why an app serves no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedReason {
    /// No deploy has succeeded yet.
    NoRelease,
    /// The release has no role that serves HTTP.
    NoWebRole,
    /// The web role is scaled to 0.
    ScaledToZero,
}

/// Route for the requests of a host name.
///
/// Messages, records and a router's file have this form; see the crate's page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The app.
    pub app: AppName,
    /// The release that receives the requests.
    pub release: ReleaseNumber,
    /// True if the release is held. A held release has its own host name beside the serving release.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The ready instances. If the list is empty, requests wait.
    pub endpoints: Vec<Endpoint>,
    /// Traffic policy of the app.
    #[serde(default, skip_serializing_if = "TrafficPolicy::is_default")]
    pub traffic: TrafficPolicy,
    /// Timeouts of the requests, and the size of their buffer.
    #[serde(default, rename = "patience")]
    pub timeouts: RequestTimeouts,
}
