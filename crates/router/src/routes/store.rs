//! Routing table with the state of each endpoint. A new table replaces the whole table in memory; the state of an
//! endpoint survives.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use gantry_control::version_one;
use gantry_error::ErrorChain;
use gantry_ledger::{ContentError, FileSchema, Replacement};
use gantry_model::observed::SILENCE_MILLIS;
use gantry_model::{
    AllocationId, AppName, ClosedRoute, Endpoint, FailureRun, Generation, MachineName, Moment, RequestCounts,
    RequestFailure, RoutingTable, VirtualAddresses,
};
use tokio::sync::watch;
use tokio_rustls::rustls::ClientConfig;

use crate::routes::admission::AdmissionGate;
use crate::routes::route::AppRoute;
use crate::routes::target::{RouteTarget, TargetPlace};
use crate::tunnel::peer::PeerRouter;

/// The file with the last table.
///
/// | version | change |
/// |---|---|
/// | 1 | the file names no version; endpoints and names may lack their machine |
/// | 2 | the file names its version; endpoints and names have their machine |
pub const TABLE_FILE: FileSchema = FileSchema { name: "table.json", version: 2 };

/// Routing state at one moment.
#[derive(Default)]
pub(crate) struct RouteSnapshot {
    pub(crate) table: RoutingTable,
    /// A table was taken. The first table of a new cloud is empty and has generation 0.
    known: bool,
    pub(crate) routes: BTreeMap<String, Arc<AppRoute>>,
    /// Host names of apps that serve no request.
    pub(crate) closed: BTreeMap<String, ClosedRoute>,
    /// Virtual addresses of all roles; none without tunnels.
    pub(crate) services: VirtualAddresses,
    /// The targets of this machine by allocation, for requests of other machines' routers.
    own: HashMap<String, OwnTarget>,
}

/// Time for which this router takes tunnelled requests for an allocation that left the table: the length of a router's
/// lease. A router that has not acknowledged the new table by then is not waited for, and the instance may be gone.
const RETIRED: Duration = Duration::from_millis(SILENCE_MILLIS);

/// Target of this machine.
#[derive(Clone)]
struct OwnTarget {
    target: Arc<RouteTarget>,
    /// End of the time for which the target gets requests, once its endpoint left the table.
    until: Option<Instant>,
}

impl RouteSnapshot {
    /// Returns the target of an allocation of this machine; none if the allocation is unknown or gone.
    pub(crate) fn own(&self, allocation: &str, now: Instant) -> Option<Arc<RouteTarget>> {
        let own = self.own.get(allocation)?;
        own.until.is_none_or(|until| now < until).then(|| Arc::clone(&own.target))
    }
}

/// Current routing state, and the targets and gates that survive a change.
pub(crate) struct RouteStore {
    path: PathBuf,
    /// The router's machine.
    here: MachineName,
    /// TLS to the routers of other machines; none without tunnels.
    tls: Option<Arc<ClientConfig>>,
    /// The routers of the machines that have tunnels.
    peers: Mutex<BTreeMap<MachineName, Arc<PeerRouter>>>,
    state: RwLock<Arc<RouteSnapshot>>,
    /// Every target that is in the table, or that a request or a route in use still holds.
    targets: Mutex<BTreeMap<Endpoint, Arc<RouteTarget>>>,
    /// One gate for each app, and another for its held release: requests to a held release take nothing from the app's
    /// clients.
    gates: Mutex<BTreeMap<(AppName, bool), Arc<AdmissionGate>>>,
    generation: watch::Sender<Generation>,
    /// Drain time of long-lived connections, once this router shuts down.
    farewell: OnceLock<Duration>,
}

impl RouteStore {
    /// Loads the table of the machine `here` from disk. Starts with an empty table if there is none that this router can
    /// read: the server sends the table again.
    pub(crate) fn load(path: &Path, here: &MachineName, tls: Option<Arc<ClientConfig>>) -> Self {
        gantry_ledger::remove_unfinished(path);
        let unusable = |error: &ContentError| {
            let (path, error) = (path.display(), ErrorChain(error));
            tracing::error!(%path, %error, "cannot use the routing table on disk; waiting for the server's table");
        };
        let table = std::fs::read(path).ok().and_then(|content| read(&content, here).inspect_err(unusable).ok());
        let (generation, _) = watch::channel(Generation(0));
        let routing = Self {
            path: path.to_owned(),
            here: here.clone(),
            tls,
            peers: Mutex::default(),
            state: RwLock::default(),
            targets: Mutex::default(),
            gates: Mutex::default(),
            generation,
            farewell: OnceLock::new(),
        };
        if let Some(table) = table {
            routing.replace(table);
        }
        routing
    }

