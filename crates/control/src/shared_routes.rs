//! The routes of all apps as a server sends them to its routers.
//!
//! A router has a [`gantry_model::RoutingTable`] of its own. A server has many routers at many revisions, so its form of
//! the routes shares each app's routes with the plan and with every other revision. A difference passes over shared
//! routes without a look at them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use gantry_model::{AppName, AppRoutes, Generation, HostName, Plan, RoutingHead};
use serde::Serialize;

use crate::part::{difference, single, to_value};
use crate::update::{SentPart, Update};

/// The routes of all apps at one revision. Its updates are those of the routing table.
#[derive(Debug, Clone, Default)]
pub struct SharedRoutes {
    head: RoutingHead,
    /// The app's routes that have the route of each host.
    routes: BTreeMap<HostName, Arc<AppRoutes>>,
    /// The app's routes that close each host.
    closed: BTreeMap<HostName, Arc<AppRoutes>>,
    /// The routes of each app with names.
    names: BTreeMap<AppName, Arc<AppRoutes>>,
}

impl SharedRoutes {
    /// Shares the routes of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut shared = Self { head: plan.routing.clone(), ..Self::default() };
        for (app, routes) in &plan.routes {
            let share = |host: &HostName| (host.clone(), Arc::clone(routes));
            shared.routes.extend(routes.routes.keys().map(share));
            shared.closed.extend(routes.closed.keys().map(share));
            shared.names.extend(routes.names.iter().map(|_| (app.clone(), Arc::clone(routes))));
        }
        shared
    }

    /// The revision.
    #[must_use]
    pub fn revision(&self) -> Generation {
        self.head.revision
    }
}

impl SentPart for SharedRoutes {
    fn difference(&self, old: &Self, update: &mut Update) {
        items(update, "route", &old.routes, &self.routes, |routes, host| routes.routes.get(host));
        items(update, "closed", &old.closed, &self.closed, |routes, host| routes.closed.get(host));
        items(update, "names", &old.names, &self.names, |routes, _| routes.names.as_ref());
        let (before, after) = (&old.head, &self.head);
        difference(update, "tunnel", before.tunnels.machines(), after.tunnels.machines(), |new, _, _| to_value(new));
        single(update, "lost", &before.lost, &after.lost);
        single(update, "trusted_proxies", &before.trusted_proxies, &after.trusted_proxies);
    }
}

/// Adds the difference of the items in an app's routes. Routes that both maps share have equal items.
fn items<K: Ord + Display, V: PartialEq + Serialize>(
    update: &mut Update,
    section: &str,
    old: &BTreeMap<K, Arc<AppRoutes>>,
    new: &BTreeMap<K, Arc<AppRoutes>>,
    item: impl for<'a> Fn(&'a AppRoutes, &K) -> Option<&'a V>,
) {
    for (key, routes) in new {
        let before = old.get(key);
        if before.is_some_and(|before| Arc::ptr_eq(before, routes)) {
            continue;
        }
        let after = item(routes, key);
        if let Some(value) = after.filter(|_| after != before.and_then(|before| item(before, key))) {
            update.set.insert(format!("{section}/{key}"), to_value(value));
        }
    }
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    update.removed.extend(gone.map(|key| format!("{section}/{key}")));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use gantry_model::{ClosedReason, ClosedRoute};

    use super::*;

    /// The routes of an app with one host.
    fn routes(app: &str, revision: u64) -> (AppName, Arc<AppRoutes>) {
        let name = AppName::parse(app).expect("a name");
        let host = HostName::parse(&format!("{app}.example")).expect("a host");
        let closed = ClosedRoute { app: name.clone(), reason: ClosedReason::NoRelease };
        let revision = Generation(revision);
        (name, Arc::new(AppRoutes { revision, closed: [(host, closed)].into(), ..AppRoutes::default() }))
    }

    #[test]
    fn a_difference_looks_at_the_routes_of_changed_apps_alone() {
        let mut plan = Plan::default();
        for number in 0..1_000 {
            let (app, routes) = routes(&format!("app-{number}"), number + 1);
            plan.put_routes(app, routes);
        }
        let before = SharedRoutes::of(&plan);
        let (app, changed) = routes("app-7", 1_001);
        plan.put_routes(app, changed);
        let after = SharedRoutes::of(&plan);
        let (looks, mut update) = (Cell::new(0), Update::default());
        items(&mut update, "closed", &before.closed, &after.closed, |routes, host| {
            looks.set(looks.get() + 1);
            routes.closed.get(host)
        });
        assert_eq!(looks.get(), 2, "the app's routes before and after");
        assert_eq!((update.set.len(), update.removed.len()), (0, 0), "another revision alone is no change");
    }

    #[test]
    fn revisions_share_the_routes_of_each_app() {
        let mut plan = Plan::default();
        for (app, routes) in [routes("blog", 1), routes("shop", 2)] {
            plan.put_routes(app, routes);
        }
        let before = SharedRoutes::of(&plan);
        let (app, changed) = routes("shop", 3);
        plan.put_routes(app, changed);
        let after = SharedRoutes::of(&plan);
        let shared = before.closed.iter().filter(|(host, routes)| Arc::ptr_eq(routes, &after.closed[*host]));
        assert_eq!(shared.map(|(host, _)| host.as_str()).collect::<Vec<_>>(), ["blog.example"]);
    }
}
