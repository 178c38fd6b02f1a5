//! The table, with what is known of each endpoint. Replaced whole, in memory; an endpoint's state outlives the table.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use gantry_model::{AppName, Endpoint, Generation, InstanceId, Table};
use tokio::sync::watch;

use crate::pool::Pool;

/// How long an endpoint that cannot be reached is passed over, by failures in a row.
const EJECT: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(10)];

/// One endpoint and what is known of it.
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    /// Requests under way.
    active: AtomicU64,
    failures: AtomicU32,
    ejected: Mutex<Option<Instant>>,
    pub(crate) pool: Pool,
}

/// Counts a request for as long as it lives.
pub(crate) struct Active(Arc<Target>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Target {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            active: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            ejected: Mutex::new(None),
            pool: Pool::default(),
        }
    }

    /// Begins a request.
    pub(crate) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(self))
    }

    /// It answered.
    pub(crate) fn worked(&self) {
        if self.failures.swap(0, Ordering::Relaxed) > 0 {
            *self.ejected.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// It could not be reached: it is passed over for a while.
    pub(crate) fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) as usize;
        let until = Instant::now() + EJECT[failures.min(EJECT.len() - 1)];
        *self.ejected.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn is_ejected(&self, now: Instant) -> bool {
        self.failures.load(Ordering::Relaxed) > 0
            && self.ejected.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| until > now)
    }
}

/// A host name's route.
pub(crate) struct Route {
    pub(crate) app: AppName,
    pub(crate) targets: Vec<Arc<Target>>,
}

impl Route {
    /// The less loaded of two that are chosen at random; none when every one is ejected or was tried.
    pub(crate) fn choose(&self, tried: &[InstanceId]) -> Option<Arc<Target>> {
        let now = Instant::now();
        let usable: Vec<&Arc<Target>> = self
            .targets
            .iter()
            .filter(|target| !target.is_ejected(now) && !tried.contains(&target.endpoint.instance))
            .collect();
        let pick = || usable.get(rand::random_range(0..usable.len().max(1))).copied();
        let (one, other) = (pick()?, pick()?);
        let load = |target: &Arc<Target>| target.active.load(Ordering::Relaxed);
        Some(Arc::clone(if load(other) < load(one) { other } else { one }))
    }
}

/// What is routed at one moment.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) table: Table,
    pub(crate) routes: BTreeMap<String, Arc<Route>>,
}

/// What is routed.
pub(crate) struct Routing {
    path: PathBuf,
    state: RwLock<Arc<State>>,
    /// Every target that has a request under way or is in the table.
    targets: Mutex<BTreeMap<Endpoint, Arc<Target>>>,
    generation: watch::Sender<Generation>,
}

impl Routing {
    /// The table that was kept on disk; an empty one if there is none.
    pub(crate) fn load(path: &Path) -> Self {
        let table: Option<Table> = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let (generation, _) = watch::channel(Generation(0));
        let routing = Self { path: path.to_owned(), state: RwLock::default(), targets: Mutex::default(), generation };
        if let Some(table) = table {
            routing.replace(table);
        }
        routing
    }

    /// What is routed now.
    pub(crate) fn now(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The generation that is routed by; none before there ever was one.
    pub(crate) fn generation(&self) -> Option<Generation> {
        Some(self.now().table.generation).filter(|generation| *generation > Generation(0))
    }

    /// To be told of tables that come.
    pub(crate) fn changes(&self) -> watch::Receiver<Generation> {
        self.generation.subscribe()
    }

    /// Takes a newer table: on disk first, if it is to be kept, so that a router that is killed after it was acknowledged still has it. An
    /// older one is refused.
    pub(crate) fn take(&self, table: Table, keep: bool) -> std::io::Result<bool> {
        if self.generation().is_some_and(|known| table.generation <= known) {
            return Ok(false);
        }
        gantry_linux::step!("table.received");
        if keep {
            let fresh = self.path.with_extension(format!("new-{}", std::process::id()));
            let mut file = std::fs::File::create(&fresh)?;
            file.write_all(&serde_json::to_vec(&table)?)?;
            file.sync_data()?;
            gantry_linux::step!("table.written");
            std::fs::rename(fresh, &self.path)?;
        }
        gantry_linux::step!("table.kept");
        self.replace(table);
        Ok(true)
    }

    fn replace(&self, table: Table) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut routes = BTreeMap::new();
        for (host, route) in &table.routes {
            let targets = route
                .endpoints
                .iter()
                .map(|endpoint| {
                    let fresh = || Arc::new(Target::new(endpoint.clone()));
                    Arc::clone(targets.entry(endpoint.clone()).or_insert_with(fresh))
                })
                .collect();
            routes.insert(host.to_string(), Arc::new(Route { app: route.app.clone(), targets }));
        }
        let named = |endpoint: &Endpoint| table.routes.values().any(|route| route.endpoints.contains(endpoint));
        targets.retain(|endpoint, target| {
            let named = named(endpoint);
            if !named {
                target.pool.clear();
            }
            named || target.active.load(Ordering::Relaxed) > 0
        });
        let generation = table.generation;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(State { table, routes });
        self.generation.send_replace(generation);
    }

