//! Sources of layers: tells each agent whether to fetch a layer from the servers or from another machine. The crate
//! `distribution` decides; this module carries reports and orders between the connections and the decider.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_control::layers::{LayerOrder, LayerOrders, LayerSource, LayersReport};
use gantry_control::version::SHARES_LAYERS;
use gantry_control::{ProtocolVersion, layers};
use gantry_distribution::{Distribution, LayerReport, WantedLayer};
use gantry_model::MachineName;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Server;
use crate::core::ClusterView;

/// Interval at which the server repeats its orders to a waiting machine. An agent without orders fetches from the servers.
const REPEAT: Duration = Duration::from_secs(5);

/// Poll interval for silent machines.
const EXPIRY: Duration = Duration::from_secs(1);

/// The decider, and the connections of the agents.
pub(crate) struct LayerSources {
    began: Instant,
    state: Mutex<SourcesState>,
}

#[derive(Default)]
struct SourcesState {
    distribution: Distribution,
    links: HashMap<MachineName, (u64, Arc<Notify>)>,
    /// Number of the last connection.
    last: u64,
    expired: Duration,
}

impl Default for LayerSources {
    fn default() -> Self {
        Self { began: Instant::now(), state: Mutex::default() }
    }
}

impl LayerSources {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, SourcesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourcesState {
    /// Wakes the connections of machines whose sources changed.
    fn wake(&self, changed: &BTreeSet<MachineName>) {
        for (_, notify) in changed.iter().filter_map(|machine| self.links.get(machine)) {
            notify.notify_one();
        }
    }
}

/// The layers' part of an agent's connection.
pub(crate) struct LayersLink {
    server: Arc<Server>,
    machine: MachineName,
    number: u64,
    changed: Arc<Notify>,
    /// Time of the next orders without a change; none while the machine wants no layer.
    repeat: Option<Instant>,
}

impl LayersLink {
    /// Begins with the orders for a machine; none for an agent that fetches from the servers alone.
    pub(crate) fn open(server: &Arc<Server>, machine: &MachineName, version: ProtocolVersion) -> Option<Self> {
        if version < SHARES_LAYERS {
            return None;
        }
        let changed = Arc::new(Notify::new());
        let mut state = server.layer_sources.lock();
        state.last += 1;
        let number = state.last;
        state.links.insert(machine.clone(), (number, Arc::clone(&changed)));
        drop(state);
        Some(Self { server: Arc::clone(server), machine: machine.clone(), number, changed, repeat: None })
    }

    /// Takes in a report of the agent.
    pub(crate) fn report(&mut self, report: LayersReport) {
        self.repeat = (!report.wants.is_empty()).then(|| Instant::now() + REPEAT);
        let sources = &self.server.layer_sources;
        let (mut state, now) = (sources.lock(), sources.now());
        let changed = state.distribution.report(&self.machine, read_report(report), now);
        state.wake(&changed);
        if self.repeat.is_some() {
            self.changed.notify_one();
        }
    }

    /// Takes note of a message of the agent, and counts machines as gone that have been silent.
    pub(crate) fn mark_alive(&self) {
        let sources = &self.server.layer_sources;
        let (mut state, now) = (sources.lock(), sources.now());
        let mut changed = state.distribution.mark_alive(&self.machine, now);
        if now.saturating_sub(state.expired) >= EXPIRY {
            state.expired = now;
            changed.extend(state.distribution.expire(now));
        }
        state.wake(&changed);
    }

    /// Waits for the next orders. A dropped call loses nothing.
    async fn next(&mut self) -> LayerOrders {
        match self.repeat {
            None => self.changed.notified().await,
            Some(at) => {
                let _ = tokio::time::timeout_at(at, self.changed.notified()).await;
            }
        }
        if self.repeat.is_some() {
            self.repeat = Some(Instant::now() + REPEAT);
        }
        self.orders(&self.server.core.view())
    }

    fn orders(&self, view: &ClusterView) -> LayerOrders {
        let sources = self.server.layer_sources.lock();
        let (grants, mut further_sources) =
            (sources.distribution.grants(&self.machine), sources.distribution.further_sources(&self.machine));
        drop(sources);
        let written = |source| match source {
            gantry_distribution::LayerSource::Server => LayerSource::Server,
            gantry_distribution::LayerSource::Machine(machine) => {
                let record = view.records.machines.get(&machine);
                let addresses = record.map(|record| record.addresses.clone()).unwrap_or_default();
                LayerSource::Machine { machine, addresses }
            }
        };
        let orders = grants.into_iter().map(|(digest, source)| {
            let further_sources = further_sources.remove(&digest).unwrap_or_default();
            let further_sources =
                further_sources.into_iter().map(|machine| written(gantry_distribution::LayerSource::Machine(machine)));
            LayerOrder { source: source.map(written), more: further_sources.collect(), digest }
        });
        LayerOrders { sources: orders.collect() }
    }
}

impl Drop for LayersLink {
    fn drop(&mut self) {
        let mut state = self.server.layer_sources.lock();
        // A newer connection of the machine goes on with its own report.
        if state.links.get(&self.machine).is_some_and(|(number, _)| *number == self.number) {
            state.links.remove(&self.machine);
            let changed = state.distribution.forget(&self.machine);
            state.wake(&changed);
        }
    }
}

/// Waits for the next orders of a connection; for ever without the layers' part.
pub(crate) async fn next(link: &mut Option<LayersLink>) -> LayerOrders {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

/// Translates a report of the control protocol.
fn read_report(report: LayersReport) -> LayerReport {
    let read = |source| match source {
        LayerSource::Server => Some(gantry_distribution::LayerSource::Server),
        LayerSource::Machine { machine, .. } => Some(gantry_distribution::LayerSource::Machine(machine)),
        LayerSource::Unknown => None,
    };
    let want =
        |layers::WantedLayer { digest, failed, from }| (digest, WantedLayer { failed, from: from.and_then(read) });
    LayerReport { has: report.has.into_iter().collect(), wants: report.wants.into_iter().map(want).collect() }
}
