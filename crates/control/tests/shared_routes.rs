//! The routes as a server shares them, against the routing table of a router: both have the same updates, from whatever
//! revision a router has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use gantry_control::{Receipt, SharedRoutes, UpdateReceiver, UpdateSender};
use gantry_model::role::AppProtocol;
use gantry_model::{
    AllocationId, AppName, AppNames, AppRoutes, ClosedReason, ClosedRoute, Endpoint, Generation, HostName,
    MachineAddress, MachineName, Plan, ReleaseNumber, RequestTimeouts, Route, RoutingHead, RoutingTable,
};
use proptest::prelude::*;

/// Routers of the test. Each takes over another share of the revisions.
const ROUTERS: usize = 3;

fn app(index: u32) -> AppName {
    AppName::parse(&format!("app-{index}")).expect("a name")
}

fn host(index: u32) -> HostName {
    HostName::parse(&format!("h{index}.example")).expect("a host")
}

fn machine(index: u32) -> MachineName {
    MachineName::parse(&format!("m{index}")).expect("a name")
}

fn route(of: u32, kind: u32) -> Route {
    let endpoint = Endpoint {
        allocation: AllocationId::parse(&format!("app-{of}.v1.web-{}", kind + 1)).expect("an id"),
        at: MachineAddress::new(machine(kind), Ipv4Addr::new(10, 0, 0, 2)),
        port: 80,
        protocol: AppProtocol::Http1,
    };
    Route {
        app: app(of),
        release: ReleaseNumber(1),
        held: false,
        endpoints: vec![endpoint],
        traffic: Default::default(),
        timeouts: RequestTimeouts::default(),
    }
}

/// A change of the routes. Different apps may have the same host for a while.
#[derive(Debug, Clone)]
enum Change {
    /// The hosts of an app, each with the kind of its route, and the hosts that the app closes.
    App(u32, BTreeMap<u32, u32>, BTreeSet<u32>),
    /// An app has gone.
    Gone(u32),
    /// The machines with tunnels, and the lost ones among them.
    Head(BTreeSet<u32>, BTreeSet<u32>),
}

fn change() -> impl Strategy<Value = Change> {
    let hosts = prop::collection::btree_map(0..5u32, 0..3u32, 0..4);
    let set = || prop::collection::btree_set(0..5u32, 0..3);
    prop_oneof![
        6 => (0..4u32, hosts, set()).prop_map(|(app, hosts, closed)| Change::App(app, hosts, closed)),
        1 => (0..4u32).prop_map(Change::Gone),
        2 => (set(), set()).prop_map(|(tunnels, lost)| Change::Head(tunnels, lost)),
    ]
}

impl Change {
    fn apply(&self, plan: &mut Plan, revision: Generation) {
        match self {
            Self::App(index, hosts, closed) => {
                let close = |host: u32| ClosedRoute {
                    app: app(*index),
                    reason: if host == 0 { ClosedReason::NoRelease } else { ClosedReason::ScaledToZero },
                };
                let routes = AppRoutes {
                    revision,
                    routes: hosts.iter().map(|(at, kind)| (host(*at), route(*index, *kind))).collect(),
                    closed: closed.iter().map(|at| (host(*at), close(*at))).collect(),
                    names: (!hosts.is_empty()).then(AppNames::default),
                };
                plan.put_routes(app(*index), Arc::new(routes));
            }
            Self::Gone(index) => {
                plan.routes.remove(&app(*index));
                plan.put_routing(RoutingHead { revision, ..plan.routing.clone() });
            }
            Self::Head(tunnels, lost) => {
                let address = |index: &u32| format!("10.0.0.7:{}", 7000 + index).parse().expect("an address");
                let tunnels: BTreeMap<_, _> =
                    tunnels.iter().map(|index| (machine(*index), vec![address(index)])).collect();
                let lost = lost.iter().map(|index| machine(*index)).collect();
                plan.put_routing(RoutingHead { revision, tunnels: tunnels.into(), lost, ..plan.routing.clone() });
            }
        }
    }
}

proptest! {
    #[test]
    fn shared_routes_have_the_updates_of_the_table_from_every_revision(
        changes in prop::collection::vec((change(), prop::collection::vec(any::<bool>(), ROUTERS)), 1..20),
    ) {
        let mut plan = Plan::default();
        let mut shared: [UpdateSender<SharedRoutes>; ROUTERS] = [0; ROUTERS].map(|_| UpdateSender::new(None));
        let mut tables: [UpdateSender<RoutingTable>; ROUTERS] = [0; ROUTERS].map(|_| UpdateSender::new(None));
        let mut routers = [0; ROUTERS].map(|_| UpdateReceiver::<RoutingTable>::new(None));
        for (revision, (change, takes)) in (1..).zip(&changes) {
            change.apply(&mut plan, Generation(revision));
            let (routes, table) = (Arc::new(SharedRoutes::of(&plan)), RoutingTable::assemble(&plan));
            prop_assert_eq!(routes.revision(), table.generation);
            for router in (0..ROUTERS).filter(|router| takes[*router]) {
                let step = shared[router].advance(revision, &routes).expect("a newer revision");
                let update = step.update();
                let expected = tables[router].next(revision, &table).expect("a newer revision");
                prop_assert_eq!(&update, &expected);
                prop_assert_eq!(routers[router].receive(&update), Receipt::Applied(Vec::new()));
                prop_assert_eq!(routers[router].part(), Some(&table));
            }
        }
    }
}