    /// Returns the router's machine.
    pub(crate) fn own_machine(&self) -> &MachineName {
        &self.here
    }

    /// Returns the current routing state.
    pub(crate) fn now(&self) -> Arc<RouteSnapshot> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the generation of the current table; none before the first table.
    pub(crate) fn generation(&self) -> Option<Generation> {
        let state = self.now();
        state.known.then_some(state.table.generation)
    }

    /// Subscribes to new tables.
    pub(crate) fn changes(&self) -> watch::Receiver<Generation> {
        self.generation.subscribe()
    }

    /// Takes over a newer table; refuses an older table. If `keep`, writes the table to disk first: a router killed
    /// after its acknowledgement must still have the table.
    pub(crate) fn take(&self, table: RoutingTable, keep: bool) -> std::io::Result<bool> {
        if self.generation().is_some_and(|known| table.generation <= known) {
            return Ok(false);
        }
        gantry_failpoint::failpoint!("table.received");
        if keep {
            // During an update the old and the new router write the file at the same time.
            let replacement = Replacement::of(&self.path).shared();
            let replacement = replacement.before_rename(|| gantry_failpoint::failpoint!("table.written"));
            TABLE_FILE.write(replacement, &table)?;
        }
        gantry_failpoint::failpoint!("table.kept");
        self.replace(table);
        Ok(true)
    }

