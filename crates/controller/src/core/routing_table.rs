//! The routers' table, assembled from the routes of all apps when a router asks, and once per revision for all routers.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use gantry_model::{Generation, Plan, RoutingTable};

/// The JSON of the last table that a router asked for.
#[derive(Default)]
pub(super) struct RoutingTableCache(Mutex<Option<(Generation, Bytes)>>);

impl RoutingTableCache {
    /// Returns the JSON of a plan's routing table. A revision names one state of all routes.
    pub(super) fn of(&self, plan: &Plan) -> Result<Bytes, serde_json::Error> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = plan.routing.revision;
        if let Some((known, text)) = &*cached
            && *known == revision
        {
            return Ok(text.clone());
        }
        let text = Bytes::from(serde_json::to_vec(&RoutingTable::assemble(plan))?);
        // A request that saw an older view does not take the place of a newer table.
        if cached.as_ref().is_none_or(|(known, _)| *known < revision) {
            *cached = Some((revision, text.clone()));
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_model::{AppName, AppRoutes};

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
        let first = cache.of(&plan(3)).expect("a table");
        assert_eq!(cache.of(&plan(3)).expect("a table").as_ptr(), first.as_ptr(), "the same bytes");
        let generation = |bytes: &Bytes| serde_json::from_slice::<RoutingTable>(bytes).expect("a table").generation;
        let second = cache.of(&plan(4)).expect("a table");
        assert_eq!((generation(&first), generation(&second)), (Generation(3), Generation(4)));
        assert_eq!(generation(&cache.of(&plan(3)).expect("a table")), Generation(3), "an older view");
        assert_eq!(cache.of(&plan(4)).expect("a table").as_ptr(), second.as_ptr(), "the newer table stays");
    }
}
