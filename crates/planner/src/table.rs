//! Computes the routing table: the ready instances of each app's current release, and of a held release under its own
//! host name.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_model::app::Rename;
use gantry_model::role::DEFAULT_PORT;
use gantry_model::{
    AppName, ClosedReason, ClosedRoute, DeployState, Endpoint, HostName, InstanceGoal, InstanceId, InstancePhase,
    MachineName, Release, ReleaseNumber, RequestTimeouts, RoleName, Route, RoutingTable, TrafficPolicy,
};

use crate::instances::{MachinePlans, WantedInstances, copies};
use crate::scene::PlanningInput;
use crate::{DesiredApp, DesiredCluster};

/// The instances that may serve, with their machines.
struct PlacedInstances<'a> {
    wanted: &'a WantedInstances,
    machines: &'a MachinePlans,
    scene: &'a PlanningInput<'a>,
}

/// Computes the next routing table. Its generation rises only if the content differs from the previous routing table.
pub(crate) fn compose(
    desired: &DesiredCluster,
    wanted: &WantedInstances,
    machines: &MachinePlans,
    scene: &PlanningInput<'_>,
) -> RoutingTable {
    let placed = PlacedInstances { wanted, machines, scene };
    let mut table = RoutingTable {
        generation: scene.previous.table.generation,
        trusted_proxies: desired.trusted_proxies.clone(),
        ..RoutingTable::default()
    };
    for (name, app) in desired.apps.iter().filter(|(_, app)| !app.app.destroying) {
        let closed = closed(app);
        for host in hosts(app, desired, scene) {
            match (closed, release_of(app, app.app.current)) {
                (Some(reason), _) => drop(table.closed.insert(host, ClosedRoute { app: name.clone(), reason })),
                (None, Some(release)) => insert_route(&mut table, host, release, &app.app.traffic, false, &placed),
                (None, None) => {}
            }
        }
        if let Some(release) = release_of(app, app.app.current) {
            let known = scene.previous.table.names.get(name).filter(|_| unheard(release, &placed));
            let names = known.cloned().unwrap_or_else(|| addresses(release, &placed));
            table.names.insert(name.clone(), names);
        }
        if let Some(release) = held(app)
            && let Ok(host) = HostName::parse(&format!("{}.{name}.{}", release.number, scene.policy.domain))
        {
            // A held release serves only the team's own tests, so the pauses and limits for the app's clients do not
            // apply.
            let trusted_proxies = app.app.traffic.trusted_proxies.clone();
            let traffic = TrafficPolicy { trusted_proxies, ..TrafficPolicy::default() };
            insert_route(&mut table, host, release, &traffic, true, &placed);
        }
    }
    if table != scene.previous.table {
        table.generation = table.generation.next();
    }
    // After a restore, the records are older than the last routing table that a router received. Routers accept only
    // newer generations.
    let heard = scene.observed.routers.values().map(|router| router.generation).max().unwrap_or_default();
    if heard > scene.previous.table.generation {
        table.generation = heard.next();
    }
    table
}

/// Reports whether the routing table names an instance, so that requests or name look-ups may lead there. Names are
/// compared by address, because the table's names do not identify instances.
pub(crate) fn named_by(table: &RoutingTable, id: &InstanceId, address: Option<Ipv4Addr>) -> bool {
    let routed = table.routes.values().any(|route| route.endpoints.iter().any(|endpoint| &endpoint.instance == id));
    let found_by_name =
        |address| table.names.values().flat_map(|roles| roles.values()).flatten().any(|a| *a == address);
    routed || address.is_some_and(found_by_name)
}

fn release_of(app: &DesiredApp, number: Option<ReleaseNumber>) -> Option<&Release> {
    app.releases.get(&number?)
}

fn held(app: &DesiredApp) -> Option<&Release> {
    let deploy = app.deploys.iter().find(|deploy| deploy.state == DeployState::Held)?;
    release_of(app, deploy.release)
}

/// The hosts that lead to an app. The hosts of a renamed app lead to its successor once the successor serves.
fn hosts(app: &DesiredApp, desired: &DesiredCluster, scene: &PlanningInput<'_>) -> Vec<HostName> {
    let other = |name: &AppName| desired.apps.get(name);
    let serves = |app: &DesiredApp| app.app.current.is_some();
    match &app.app.rename {
        Some(Rename::To { name }) if other(name).is_some_and(serves) => Vec::new(),
        Some(Rename::From { name }) if serves(app) => {
            own_hosts(app, scene).chain(other(name).into_iter().flat_map(|old| own_hosts(old, scene))).collect()
        }
        _ => own_hosts(app, scene).collect(),
    }
}