    /// Requests under way, where there are any.
    pub(crate) fn active(&self) -> BTreeMap<InstanceId, u64> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = targets.values().map(|t| (t.endpoint.instance.clone(), t.active.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::role::Protocol;
    use gantry_model::{HostName, ReleaseNumber};
    use std::net::Ipv4Addr;

    fn endpoint(n: u8) -> Endpoint {
        let instance = InstanceId::parse(&format!("shop.v1.web-{n}")).expect("an id");
        Endpoint { instance, address: Ipv4Addr::new(10, 0, 0, n), port: 80, protocol: Protocol::Http1 }
    }

    fn table(generation: u64, endpoints: &[u8]) -> Table {
        let route = gantry_model::Route {
            app: AppName::parse("shop").expect("a name"),
            release: ReleaseNumber(1),
            endpoints: endpoints.iter().map(|n| endpoint(*n)).collect(),
        };
        let routes = BTreeMap::from([(HostName::parse("shop.localhost").expect("a host"), route)]);
        Table { generation: Generation(generation), routes, names: BTreeMap::new() }
    }

    fn routing() -> Routing {
        let name = format!("gantry-routing-{}-{:x}", std::process::id(), rand::random::<u64>());
        Routing::load(&std::env::temp_dir().join(name))
    }

    #[test]
    fn an_older_table_is_refused_and_a_newer_one_is_on_disk() {
        let routing = routing();
        assert!(routing.take(table(5, &[1]), true).expect("taken"));
        assert!(!routing.take(table(5, &[2]), true).expect("refused"));
        assert!(!routing.take(table(4, &[2]), true).expect("refused"));
        let again = Routing::load(&routing.path);
        assert_eq!(again.generation(), Some(Generation(5)));
        std::fs::remove_file(&routing.path).expect("removed");
    }

    #[test]
    fn a_request_is_counted_after_its_endpoint_left_the_table() {
        let routing = routing();
        routing.take(table(1, &[1, 2]), true).expect("taken");
        let route = Arc::clone(&routing.now().routes["shop.localhost"]);
        let active = route.targets[0].begin();
        routing.take(table(2, &[2]), true).expect("taken");
        assert_eq!(routing.active(), BTreeMap::from([(endpoint(1).instance, 1)]));
        drop(active);
        assert!(routing.active().is_empty());
        std::fs::remove_file(&routing.path).expect("removed");
    }

    #[test]
    fn the_idle_and_the_reachable_are_chosen() {
        let routing = routing();
        routing.take(table(1, &[1, 2]), true).expect("taken");
        let route = Arc::clone(&routing.now().routes["shop.localhost"]);
        let _busy: Vec<_> = (0..50).map(|_| route.targets[0].begin()).collect();
        let chosen = (0..100).filter(|_| route.choose(&[]).expect("one").endpoint == endpoint(2)).count();
        assert!(chosen > 60, "{chosen}");
        route.targets[1].failed();
        assert!((0..20).all(|_| route.choose(&[]).expect("one").endpoint == endpoint(1)));
        assert!(route.choose(&[endpoint(1).instance]).is_none());
        route.targets[1].worked();
        assert!(route.choose(&[endpoint(1).instance]).is_some());
        std::fs::remove_file(&routing.path).expect("removed");
    }
}
