//! The routers' table, assembled from the routes of all apps when a router needs it, and once per revision for all routers.

use std::sync::{Arc, Mutex, PoisonError};

use gantry_model::{Plan, RoutingTable};

/// The last table that a router needed.
#[derive(Default)]
pub(super) struct RoutingTableCache(Mutex<Option<Arc<RoutingTable>>>);

impl RoutingTableCache {
    /// Returns a plan's routing table. A revision names one state of all routes.
    pub(super) fn of(&self, plan: &Plan) -> Arc<RoutingTable> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = plan.routing.revision;
        if let Some(table) = cached.as_ref().filter(|table| table.generation == revision) {
            return Arc::clone(table);
        }
        let table = Arc::new(RoutingTable::assemble(plan));
        // A reader of an older view does not take the place of a newer table.
        if cached.as_ref().is_none_or(|known| known.generation < revision) {
            *cached = Some(Arc::clone(&table));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use gantry_model::{AppName, AppRoutes, Generation};

    use super::*;

    fn plan(revision: u64) -> Plan {
        let mut plan = Plan::default();
        let names = Some(Default::default());
        let routes = AppRoutes { revision: Generation(revision), names, ..AppRoutes::default() };
        plan.put_routes(AppName::parse("shop").expect("a name"), Arc::new(routes));
        plan
    }

    #[test]
    fn assembles_each_revision_once() {
        let cache = RoutingTableCache::default();
        let first = cache.of(&plan(3));
        assert!(Arc::ptr_eq(&cache.of(&plan(3)), &first), "the same table");
        let second = cache.of(&plan(4));
        assert_eq!((first.generation, second.generation), (Generation(3), Generation(4)));
        assert_eq!(cache.of(&plan(3)).generation, Generation(3), "an older view");
        assert!(Arc::ptr_eq(&cache.of(&plan(4)), &second), "the newer table stays");
    }
}
