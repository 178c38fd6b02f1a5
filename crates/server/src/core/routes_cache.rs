//! The routes of all apps as routers get them, brought together when a router needs them, and once per revision for all
//! routers.

use std::sync::{Arc, Mutex, PoisonError};

use gantry_control::SharedRoutes;
use gantry_model::Plan;

/// The last routes that a router needed.
#[derive(Default)]
pub(super) struct RoutesCache(Mutex<Option<Arc<SharedRoutes>>>);

impl RoutesCache {
    /// Returns a plan's routes. A revision names one state of all routes.
    pub(super) fn of(&self, plan: &Plan) -> Arc<SharedRoutes> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = plan.routing.revision;
        if let Some(routes) = cached.as_ref().filter(|routes| routes.revision() == revision) {
            return Arc::clone(routes);
        }
        let routes = Arc::new(SharedRoutes::of(plan));
        // A reader of an older view does not take the place of newer routes.
        if cached.as_ref().is_none_or(|known| known.revision() < revision) {
            *cached = Some(Arc::clone(&routes));
        }
        routes
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
    fn shares_each_revision_with_all_routers() {
        let cache = RoutesCache::default();
        let first = cache.of(&plan(3));
        assert!(Arc::ptr_eq(&cache.of(&plan(3)), &first), "the same routes");
        let second = cache.of(&plan(4));
        assert_eq!((first.revision(), second.revision()), (Generation(3), Generation(4)));
        assert_eq!(cache.of(&plan(3)).revision(), Generation(3), "an older view");
        assert!(Arc::ptr_eq(&cache.of(&plan(4)), &second), "the newer routes stay");
    }
}
