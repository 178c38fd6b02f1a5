//! Route of a host name, and the choice of an instance.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use gantry_model::{AllocationId, AppName, RequestTimeouts, TrafficPolicy, TrustedProxies};

use crate::routes::admission::AdmissionGate;
use crate::routes::target::RouteTarget;

/// Route of a host name.
pub(crate) struct AppRoute {
    pub(crate) host: String,
    pub(crate) app: AppName,
    pub(crate) targets: Vec<Arc<RouteTarget>>,
    pub(crate) traffic: TrafficPolicy,
    pub(crate) timeouts: RequestTimeouts,
    /// Trusted proxies of the cluster and of the app.
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) gate: Arc<AdmissionGate>,
}

impl AppRoute {
    /// Chooses the less loaded of two random instances; none if every instance is unreachable or was tried.
    ///
    /// The load is the number of this router's own requests under way. Of two equally loaded instances, the one on this
    /// machine is chosen, because the way to another machine costs two more passages through a router. A busier
    /// instance of this machine is not preferred: its clients would wait longer than the tunnel takes.
    pub(crate) fn choose(&self, tried: &[AllocationId], now: Instant) -> Option<&Arc<RouteTarget>> {
        let untried = |target: &&Arc<RouteTarget>| target.is_up() && !tried.contains(&target.endpoint.allocation);
        let good = |target: &&Arc<RouteTarget>| target.circuit.is_closed(now) && untried(target);
        if let Some(target) = self.pick(&good, now).filter(|target| target.circuit.enter(now)) {
            return Some(target);
        }
        // An instance with broken responses is better than none; an unreachable instance is not.
        self.pick(&|target| target.circuit.is_reachable() && untried(target), now)
    }

    fn pick(&self, usable: &dyn Fn(&&Arc<RouteTarget>) -> bool, now: Instant) -> Option<&Arc<RouteTarget>> {
        let count = self.targets.iter().filter(usable).count();
        let nth = |n: usize| self.targets.iter().filter(usable).nth(n);
        if count < 2 {
            return nth(0);
        }
        let one = rand::random_range(0..count);
        let other = (one + rand::random_range(1..count)) % count;
        let (one, other) = (nth(one)?, nth(other)?);
        let load = |target: &Arc<RouteTarget>| (target.active.load(Ordering::Relaxed), target.is_elsewhere());
        let (less, more) = if load(other) < load(one) { (other, one) } else { (one, other) };
        let share = less.share(now) / more.share(now);
        Some(if share < 1.0 && rand::random::<f64>() > share { more } else { less })
    }
}
