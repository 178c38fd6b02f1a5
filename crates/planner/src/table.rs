//! Computes the routing table: the ready instances of each app's current release, and of a held release under its own
//! host name.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gantry_model::app::Rename;
use gantry_model::role::DEFAULT_PORT;
use gantry_model::{
    AppName, Assignment, ClosedReason, ClosedRoute, DeployState, Endpoint, HostName, InstanceGoal, InstanceId,
    InstancePhase, MachineName, Release, ReleaseNumber, RequestTimeouts, RoleName, Route, RoutingTable, TrafficPolicy,
};

use crate::demand::{MachinePlans, WantedInstances, copies};
use crate::input::PlanningInput;
use crate::{DesiredApp, DesiredCluster};

/// The assignments of the new plan, by app and in the order of the machines.
struct PlacedInstances<'a> {
    wanted: &'a WantedInstances,
    apps: BTreeMap<&'a AppName, Vec<PlacedInstance<'a>>>,
    input: &'a PlanningInput<'a>,
}

type PlacedInstance<'a> = (&'a MachineName, &'a InstanceId, &'a Assignment);

impl<'a> PlacedInstances<'a> {
    fn new(wanted: &'a WantedInstances, machines: &'a MachinePlans, input: &'a PlanningInput<'a>) -> Self {
        let mut apps: BTreeMap<&AppName, Vec<PlacedInstance<'_>>> = BTreeMap::new();
        for (machine, part) in machines {
            for (id, assignment) in &part.instances {
                apps.entry(&id.app).or_default().push((machine, id, assignment));
            }
        }
        Self { wanted, apps, input }
    }

    /// The assignments of a release.
    fn of<'s>(&'s self, release: &Release) -> impl Iterator<Item = &'s PlacedInstance<'a>> + use<'s, 'a> {
        let number = release.number;
        self.apps.get(&release.app).into_iter().flatten().filter(move |(_, id, _)| id.release == number)
    }
}

/// Computes the next routing table. Its generation rises only if the content differs from the previous routing table.
pub(crate) fn compose(
    desired: &DesiredCluster,
    wanted: &WantedInstances,
    machines: &MachinePlans,
    input: &PlanningInput<'_>,
) -> RoutingTable {
    let placed = PlacedInstances::new(wanted, machines, input);
    let mut table = RoutingTable {
        generation: input.previous.table.generation,
        trusted_proxies: desired.trusted_proxies.clone(),
        ..RoutingTable::default()
    };
    for (name, app) in desired.apps.iter().filter(|(_, app)| !app.app.destroying) {
        let closed = closed(app);
        for host in hosts(app, desired, input) {
            match (closed, release_of(app, app.app.current)) {
                (Some(reason), _) => drop(table.closed.insert(host, ClosedRoute { app: name.clone(), reason })),
                (None, Some(release)) => insert_route(&mut table, host, release, &app.app.traffic, false, &placed),
                (None, None) => {}
            }
        }
        if let Some(release) = release_of(app, app.app.current) {
            let known = input.previous.table.names.get(name).filter(|_| unheard(release, &placed));
            let names = known.cloned().unwrap_or_else(|| addresses(release, &placed));
            table.names.insert(name.clone(), names);
        }
        if let Some(release) = held(app)
            && let Ok(host) = HostName::parse(&format!("{}.{name}.{}", release.number, input.policy.domain))
        {
            // A held release serves only the team's own tests, so the pauses and limits for the app's clients do not
            // apply.
            let trusted_proxies = app.app.traffic.trusted_proxies.clone();
            let traffic = TrafficPolicy { trusted_proxies, ..TrafficPolicy::default() };
            insert_route(&mut table, host, release, &traffic, true, &placed);
        }
    }
    if table != input.previous.table {
        table.generation = table.generation.next();
    }
    // After a restore, the records are older than the last routing table that a router received. Routers accept only
    // newer generations.
    let heard = input.observed.routers.values().map(|router| router.generation).max().unwrap_or_default();
    if heard > input.previous.table.generation {
        table.generation = heard.next();
    }
    table
}

fn release_of(app: &DesiredApp, number: Option<ReleaseNumber>) -> Option<&Release> {
    app.releases.get(&number?)
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
        drain: settings.drain.unwrap_or(placed.input.policy.drain),
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
    placed.of(release).any(|(machine, _, _)| !placed.input.observed.machines.contains_key(*machine))
}

/// The ready instances of a release with their addresses.
fn serving<'p, 'a>(
    release: &Release,
    placed: &'p PlacedInstances<'a>,
) -> impl Iterator<Item = (InstanceId, Ipv4Addr)> + use<'p, 'a> {
    placed
        .of(release)
        .filter(|(_, id, assignment)| assignment.goal == InstanceGoal::Run && placed.wanted.contains_key(*id))
        .filter_map(|(machine, id, _)| Some(((*id).clone(), address(machine, id, placed.input)?)))
}

/// The address of a ready instance. If the machine has not reported since the controller started, the previous routing
/// table decides: missing reports never remove an endpoint.
fn address(machine: &MachineName, id: &InstanceId, input: &PlanningInput<'_>) -> Option<Ipv4Addr> {
    match input.observed.machines.get(machine) {
        Some(report) => {
            let ready = report.instances.get(id).filter(|instance| instance.phase == InstancePhase::Ready);
            ready.and_then(|instance| instance.address)
        }
        None => input.routed_address(id),
    }
}
