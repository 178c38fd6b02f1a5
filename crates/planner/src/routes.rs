//! Computes the routes of each app: the ready instances of the app's current release, and of a held release under its
//! own host name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_model::app::Rename;
use gantry_model::role::DEFAULT_PORT;
use gantry_model::{
    AllocationId, AppName, AppNames, AppRoutes, Assignment, ClosedReason, ClosedRoute, DeployState, Endpoint,
    Generation, HostName, InstanceGoal, InstancePhase, MachineAddress, MachineName, Release, ReleaseNumber,
    RequestTimeouts, Role, RoleName, Route, RoutingHead, TrafficPolicy,
};

use crate::demand::copies;
use crate::draft::DraftParts;
use crate::input::PlanningInput;
use crate::named::addresses_by_machine;
use crate::{DesiredApp, DesiredCluster};

/// The assignments of one app in the new plan, in the order of the machines.
struct PlacedInstances<'a> {
    chosen: &'a BTreeSet<AllocationId>,
    instances: Vec<(&'a MachineName, &'a AllocationId, &'a Assignment)>,
    input: &'a PlanningInput<'a>,
}

impl<'a> PlacedInstances<'a> {
    /// The assignments of a release.
    fn of(&self, release: &Release) -> impl Iterator<Item = (&'a MachineName, &'a AllocationId, &'a Assignment)> {
        let number = release.number;
        self.instances.iter().filter(move |(_, id, _)| id.slot.release == number).copied()
    }
}

/// Numbers changes of routes. Each change gets a revision of its own, in the order in which the changes are written: a
/// router that acknowledges a revision has every change up to it.
pub(crate) struct Revisions {
    last: Generation,
    /// The part that all routes share, if it changes. It is written before the routes.
    pub(crate) head: Option<RoutingHead>,
}

impl Revisions {
    /// Decides what all routes share, and the first revision of this pass.
    pub(crate) fn new(desired: &DesiredCluster, input: &PlanningInput<'_>) -> Self {
        let before = &input.previous.routing;
        let (trusted_proxies, tunnels) = (desired.trusted_proxies.clone(), desired.tunnels.clone());
        let lost = input.index.lost().filter(|machine| tunnels.machines().contains_key(machine)).cloned().collect();
        let mut head = RoutingHead { trusted_proxies, tunnels, lost, ..before.clone() };
        // After a restore, the records are older than the last routes that a router received. Routers accept only newer
        // revisions, and none of their acknowledgements counts before they have the restored routes.
        let acknowledged = input.highest_acknowledged();
        if acknowledged > before.revision {
            (head.revision, head.floor) = (acknowledged.next(), acknowledged.next());
        } else if head != *before {
            head.revision = head.revision.next();
        }
        let last = head.revision;
        Self { last, head: (head != *before).then_some(head) }
    }

    /// Numbers the routes of an app: the next revision if they differ from the previous routes.
    pub(crate) fn number(&mut self, routes: AppRoutes, previous: Option<&AppRoutes>) -> NumberedRoutes {
        match previous {
            Some(previous) if !routes.differ(previous) => {
                NumberedRoutes { routes: Arc::new(AppRoutes { revision: previous.revision, ..routes }), changed: false }
            }
            None if routes.is_empty() => NumberedRoutes { routes: Arc::new(routes), changed: false },
            _ => {
                self.last = self.last.next();
                NumberedRoutes { routes: Arc::new(AppRoutes { revision: self.last, ..routes }), changed: true }
            }
        }
    }
}

/// Routes of an app with their revision.
pub(crate) struct NumberedRoutes {
    pub(crate) routes: Arc<AppRoutes>,
    pub(crate) changed: bool,
}