fn own_hosts<'a>(app: &'a DesiredApp, scene: &PlanningInput<'_>) -> impl Iterator<Item = HostName> + 'a {
    let own = HostName::parse(&format!("{}.{}", app.app.name, scene.policy.domain)).ok();
    own.into_iter().chain(app.app.hosts.iter().cloned())
}

/// Why an app serves no request; `None` if the app serves. A paused app and an app in maintenance count as serving,
/// because their routes hold that answer.
fn closed(app: &DesiredApp) -> Option<ClosedReason> {
    if app.app.traffic.paused || app.app.traffic.maintenance.is_some() {
        return None;
    }
    let Some(release) = release_of(app, app.app.current) else {
        return Some(ClosedReason::NoRelease);
    };
    let Some((role, settings)) = release.roles.iter().find(|(role, _)| role.is_web()) else {
        return Some(ClosedReason::NoWebRole);
    };
    (copies(&app.app, role, settings) == 0).then_some(ClosedReason::ScaledToZero)
}

fn insert_route(
    table: &mut RoutingTable,
    host: HostName,
    release: &Release,
    traffic: &TrafficPolicy,
    held: bool,
    placed: &PlacedInstances<'_>,
) {
    let Some((role, settings)) = release.roles.iter().find(|(role, _)| role.is_web()) else {
        return;
    };
    let port = settings.port.unwrap_or(DEFAULT_PORT);
    let endpoints = serving(release, placed)
        .filter(|(id, _)| &id.role == role)
        .map(|(instance, address)| Endpoint { instance, address, port, protocol: settings.protocol })
        .collect();
    let timeouts = RequestTimeouts {
        response: settings.request_timeout,
        drain: settings.drain.unwrap_or(placed.scene.policy.drain),
        request_buffer: settings.request_buffer(),
    };
    let (app, release, traffic) = (release.app.clone(), release.number, traffic.clone());
    table.routes.insert(host, Route { app, release, held, endpoints, traffic, timeouts });
}

fn addresses(release: &Release, placed: &PlacedInstances<'_>) -> BTreeMap<RoleName, Vec<Ipv4Addr>> {
    let mut roles: BTreeMap<RoleName, Vec<Ipv4Addr>> = BTreeMap::new();
    for (id, address) in serving(release, placed).filter(|(id, _)| id.role.is_service()) {
        roles.entry(id.role).or_default().push(address);
    }
    roles
}

/// Reports whether a machine with instances of the release has not reported since the controller started.
fn unheard(release: &Release, placed: &PlacedInstances<'_>) -> bool {
    let has = |id: &InstanceId| id.app == release.app && id.release == release.number;
    placed
        .machines
        .iter()
        .any(|(machine, part)| !placed.scene.observed.machines.contains_key(machine) && part.instances.keys().any(has))
}

/// The ready instances of a release with their addresses.
fn serving<'a>(
    release: &'a Release,
    placed: &'a PlacedInstances<'_>,
) -> impl Iterator<Item = (InstanceId, Ipv4Addr)> + 'a {
    placed
        .machines
        .iter()
        .flat_map(|(machine, part)| part.instances.iter().map(move |(id, a)| (machine, id, a)))
        .filter(|(_, id, assignment)| {
            id.app == release.app
                && id.release == release.number
                && assignment.goal == InstanceGoal::Run
                && placed.wanted.contains_key(*id)
        })
        .filter_map(|(machine, id, _)| Some((id.clone(), address(machine, id, placed.scene)?)))
}

/// The address of a ready instance. If the machine has not reported since the controller started, the previous routing
/// table decides: missing reports never remove an endpoint.
fn address(machine: &MachineName, id: &InstanceId, scene: &PlanningInput<'_>) -> Option<Ipv4Addr> {
    match scene.observed.machines.get(machine) {
        Some(report) => report.instances.get(id).filter(|i| i.phase == InstancePhase::Ready).and_then(|i| i.address),
        None => scene
            .previous
            .table
            .routes
            .values()
            .flat_map(|route| &route.endpoints)
            .find(|endpoint| &endpoint.instance == id)
            .map(|endpoint| endpoint.address),
    }
}