    fn replace(&self, table: RoutingTable) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let peers = self.reach(&table);
        let mut routes = BTreeMap::new();
        let mut own = HashMap::new();
        for (host, route) in &table.routes {
            let targets = route
                .endpoints
                .iter()
                .filter_map(|endpoint| {
                    let peer = peers.get(endpoint.at.machine());
                    let known = targets.get(endpoint).filter(|known| is_reached(known, peer));
                    let target = match known {
                        Some(known) => Arc::clone(known),
                        None => {
                            let target = match RouteTarget::local(endpoint, &self.here) {
                                Some(target) => target,
                                None => RouteTarget::remote(endpoint, Arc::clone(peer?))?,
                            };
                            let target = Arc::new(target);
                            targets.insert(endpoint.clone(), Arc::clone(&target));
                            target
                        }
                    };
                    if self.tls.is_some() && endpoint.at.machine() == &self.here {
                        own.insert(target.label.clone(), OwnTarget { target: Arc::clone(&target), until: None });
                    }
                    Some(target)
                })
                .collect();
            let gate = Arc::clone(gates.entry((route.app.clone(), route.held)).or_default());
            let (app, traffic, timeouts) = (route.app.clone(), route.traffic.clone(), route.timeouts);
            let trusted_proxies = table.trusted_proxies.with(&traffic.trusted_proxies);
            let route = AppRoute { host: host.to_string(), app, targets, traffic, timeouts, trusted_proxies, gate };
            routes.insert(host.to_string(), Arc::new(route));
        }
        gates.retain(|(app, held), _| table.routes.values().any(|route| (&route.app, &route.held) == (app, held)));
        let old = self.now();
        let generation = table.generation;
        // Publish the new state before dropping anything: a reader of the old state still holds its targets, and is
        // counted.
        let closed = table.closed.iter().map(|(host, route)| (host.to_string(), route.clone())).collect();
        self.retire(&old, &table, &mut own);
        let services = self.services(&old, &table);
        let state = Arc::new(RouteSnapshot { table, known: true, routes, closed, services, own });
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state);
        let (before, after) = (drains(&old.table), drains(&state.table));
        for (endpoint, target) in targets.iter() {
            if after.contains_key(endpoint) {
                // An endpoint that returns was restarted: earlier failures say nothing about the new instance.
                if target.leaving.borrow().is_some() {
                    target.circuit.record_success();
                }
                target.leave(self.farewell.get().copied());
            } else if let Some(drain) = before.get(endpoint) {
                target.leave(Some(*drain));
                target.clear();
            }
        }
        self.generation.send_replace(generation);
    }

    /// Returns the routers of the table's other machines. A machine that lost its tunnel or left the cluster has none.
    fn reach(&self, table: &RoutingTable) -> BTreeMap<MachineName, Arc<PeerRouter>> {
        let Some(tls) = &self.tls else { return BTreeMap::new() };
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|machine, _| table.tunnels.machines().contains_key(machine));
        for (machine, addresses) in table.tunnels.machines().iter().filter(|(machine, _)| **machine != self.here) {
            if !peers.contains_key(machine) {
                peers.insert(machine.clone(), Arc::new(PeerRouter::new(machine, tls)));
            }
            if let Some(peer) = peers.get(machine) {
                peer.set_addresses(addresses);
                peer.set_lost(table.lost.contains(machine));
            }
        }
        peers.clone()
    }

    /// Returns the router of another machine.
    pub(crate) fn peer(&self, machine: &MachineName) -> Option<Arc<PeerRouter>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(machine).cloned()
    }

    /// Returns the virtual addresses of a table's roles. On the only machine of a cloud, names lead to the copies.
    fn services(&self, old: &RouteSnapshot, table: &RoutingTable) -> VirtualAddresses {
        if self.tls.is_none() || table.tunnels.is_empty() {
            VirtualAddresses::default()
        } else if old.known && !old.table.tunnels.is_empty() && old.table.names == table.names {
            old.services.clone()
        } else {
            VirtualAddresses::of(&table.names)
        }
    }

    /// Keeps the targets of this machine that left the table for a while, because other routers may still have the table
    /// before. An address that the new table gives to another allocation means that the target is gone.
    fn retire(&self, old: &RouteSnapshot, table: &RoutingTable, own: &mut HashMap<String, OwnTarget>) {
        let now = Instant::now();
        let mut left: Vec<(&String, &OwnTarget)> = old
            .own
            .iter()
            .filter(|(id, known)| !own.contains_key(*id) && known.until.is_none_or(|until| now < until))
            .collect();
        if left.is_empty() {
            return;
        }
        let taken: Vec<(Ipv4Addr, Option<&AllocationId>)> = taken_addresses(table, &self.here).collect();
        left.retain(|(_, known)| {
            let endpoint = &known.target.endpoint;
            let address = endpoint.at.address_on(&self.here);
            !taken.iter().any(|(other, id)| Some(*other) == address && *id != Some(&endpoint.allocation))
        });
        for (id, known) in left {
            let until = Some(known.until.unwrap_or(now + RETIRED));
            own.insert(id.clone(), OwnTarget { target: Arc::clone(&known.target), until });
        }
    }

    /// Tells long-lived connections that this router shuts down.
    pub(crate) fn leave(&self, drain: Duration) {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let drain = *self.farewell.get_or_init(|| drain);
        targets.values().for_each(|target| target.leave(Some(drain)));
    }

    /// Returns the longest drain of all apps.
    pub(crate) fn longest_drain(&self) -> Duration {
        drains(&self.now().table).into_values().max().unwrap_or_default()
    }

    /// Closes kept connections that are too old, and removes unused targets that left the table.
    pub(crate) fn sweep(&self, now: Instant) {
        let state = self.now();
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let named = drains(&state.table);
        // A target that left the table stays while a request or a route holds it: a route in use may still choose the
        // target.
        targets.retain(|endpoint, target| named.contains_key(endpoint) || Arc::strong_count(target) > 1);
        targets.values().for_each(|target| target.sweep(now));
    }

    /// Returns the counts of waiting, refused and limited requests, for each app that has any.
    pub(crate) fn counts(&self) -> BTreeMap<AppName, RequestCounts> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = gates.iter().filter(|((_, held), _)| !held).map(|((app, _), gate)| (app.clone(), gate.counts()));
        counts.filter(|(_, counts)| *counts != RequestCounts::default()).collect()
    }

    /// Returns the newest run of failed requests of each kind, for each app that has any.
    pub(crate) fn failures(&self, now: Moment) -> BTreeMap<AppName, BTreeMap<RequestFailure, FailureRun>> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let runs =
            gates.iter().filter(|((_, held), _)| !held).map(|((app, _), gate)| (app.clone(), gate.failures(now)));
        runs.filter(|(_, runs)| !runs.is_empty()).collect()
    }

    /// Returns the number of requests under way, for each instance that has any.
    pub(crate) fn active(&self) -> BTreeMap<AllocationId, u64> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = targets.values().map(|t| (t.endpoint.allocation.clone(), t.active.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// Returns whether a known target still leads to its endpoint. The router of another machine may be a new one.
fn is_reached(target: &RouteTarget, peer: Option<&Arc<PeerRouter>>) -> bool {
    match &target.place {
        TargetPlace::Here { .. } => true,
        TargetPlace::Elsewhere { peer: known, .. } => peer.is_some_and(|peer| Arc::ptr_eq(known, peer)),
    }
}

/// The addresses of the machine `here` that a table names, with the allocation if the table names it.
fn taken_addresses<'a>(
    table: &'a RoutingTable,
    here: &'a MachineName,
) -> impl Iterator<Item = (Ipv4Addr, Option<&'a AllocationId>)> {
    let endpoints = table.routes.values().flat_map(|route| &route.endpoints);
    let routed = endpoints.filter_map(|endpoint| Some((endpoint.at.address_on(here)?, Some(&endpoint.allocation))));
    let named = table.names.values().flat_map(|names| names.roles.values()).flatten();
    routed.chain(named.filter_map(|at| Some((at.address_on(here)?, None))))
}

/// Parses a table from disk.
fn read(content: &[u8], here: &MachineName) -> Result<RoutingTable, ContentError> {
    match TABLE_FILE.check(content)? {
        1 => Ok(serde_json::from_value(version_one::upgrade_table(serde_json::from_slice(content)?, here))?),
        _ => Ok(serde_json::from_slice(content)?),
    }
}

/// Returns how long the requests of each endpoint may go on after the endpoint left the table.
fn drains(table: &RoutingTable) -> BTreeMap<&Endpoint, Duration> {
    let of = |route: &gantry_model::Route| Duration::from_millis(route.timeouts.drain.millis());
    table.routes.values().flat_map(|route| route.endpoints.iter().map(move |endpoint| (endpoint, of(route)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::circuit::InstanceFailure;
    use crate::routes::target::SLOW_START;
    use gantry_model::role::AppProtocol;
    use gantry_model::{HostName, MachineAddress, ReleaseNumber, RequestTimeouts, TrafficPolicy, TrustedProxies};
    use std::net::Ipv4Addr;

    fn here() -> MachineName {
        MachineName::parse("m").expect("a name")
    }

    fn on(machine: &str, n: u8) -> MachineAddress {
        MachineAddress::new(MachineName::parse(machine).expect("a name"), Ipv4Addr::new(10, 0, 0, n))
    }

    fn endpoint(n: u8) -> Endpoint {
        let allocation = AllocationId::parse(&format!("shop.v1.web-{n}")).expect("an id");
        Endpoint { allocation, at: on("m", n), port: 80, protocol: AppProtocol::Http1 }
    }

    fn table(generation: u64, endpoints: &[u8]) -> RoutingTable {
        let route = gantry_model::Route {
            app: AppName::parse("shop").expect("a name"),
            release: ReleaseNumber(1),
            held: false,
            endpoints: endpoints.iter().map(|n| endpoint(*n)).collect(),
            traffic: TrafficPolicy::default(),
            timeouts: RequestTimeouts::default(),
        };
        let routes = BTreeMap::from([(HostName::parse("shop.localhost").expect("a host"), route)]);
        RoutingTable { generation: Generation(generation), routes, ..RoutingTable::default() }
    }

    fn routing() -> RouteStore {
        let name = format!("gantry-routing-{}-{:x}", std::process::id(), rand::random::<u64>());
        RouteStore::load(&std::env::temp_dir().join(name), &here(), None)
    }

    #[test]
    fn refuses_an_older_table_and_persists_a_newer_one() {
        let routing = routing();
        assert!(routing.take(table(5, &[1]), true).expect("taken"));
        assert!(!routing.take(table(5, &[2]), true).expect("refused"));
        assert!(!routing.take(table(4, &[2]), true).expect("refused"));
        let empty = RouteStore::load(&routing.path.with_extension("none"), &here(), None);
        assert_eq!(empty.generation(), None);
        assert!(empty.take(table(0, &[]), false).expect("taken"));
        assert_eq!(empty.generation(), Some(Generation(0)), "it would ask for ever");
        let again = RouteStore::load(&routing.path, &here(), None);
        assert_eq!(again.generation(), Some(Generation(5)));
        std::fs::remove_file(&routing.path).expect("removed");
    }

    /// Another machine's address means something else here.
    #[test]
    fn sends_nothing_to_the_address_of_another_machine() {
        let routing = routing();
        let mut table = table(1, &[1, 2]);
        let route = table.routes.values_mut().next().expect("a route");
        route.endpoints[0].at = on("other", 1);
        routing.take(table, false).expect("taken");
        let route = Arc::clone(&routing.now().routes["shop.localhost"]);
        assert_eq!(route.targets.iter().map(|target| &target.endpoint).collect::<Vec<_>>(), [&endpoint(2)]);
    }

    #[test]
    fn reads_a_table_of_an_earlier_version() {
        let routing = routing();
        let endpoint = serde_json::json!({ "instance": "shop.v1.web-1", "address": "10.0.0.1", "port": 80 });
        let route = serde_json::json!({ "app": "shop", "release": 1, "endpoints": [endpoint] });
        let table = serde_json::json!({ "generation": 5, "routes": { "shop.localhost": route },
            "names": { "shop": { "web": ["10.0.0.1"] } } });
        std::fs::write(&routing.path, table.to_string()).expect("written");
        let again = RouteStore::load(&routing.path, &here(), None);
        assert_eq!(again.generation(), Some(Generation(5)));
        assert_eq!(again.now().routes["shop.localhost"].targets[0].endpoint, self::endpoint(1));
        let names = &again.now().table.names[&AppName::parse("shop").expect("a name")];
        assert_eq!(names.roles[names.main.as_ref().expect("web")], [on("m", 1)]);
        std::fs::remove_file(&routing.path).expect("removed");
    }

    #[test]
    fn a_table_names_its_version_and_one_without_a_version_is_read() {
        let routing = routing();
        routing.take(table(5, &[1]), true).expect("taken");
        let written = std::fs::read(&routing.path).expect("a table");
        assert_eq!(FileSchema::version_of(&written).expect("a version"), 2);
        assert_eq!(read(&written, &here()).expect("a table"), table(5, &[1]));
        let earlier = serde_json::to_vec(&table(5, &[1])).expect("JSON");
        assert_eq!(read(&earlier, &here()).expect("a table"), table(5, &[1]));
        std::fs::remove_file(&routing.path).expect("removed");
    }

    #[test]
    fn begins_without_the_table_of_a_newer_router_and_takes_the_servers() {
        let routing = routing();
        let mut newer = serde_json::to_value(table(5, &[1])).expect("JSON");
        newer["version"] = serde_json::json!(99);
        std::fs::write(&routing.path, newer.to_string()).expect("written");
        let again = RouteStore::load(&routing.path, &here(), None);
        assert_eq!(again.generation(), None, "the server sends the whole table");
        assert!(again.take(table(5, &[1]), true).expect("taken"));
        assert_eq!(RouteStore::load(&routing.path, &here(), None).generation(), Some(Generation(5)));
        std::fs::remove_file(&routing.path).expect("removed");
    }

    #[test]
    fn counts_requests_of_an_endpoint_that_left_the_table() {
        let routing = routing();
        routing.take(table(1, &[1, 2]), true).expect("taken");
        let route = Arc::clone(&routing.now().routes["shop.localhost"]);
        let active = route.targets[0].begin();
        routing.take(table(2, &[2]), true).expect("taken");
        assert_eq!(routing.active(), BTreeMap::from([(endpoint(1).allocation, 1)]));
        drop(active);
        assert!(routing.active().is_empty());
        // A request that read the route earlier, and starts only now.
        let late = route.targets[0].begin();
        routing.sweep(Instant::now());
        assert_eq!(routing.active(), BTreeMap::from([(endpoint(1).allocation, 1)]));
        drop((late, route));
        routing.sweep(Instant::now());
        let left: Vec<_> = routing.targets.lock().expect("whole").keys().cloned().collect();
        assert_eq!(left, [endpoint(2)]);
        std::fs::remove_file(&routing.path).expect("removed");
    }

    #[test]
    fn chooses_idle_and_reachable_instances() {
        let routing = routing();
        routing.take(table(1, &[1, 2]), true).expect("taken");
        let route = Arc::clone(&routing.now().routes["shop.localhost"]);
        let _busy: Vec<_> = (0..50).map(|_| route.targets[0].begin()).collect();
        let now = Instant::now();
        let choose = |tried: &[AllocationId]| route.choose(tried, now).map(|target| target.endpoint.clone());
        assert!((0..100).all(|_| choose(&[]) == Some(endpoint(2))));
        route.targets[1].circuit.record_failure(InstanceFailure::Unreachable, now, now);
        assert!((0..20).all(|_| choose(&[]) == Some(endpoint(1))));
        assert!(choose(&[endpoint(1).allocation]).is_none());
        route.targets[1].circuit.record_success();
        assert!(choose(&[endpoint(1).allocation]).is_some());
        std::fs::remove_file(&routing.path).expect("removed");
    }

    #[test]
    fn falls_back_to_an_instance_with_broken_responses() {
        let routing = routing();
        routing.take(table(1, &[1, 2]), true).expect("taken");
        let route = Arc::clone(&routing.now().routes["shop.localhost"]);
        let now = Instant::now();
        for _ in 0..10 {
            route.targets[0].circuit.record_failure(InstanceFailure::Broken, now, now);
        }
        assert!((0..50).all(|_| route.choose(&[], now).expect("one").endpoint == endpoint(2)));
        assert!(route.choose(&[endpoint(2).allocation], now).is_some());
        std::fs::remove_file(&routing.path).expect("removed");
    }

    #[test]
    fn closes_the_circuit_of_a_returning_endpoint() {
        let routing = routing();
        routing.take(table(1, &[1]), false).expect("taken");
        // A request that waits for the instance all the while.
        let waits = Arc::clone(&routing.now().routes["shop.localhost"]);
        let now = Instant::now();
        (0..4).for_each(|_| waits.targets[0].circuit.record_failure(InstanceFailure::Unreachable, now, now));
        assert!(waits.choose(&[], now).is_none());
        routing.take(table(2, &[]), false).expect("taken");
        routing.take(table(3, &[1]), false).expect("taken");
        assert!(routing.now().routes["shop.localhost"].choose(&[], now).is_some());
    }

    #[test]
    fn counts_a_held_release_apart_from_its_app() {
        let routing = routing();
        let mut table = table(1, &[1]);
        let mut held = table.routes.values().next().expect("a route").clone();
        (held.release, held.held) = (ReleaseNumber(2), true);
        table.routes.insert(HostName::parse("v2.shop.localhost").expect("a host"), held);
        routing.take(table, false).expect("taken");
        let routes = routing.now().routes.clone();
        let (live, held) = (&routes["shop.localhost"], &routes["v2.shop.localhost"]);
        let now = Instant::now();
        let many: Vec<_> = (0..50).filter_map(|_| held.gate.admit(&held.traffic, now).ok()).collect();
        let _waits = held.gate.wait();
        assert_eq!((many.len(), routing.counts()), (50, BTreeMap::new()), "they are not the app's");
        let limited = TrafficPolicy { concurrent: Some(1), ..TrafficPolicy::default() };
        assert!(live.gate.admit(&limited, now).is_ok());
    }

    #[test]
    fn gives_a_new_instance_a_small_share() {
        let now = Instant::now();
        let aged = |n, age| {
            let target = RouteTarget::local(&endpoint(n), &here()).expect("of this machine");
            Arc::new(RouteTarget { since: now.checked_sub(age).expect("a past"), ..target })
        };
        let chosen = |one: Duration, other: Duration| {
            let route = AppRoute {
                host: "shop.localhost".to_owned(),
                app: AppName::parse("shop").expect("a name"),
                targets: vec![aged(1, one), aged(2, other)],
                traffic: TrafficPolicy::default(),
                timeouts: RequestTimeouts::default(),
                trusted_proxies: TrustedProxies::default(),
                gate: Arc::default(),
            };
            (0..2000).filter(|_| route.choose(&[], now).expect("one").endpoint == endpoint(2)).count()
        };
        let (young, old) = (Duration::ZERO, SLOW_START);
        assert!((50..300).contains(&chosen(old, young)), "a tenth of half is meant");
        for equals in [chosen(old, old), chosen(young, young)] {
            assert!((800..1200).contains(&equals), "{equals} of 2000");
        }
    }

    #[test]
    fn announces_the_departure_of_an_endpoint() {
        let routing = routing();
        routing.take(table(1, &[1, 2]), true).expect("taken");
        let route = Arc::clone(&routing.now().routes["shop.localhost"]);
        let (_open, leaving) = (route.targets[0].begin(), route.targets[0].leaving());
        routing.take(table(2, &[2]), true).expect("taken");
        assert_eq!(*leaving.borrow(), Some(Duration::from_secs(30)));
        routing.take(table(3, &[1, 2]), true).expect("taken");
        assert_eq!(*leaving.borrow(), None, "it is back");
        routing.leave(Duration::from_secs(9));
        assert_eq!(*leaving.borrow(), Some(Duration::from_secs(9)));
        std::fs::remove_file(&routing.path).expect("removed");
    }
}