/// Computes the routes of an app, without a revision. An app that has no record, or is being destroyed, has none.
pub(crate) fn compose(
    name: &AppName,
    desired: &DesiredCluster,
    chosen: &BTreeSet<AllocationId>,
    draft: &DraftParts<'_>,
    input: &PlanningInput<'_>,
) -> AppRoutes {
    let mut routes = AppRoutes::default();
    let Some(app) = desired.apps.get(name).filter(|app| !app.app.destroying) else { return routes };
    let placed = PlacedInstances { chosen, instances: draft.of_app(name), input };
    let closed = closed(app);
    for host in hosts(app, desired, input) {
        match (closed, release_of(app, app.app.current)) {
            (Some(reason), _) => drop(routes.closed.insert(host, ClosedRoute { app: name.clone(), reason })),
            (None, Some(release)) => insert_route(&mut routes, host, release, &app.app.traffic, false, &placed),
            (None, None) => {}
        }
    }
    if let Some(release) = release_of(app, app.app.current) {
        let previous = input.previous.routes.get(name).and_then(|routes| routes.names.as_ref());
        routes.names = Some(names(release, previous, &placed));
    }
    if let Some(release) = held(app)
        && let Ok(host) = HostName::parse(&format!("{}.{name}.{}", release.number, input.policy.domain))
    {
        // A held release serves only the team's own tests, so the pauses and limits for the app's clients do not apply.
        let trusted_proxies = app.app.traffic.trusted_proxies.clone();
        let traffic = TrafficPolicy { trusted_proxies, ..TrafficPolicy::default() };
        insert_route(&mut routes, host, release, &traffic, true, &placed);
    }
    routes
}

fn release_of(app: &DesiredApp, number: Option<ReleaseNumber>) -> Option<&Release> {
    app.releases.get(&number?).map(AsRef::as_ref)
}

fn held(app: &DesiredApp) -> Option<&Release> {
    let deploy = app.deploys.iter().find(|deploy| deploy.state == DeployState::Held)?;
    release_of(app, deploy.release)
}

/// The hosts that lead to an app. The hosts of a renamed app lead to its successor once the successor serves.
fn hosts(app: &DesiredApp, desired: &DesiredCluster, input: &PlanningInput<'_>) -> Vec<HostName> {
    let other = |name: &AppName| desired.apps.get(name);
    let serves = |app: &DesiredApp| app.app.current.is_some();
    match &app.app.rename {
        Some(Rename::To { name }) if other(name).is_some_and(serves) => Vec::new(),
        Some(Rename::From { name }) if serves(app) => {
            own_hosts(app, input).chain(other(name).into_iter().flat_map(|old| own_hosts(old, input))).collect()
        }
        _ => own_hosts(app, input).collect(),
    }
}

fn own_hosts<'a>(app: &'a DesiredApp, input: &PlanningInput<'_>) -> impl Iterator<Item = HostName> + 'a {
    let own = HostName::parse(&format!("{}.{}", app.app.name, input.policy.domain)).ok();
    own.into_iter().chain(app.app.hosts.iter().cloned())
}

/// Reason why an app serves no request; `None` if the app serves. A paused app and an app in maintenance count as
/// serving, because their routes hold that answer.
fn closed(app: &DesiredApp) -> Option<ClosedReason> {
    if app.app.traffic.paused || app.app.traffic.maintenance.is_some() {
        return None;
    }
    let Some(release) = release_of(app, app.app.current) else {
        return Some(ClosedReason::NoRelease);
    };
    let Some((role, settings)) = release.web() else {
        return Some(ClosedReason::NoWebRole);
    };
    (copies(&app.app, role, settings) == 0).then_some(ClosedReason::ScaledToZero)
}

fn insert_route(
    routes: &mut AppRoutes,
    host: HostName,
    release: &Release,
    traffic: &TrafficPolicy,
    held: bool,
    placed: &PlacedInstances<'_>,
) {
    let Some((role, settings)) = release.web() else {
        return;
    };
    let port = settings.port.unwrap_or(DEFAULT_PORT);
    let endpoints = serving(release, placed)
        .filter(|(id, _)| &id.slot.role == role)
        .map(|(id, at)| Endpoint { allocation: id.clone(), at, port, protocol: settings.protocol })
        .collect();
    let timeouts = RequestTimeouts {
        response: settings.request_timeout,
        drain: settings.drain.unwrap_or(placed.input.policy.drain),
        request_buffer: settings.request_buffer(),
    };
    let (app, release, traffic) = (release.app.clone(), release.number, traffic.clone());
    routes.routes.insert(host, Route { app, release, held, endpoints, traffic, timeouts });
}

/// The names of a release's app. The app's own name leads to the role that serves HTTP, or else to the role with the
/// app's name. A machine that has not reported since the server started keeps its addresses.
fn names(release: &Release, previous: Option<&AppNames>, placed: &PlacedInstances<'_>) -> AppNames {
    let named = || release.roles.keys().find(|role| role.as_str() == release.app.as_str());
    let main = release.web().map(|(role, _)| role).or_else(named).cloned();
    let mut roles: BTreeMap<RoleName, Vec<MachineAddress>> = BTreeMap::new();
    let mut named: BTreeSet<(&RoleName, MachineAddress)> = BTreeSet::new();
    let mut kept = None;
    let is_service = |id: &AllocationId| release.roles.get(&id.slot.role).is_some_and(Role::is_service);
    for (machine, id) in running(release, placed).filter(|(_, id)| is_service(id)) {
        let role = &id.slot.role;
        let is_known = placed.input.observed.machines.contains_key(machine) || placed.input.is_lost(machine);
        let addresses: Vec<MachineAddress> = match is_known {
            true => address(machine, id, placed.input).into_iter().collect(),
            false => {
                let kept = kept.get_or_insert_with(|| previous.map(addresses_by_machine).unwrap_or_default());
                // The first copy of a role on a machine keeps the addresses of all copies there.
                kept.remove(&(role, machine)).unwrap_or_default().into_iter().cloned().collect()
            }
        };
        for address in addresses {
            if named.insert((role, address.clone())) {
                roles.entry(role.clone()).or_default().push(address);
            }
        }
    }
    let port = |(role, settings): (&RoleName, &Role)| Some((role.clone(), settings.port?));
    let ports = release.roles.iter().filter(|(_, settings)| settings.is_service()).filter_map(port).collect();
    AppNames { main, roles, ports }
}

/// The ready instances of a release with their addresses.
fn serving<'a>(
    release: &Release,
    placed: &PlacedInstances<'a>,
) -> impl Iterator<Item = (&'a AllocationId, MachineAddress)> {
    running(release, placed).filter_map(|(machine, id)| Some((id, address(machine, id, placed.input)?)))
}

/// The instances of a release that are to run, with their machines.
fn running<'a>(
    release: &Release,
    placed: &PlacedInstances<'a>,
) -> impl Iterator<Item = (&'a MachineName, &'a AllocationId)> {
    let is_chosen = |id: &AllocationId, goal| goal == InstanceGoal::Run && placed.chosen.contains(id);
    placed
        .of(release)
        .filter(move |(_, id, assignment)| is_chosen(id, assignment.goal))
        .map(|(machine, id, _)| (machine, id))
}

/// The address of a ready instance. If the machine has not reported since the server started, the previous routes
/// decide: missing reports never remove an endpoint. Only the loss of the machine does.
fn address(machine: &MachineName, id: &AllocationId, input: &PlanningInput<'_>) -> Option<MachineAddress> {
    if input.is_lost(machine) {
        return None;
    }
    match input.observed.machines.get(machine) {
        Some(report) => {
            let ready = report.instances.get(id).filter(|instance| instance.phase == InstancePhase::Ready);
            Some(MachineAddress::new(machine.clone(), ready?.address?))
        }
        None => input.routed_address(id).cloned(),
    }
}
